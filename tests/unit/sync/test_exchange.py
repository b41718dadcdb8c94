"""The time of an exchange: a synchroniser that is late is killed where it hangs, and no other."""

from pathlib import Path

import pytest
from geosched.ipc.messages.sync import BackendAddress, ErrorKind
from geosched.supervisor.core.model import Instant
from geosched.supervisor.sync.exchange import (
    EXCHANGE_LATE_SECONDS_MAX,
    EXCHANGE_MARGIN_SECONDS,
    READERS_PER_EXCHANGE_MAX,
    Failed,
    PullDone,
)
from geosched.workers.host.liveness import Activity
from support.exchange_side import STARVED, TIMEOUT_SECONDS, Side


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path)


def given_up_after(side: Side) -> float:
    """How long an exchange lasts whose synchroniser hangs."""
    side.pull()
    if side.forking[-1] not in side._living:
        side.forked()
    begun = side.seconds
    outcome = side.wait(1000)
    assert isinstance(outcome, Failed)
    assert outcome.kind is ErrorKind.TIMEOUT
    return side.seconds - begun


def test_a_synchroniser_that_hangs_is_killed_when_the_time_is_over(side: Side) -> None:
    took = given_up_after(side)
    assert took == pytest.approx(TIMEOUT_SECONDS + EXCHANGE_MARGIN_SECONDS, abs=0.1)
    assert side.killed == side.forking


def test_a_synchroniser_that_waits_for_a_processor_has_longer(side: Side) -> None:
    side.does = STARVED
    side.pull()
    side.forked()
    assert side.wait(10 * TIMEOUT_SECONDS) is None
    side.answer()
    assert side.wait(1) == PullDone(None)
    assert side.killed == []


def test_nothing_is_late_for_ever(side: Side) -> None:
    side.does = STARVED
    took = given_up_after(side)
    assert took == pytest.approx(TIMEOUT_SECONDS + EXCHANGE_LATE_SECONDS_MAX, abs=2)


def test_a_synchroniser_that_burns_late_is_killed(side: Side) -> None:
    side.does = STARVED
    side.pull()
    side.forked()
    assert side.wait(TIMEOUT_SECONDS + 1) is None
    side.does = Activity(7, 1.1 + EXCHANGE_MARGIN_SECONDS, runnable=True)
    assert isinstance(side.wait(2), Failed)
    assert side.killed


def test_each_that_is_killed_gives_the_next_one_twice_as_long_until_one_answers(
    side: Side,
) -> None:
    late = [given_up_after(side) - TIMEOUT_SECONDS for _ in range(4)]
    assert late == pytest.approx([EXCHANGE_MARGIN_SECONDS * 2**n for n in range(4)], rel=0.05)
    side.pull()
    side.forked()
    side.wait(1)
    side.answer()
    assert side.wait(1) == PullDone(None)
    assert given_up_after(side) - TIMEOUT_SECONDS < 1.1 * EXCHANGE_MARGIN_SECONDS


def test_the_time_counts_from_the_fork_which_is_not_the_backends_to_answer_for(
    side: Side,
) -> None:
    side.pull()
    assert side.wait(600) is None
    side.forked()
    assert side.wait(TIMEOUT_SECONDS) is None
    side.answer()
    assert side.wait(1) == PullDone(None)
    assert len(side.forking) == 1


@pytest.mark.parametrize("how", ["cannot fork", "ends at once"])
def test_a_synchroniser_that_cannot_be_had_ends_the_exchange_with_the_reason(
    side: Side, how: str
) -> None:
    side.pull()
    outcome = None
    for _ in range(READERS_PER_EXCHANGE_MAX):
        assert outcome is None
        if how == "cannot fork":
            side.not_forked("cannot fork: no memory")
        else:
            side.ends_at_once()
        outcome = side.wait(0)
    assert isinstance(outcome, Failed)
    assert outcome.kind is ErrorKind.LOCAL
    assert ("cannot fork: no memory" if how == "cannot fork" else "ended") in outcome.detail
    assert not side.runner.may(pull=True, now=side.now)
    assert len(side.forking) == READERS_PER_EXCHANGE_MAX


# --- the files of a backend ----------------------------------------------------------------


def test_each_synchroniser_has_the_files_of_the_settings_that_it_was_forked_for(side: Side) -> None:
    first = side.runner.address
    side.pull()
    assert side.forked_for == [first]
    side.forked()
    side.wait(0)
    side.answer()
    assert side.wait(1) == PullDone(None)
    side.pull()
    side.wait(0)
    side.answer()
    assert side.wait(1) == PullDone(None)
    assert side.forked_for == [first], "the same settings need no other"
    side.runner.address = BackendAddress(kind="http", token_file="/another")
    side.pull()
    assert side.killed == side.forking[:1]
    assert side.forked_for == [first, side.runner.address]


def test_settings_that_change_meanwhile_are_not_those_of_the_exchange(side: Side) -> None:
    """The token of one server must not be sent to another."""
    first = side.runner.address
    side.pull()
    side.runner.address = BackendAddress(kind="http", url="http://new", token_file="/another")
    side.ends_at_once()
    side.wait(0)
    assert side.forked_for == [first, first]


def test_a_clock_that_comes_to_be_believed_costs_no_synchroniser(side: Side) -> None:
    for believed in (False, True):
        at = Instant(0, side.seconds, believed=believed)
        side.runner.pull(at, etag="known", digest="")
        if not believed:
            side.forked()
        side.wait(0)
        side.answer()
        side.wait(1)
    assert len(side.forking) == 1
