"""The arithmetic of back-off, of retries, and of silence."""

import math
from collections import Counter

import pytest
from geosched.ipc.instants import LAST_US, SECOND_US
from geosched.ipc.messages.sync import RETRY_AFTER_SECONDS_MAX, RETRY_AFTER_SECONDS_MIN
from geosched.supervisor.core.model import Hold
from geosched.supervisor.core.restart import (
    JITTER,
    RestartMode,
    RestartPolicy,
    delay_after,
    failures_after,
    gives_up,
    remaining_seconds,
    wants_another,
)
from geosched.supervisor.periodic import POLL_GAP_MIN, poll_delay, poll_phase
from geosched.supervisor.sync.backoff import RETRY_CAP_SECONDS, retry_delay
from geosched.workers.host.liveness import (
    LONG_GAP_COUNTED_SECONDS,
    JudgeClock,
    is_silent,
    look_seconds,
)
from hypothesis import given
from hypothesis import strategies as st
from support.build import NOW_US

POLICY = RestartPolicy(RestartMode.ALWAYS, delay_seconds=1.0, delay_seconds_max=300.0)
COUNTS = st.integers(0, 2**63)


# --- restart.py -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "after_success", "after_failure"),
    [
        (RestartMode.NEVER, False, False),
        (RestartMode.ON_FAILURE, False, True),
        (RestartMode.ALWAYS, True, True),
    ],
)
def test_each_mode_restarts_what_its_name_says(mode, after_success, after_failure):
    policy = RestartPolicy(mode)
    assert wants_another(policy, ok=True) is after_success
    assert wants_another(policy, ok=False) is after_failure


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0), (9, 256.0), (10, 300.0), (10**18, 300.0)],
)
def test_the_delay_doubles_up_to_its_cap_less_a_little_by_chance(failures, seconds):
    delays = {delay_after(POLICY, failures, run_id=f"run-{n}") for n in range(100)}
    assert len(delays) == 100
    assert seconds * (1 - JITTER) < min(delays) < max(delays) <= seconds


def test_the_chance_in_a_delay_is_the_same_whenever_it_is_worked_out():
    assert delay_after(POLICY, 5, run_id="a-5") == delay_after(POLICY, 5, run_id="a-5")


@given(COUNTS, st.floats(0.1, 3600), st.floats(0.1, 86_400), st.text())
def test_no_number_of_failures_overflows_or_exceeds_the_cap(failures, delay, cap, run_id):
    policy = RestartPolicy(RestartMode.ALWAYS, delay, cap)
    seconds = delay_after(policy, failures, run_id=run_id)
    assert min(delay, cap) * (1 - JITTER) <= seconds <= cap


@given(COUNTS)
def test_one_more_failure_never_waits_less(failures):
    one, more = (delay_after(POLICY, count, run_id="a") for count in (failures, failures + 1))
    assert one <= more


@pytest.mark.parametrize(
    ("restarts_max", "failures", "given_up"),
    [(0, 10**9, False), (1, 1, False), (1, 2, True), (3, 3, False), (3, 4, True)],
)
def test_a_policy_gives_up_after_its_restarts_in_a_row(restarts_max, failures, given_up):
    assert gives_up(RestartPolicy(restarts_max=restarts_max), failures) is given_up


@pytest.mark.parametrize(
    ("ran_seconds", "counted"), [(0.0, 8), (299.9, 8), (300.0, 1), (1e9, 1), (-5.0, 8)]
)
def test_a_run_as_long_as_the_longest_delay_begins_the_doubling_anew(ran_seconds, counted):
    assert failures_after(POLICY, 7, ran_seconds=ran_seconds) == counted


@pytest.mark.parametrize(
    ("seconds_later", "remaining"),
    [(0, 60.0), (10, 50.0), (60, 0.0), (61, 0.0), (10**9, 0.0), (-1, 60.0), (-(10**9), 60.0)],
    ids=["at-once", "soon", "over", "later", "years-later", "stepped-back", "stepped-far-back"],
)
def test_what_is_left_of_a_hold_is_bounded_on_both_sides(seconds_later, remaining):
    hold = Hold(NOW_US, 60.0)
    assert remaining_seconds(hold, NOW_US + seconds_later * SECOND_US) == remaining


@given(st.integers(0, LAST_US), st.floats(0, 86_400), st.integers(0, LAST_US))
def test_no_clock_makes_a_hold_longer_than_it_was(since_us, delay, now_us):
    assert 0.0 <= remaining_seconds(Hold(since_us, delay), now_us) <= delay


# --- retry.py ---------------------------------------------------------------------------

CHANCES = st.floats(0, 1, exclude_max=True)


@given(COUNTS, CHANCES)
def test_a_retry_is_neither_at_once_nor_beyond_the_cap(failures, chance):
    assert 0.1 <= retry_delay(failures, chance) <= RETRY_CAP_SECONDS


@given(COUNTS, CHANCES, st.floats(min_value=0, exclude_min=True, allow_nan=False))
def test_what_the_backend_asks_for_is_honoured_within_bounds(failures, chance, asked):
    """And never before: up to half as much later, because a date is the same for all."""
    seconds = retry_delay(failures, chance, retry_after_seconds=asked)
    least = min(max(asked, RETRY_AFTER_SECONDS_MIN), RETRY_AFTER_SECONDS_MAX)
    assert least <= seconds <= min(1.5 * least, RETRY_AFTER_SECONDS_MAX)


@pytest.mark.parametrize(
    ("failures", "chance", "seconds"),
    [(1, 0.5, 2.0), (2, 0.5, 4.0), (3, 0.25, 4.0), (99, 0.5, 450.0), (1, 0.0, 0.1)],
)
def test_the_jitter_is_over_the_whole_of_a_doubling_delay(failures, chance, seconds):
    assert retry_delay(failures, chance) == seconds


@pytest.mark.parametrize("asked", [0.0, -1.0, -math.inf, math.nan])
def test_a_wrong_header_is_as_if_nothing_was_asked(asked):
    assert retry_delay(1, 0.5, retry_after_seconds=asked) == retry_delay(1, 0.5)


INTERVALS = st.floats(0.2, 86_400)


@given(st.text(), INTERVALS)
def test_a_device_polls_at_the_same_part_of_every_interval(device, interval):
    phase = poll_phase(device, interval)
    assert 0 <= phase < interval
    assert poll_phase(device, interval) == phase
    assert math.isclose(poll_phase(device, 2 * interval), 2 * phase)


@given(st.floats(0, 1e8), st.text(), INTERVALS)
def test_the_next_poll_is_at_the_phase_and_about_an_interval_away_at_most(boot, device, interval):
    phase = poll_phase(device, interval)
    delay = poll_delay(boot, phase, interval)
    assert POLL_GAP_MIN * interval <= delay <= (1 + POLL_GAP_MIN) * interval
    beside = (boot + delay - phase) % interval
    assert min(beside, interval - beside) < 1e-6


def test_a_fleet_that_booted_at_once_polls_evenly():
    """Ten thousand devices, sixty seconds: each has about its share of them."""
    seconds = Counter(int(poll_phase(f"{n:016x}", 60.0)) for n in range(10_000))
    assert len(seconds) == 60
    share = 10_000 / 60
    assert all(abs(count - share) < 5 * math.sqrt(share) for count in seconds.values())


# --- liveness.py ------------------------------------------------------------------------


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
