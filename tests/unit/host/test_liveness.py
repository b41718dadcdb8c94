"""The judgement of silence, of which only the time counts in which the judge ran."""

import pytest
from geosched.workers.host.liveness import (
    LONG_GAP_COUNTED_SECONDS,
    JudgeClock,
    is_silent,
    look_seconds,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("turns", "judged"),
    [
        ((100.25, 100.5), 0.5),
        ((100.0, 100.0), 0.0),
        ((101.2,), 1.0),
        ((4000.0,), 0.25),
        ((4000.0, 4000.5), 0.75),
        ((90.0, 90.5), 0.5),
    ],
    ids=["turns", "no-time", "a-late-turn", "a-suspend", "a-suspend-and-a-turn", "backwards"],
)
def test_a_gap_between_two_turns_counts_as_at_most_a_second(turns, judged):
    clock = JudgeClock(100.0)
    for turn in turns:
        clock.tick(turn)
    assert clock.seconds == pytest.approx(judged)


@given(st.lists(st.floats(0, 1e9), max_size=50))
def test_the_judges_clock_never_runs_back_nor_ahead(readings):
    clock = JudgeClock(0.0)
    for count, reading in enumerate(readings, 1):
        before = clock.seconds
        clock.tick(reading)
        assert before <= clock.seconds <= count


def test_a_stopped_daemon_does_not_make_a_healthy_worker_silent():
    clock = JudgeClock(0.0)
    beat = clock.seconds
    clock.tick(3600.0)
    assert not is_silent(beat, clock.seconds, timeout_seconds=1.0)
    assert clock.seconds == LONG_GAP_COUNTED_SECONDS


@given(st.floats(1.0, 3600.0), st.floats(0.0, 1e6))
def test_no_pause_of_the_daemon_alone_makes_a_healthy_worker_silent(timeout_seconds, pause):
    """What beat meanwhile may be heard only in the turn after."""
    between_beats = min(5.0, timeout_seconds / 3)
    looks = look_seconds([timeout_seconds])
    clock = JudgeClock(0.0)
    beat = clock.seconds
    clock.tick(between_beats, looks)
    clock.tick(between_beats + pause, looks)
    assert not is_silent(beat, clock.seconds, timeout_seconds=timeout_seconds)


def test_runs_are_looked_at_once_a_second_or_three_times_within_a_short_time_out():
    assert look_seconds([]) == 1.0
    assert look_seconds([15.0, 3.0]) == 1.0
    assert look_seconds([15.0, 1.5]) == 0.5


def test_silence_counts_from_the_last_beat_and_only_beyond_the_time_out():
    assert not is_silent(10.0, 25.0, timeout_seconds=15.0)
    assert is_silent(10.0, 25.001, timeout_seconds=15.0)
