"""The judgement of silence, of which only the time counts in which the judge ran."""

import pytest
from geosched.workers.host.liveness import (
    LONG_GAP_COUNTED_SECONDS,
    UNSEEN,
    Activity,
    HangJudge,
    JudgeClock,
    is_silent,
    look_seconds,
    patience_seconds,
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


def test_patience_doubles_with_each_failure_up_to_the_longest():
    patience = [patience_seconds(2.0, tries_failed=n, longest=600.0) for n in range(10)]
    assert patience == [2, 4, 8, 16, 32, 64, 128, 256, 512, 600]
    assert patience_seconds(2.0, tries_failed=10**6, longest=600.0) == 600


def judged(*looks: tuple[float, Activity | None]) -> list[bool]:
    """What is thought of a process at each look, the first of which is when it was asked."""
    (asked, first), *later = looks
    judge = HangJudge(asked, first, idle_seconds_max=2.0, cpu_seconds_max=10.0)
    return [judge.hangs(now, activity) for now, activity in later]


def asleep(switches: int = 5, cpu_seconds: float = 1.0) -> Activity:
    return Activity(switches, cpu_seconds, runnable=False)


def test_a_process_that_neither_runs_nor_could_run_hangs():
    assert judged((0, asleep()), (2.0, asleep()), (2.1, asleep())) == [False, True]


def test_a_process_that_ran_since_the_last_look_does_not_hang():
    looks = [(0, asleep(5)), (1, asleep(6)), (2.9, asleep(6)), (3.1, asleep(6))]
    assert judged(*looks) == [False, False, True]


def test_a_process_that_waits_for_a_processor_does_not_hang_however_long():
    starved = Activity(5, 1.0, runnable=True)
    hours = [(hour * 3600.0, starved) for hour in range(50)]
    assert not any(judged(*hours))


def test_a_process_that_only_burns_hangs_when_it_has_used_up_its_processor_time():
    used_by = {0: 0.0, 10: 5.0, 20: 10.0, 30: 10.1}
    looks = [(now, Activity(5, 100.0 + used, runnable=True)) for now, used in used_by.items()]
    assert judged(*looks) == [False, False, True]


def test_other_threads_of_a_process_do_not_speak_for_its_first():
    assert judged((0, asleep(cpu_seconds=1)), (2.1, asleep(cpu_seconds=2))) == [True]


def test_a_process_of_which_nothing_is_known_is_judged_by_its_silence():
    assert judged((0, None), (2.0, None), (2.1, None)) == [False, True]


def test_a_process_that_is_hidden_now_and_then_is_judged_by_what_was_seen():
    looks = [(0, None), (1.9, asleep(5)), (1.95, asleep(6)), (3.9, None), (4.1, None)]
    assert judged(*looks) == [False, False, False, True]


def test_a_process_that_nobody_can_look_at_is_not_judged():
    """However long: and what was not seen is neither its silence nor its processor time."""
    unseen = [(now, UNSEEN) for now in range(1, 100)]
    later = [(101.0, asleep()), (101.1, asleep())]
    assert judged((0, asleep()), *unseen, *later) == [False] * 100 + [True]
    assert judged((0, UNSEEN), (1, asleep(cpu_seconds=100)), (3.1, asleep(cpu_seconds=100))) == [
        False,
        True,
    ]
