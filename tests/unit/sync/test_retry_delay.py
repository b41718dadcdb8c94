"""The delay before an exchange that failed is tried again."""

import math

import pytest
from geosched.ipc.messages.sync import RETRY_AFTER_SECONDS_MAX, RETRY_AFTER_SECONDS_MIN
from geosched.supervisor.sync.backoff import RETRY_CAP_SECONDS, retry_delay
from hypothesis import given
from hypothesis import strategies as st

COUNTS = st.integers(0, 2**63)
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
