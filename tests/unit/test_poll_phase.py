"""The phase at which a device polls: always the same, and even over a fleet."""

import math
from collections import Counter

from geosched.supervisor.periodic import POLL_GAP_MIN, poll_delay, poll_phase
from hypothesis import given
from hypothesis import strategies as st

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
