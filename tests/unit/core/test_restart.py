"""The restart policy: another run or none, and after which delay."""

import pytest
from geosched.ipc.instants import LAST_US, SECOND_US
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
from hypothesis import given
from hypothesis import strategies as st
from support.build import NOW_US

POLICY = RestartPolicy(RestartMode.ALWAYS, delay_seconds=1.0, delay_seconds_max=300.0)
COUNTS = st.integers(0, 2**63)


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
