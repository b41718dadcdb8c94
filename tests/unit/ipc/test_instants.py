"""Instants of the wall clock, and what a step of it makes of them."""

import pytest
from geosched.ipc.instants import (
    FIRST_US,
    LAST_US,
    SECOND_US,
    format_instant,
    parse_instant,
    restated_us,
)

BEGUN_US = 1_800_000_000 * SECOND_US
BEGUN_BOOT_SECONDS = 500.0
TEN_YEARS_US = 3652 * 86_400 * SECOND_US


@pytest.mark.parametrize(
    ("stepped_us", "restated"),
    [
        (0, BEGUN_US),
        (-400_000, BEGUN_US),  # that is slewed, not set
        (3600 * SECOND_US, BEGUN_US),  # what was before the end of a window still is
        (-SECOND_US, BEGUN_US - SECOND_US),
        (-TEN_YEARS_US, BEGUN_US - TEN_YEARS_US),
    ],
)
def test_an_instant_is_restated_where_the_clock_was_set_back(stepped_us: int, restated: int):
    now_us = BEGUN_US + 90 * SECOND_US + stepped_us
    assert (
        restated_us(
            BEGUN_US, BEGUN_BOOT_SECONDS, now_us=now_us, now_boot_seconds=BEGUN_BOOT_SECONDS + 90
        )
        == restated
    )


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+00:01"])
def test_an_instant_beyond_those_of_a_datetime_is_no_instant(text: str):
    with pytest.raises(ValueError, match="its year is out of range"):
        parse_instant(text)


@pytest.mark.parametrize("instant_us", [FIRST_US, LAST_US])
def test_the_first_and_the_last_instant_can_be_shown(instant_us: int):
    text = format_instant(instant_us)
    assert abs(parse_instant(text) - instant_us) < 1000
