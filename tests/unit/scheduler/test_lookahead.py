"""How far ahead of an edge a turn decides, and how many workers are armed when."""

import pytest
from geosched.ipc.instants import SECOND_US
from geosched.supervisor.core.model import Instant
from geosched.supervisor.scheduler.lookahead import (
    ARM_SECONDS_PER_WORKER,
    LEAD_SECONDS_PER_START,
    decided_for,
    prepare_seconds,
    to_arm,
)

NOW_US = 1_800_000_000 * SECOND_US
NOW = Instant(NOW_US, 1000.0, 2000.0)
LEAD_SECONDS = 0.02
MILLISECOND_US = 1000


def ahead(milliseconds: float) -> Instant:
    return NOW.at(NOW_US + round(milliseconds * MILLISECOND_US))


def test_all_clocks_of_an_instant_ahead_are_ahead_by_the_same():
    assert ahead(250) == Instant(NOW_US + 250_000, 1000.25, 2000.25, ahead_us=250_000)


@pytest.mark.parametrize(
    ("reached", "edge_us", "for_"),
    [
        (None, None, NOW),
        (None, NOW_US - 1, NOW),  # it is overdue: now is as good
        (None, NOW_US + 20 * MILLISECOND_US, ahead(20)),
        (None, NOW_US + 21 * MILLISECOND_US, NOW),  # there is time
        (ahead(-5), None, NOW),
        (ahead(5), None, ahead(5)),  # not behind what was decided
        (ahead(5), NOW_US + 5 * MILLISECOND_US, ahead(5)),
        (ahead(5), NOW_US + 9 * MILLISECOND_US, ahead(9)),
    ],
)
def test_a_turn_decides_for_the_edge_that_is_as_good_as_there(
    reached: Instant | None, edge_us: int | None, for_: Instant
):
    assert decided_for(NOW, reached, edge_us, lead_seconds=LEAD_SECONDS) == for_


def test_no_edge_is_as_good_as_there_for_a_clock_that_is_not_trusted():
    untrusted = Instant(NOW_US, 1000.0, 2000.0, trusted=False)
    assert decided_for(untrusted, None, NOW_US + 1, lead_seconds=LEAD_SECONDS) == untrusted


def test_after_a_sleep_of_the_host_it_is_now():
    woken = Instant(NOW_US + 60 * SECOND_US, 1000.001, 2060.001)
    assert decided_for(woken, ahead(5), None, lead_seconds=LEAD_SECONDS) == woken


@pytest.mark.parametrize(
    ("starts_ms", "seconds"),
    [
        ([], 0.0),
        ([0], LEAD_SECONDS_PER_START),
        ([0] * 50, 50 * LEAD_SECONDS_PER_START),
        ([0, *[20] * 50], 51 * LEAD_SECONDS_PER_START - 0.02),  # a crowd behind a single one
        ([0, *[20_000] * 50], LEAD_SECONDS_PER_START),  # there is time in between
        ([20] * 5, 0.0),  # the edge is that of an end, and there is time after it
    ],
)
def test_an_edge_is_turned_to_early_enough_for_what_starts_soon_after_it(
    starts_ms: list[int], seconds: float
):
    starts_us = [NOW_US + start_ms * MILLISECOND_US for start_ms in starts_ms]
    assert prepare_seconds(starts_us, NOW_US) == pytest.approx(seconds)


def test_workers_are_armed_the_earlier_the_more_of_them_are_needed():
    edge_us = NOW_US + 2 * SECOND_US
    each_us = round(ARM_SECONDS_PER_WORKER * SECOND_US)
    starts = [edge_us] * 4
    assert to_arm(starts, NOW_US, ahead_seconds=2.0) == (4, None)
    assert to_arm(starts, NOW_US - each_us, ahead_seconds=2.0) == (3, NOW_US)
    assert to_arm(starts, NOW_US - 3 * each_us, ahead_seconds=2.0) == (1, NOW_US - 2 * each_us)
    assert to_arm(starts, NOW_US - 9 * each_us, ahead_seconds=2.0) == (0, NOW_US - 3 * each_us)


def test_with_nothing_near_nothing_is_armed():
    assert to_arm([], NOW_US, ahead_seconds=2.0) == (0, None)
