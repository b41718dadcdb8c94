"""Dates that RFC 3339 allows and a `datetime` cannot hold as they are."""

import json
from typing import Any

import pytest
from geosched.ipc.actions import EntryError, parse_entry
from geosched.ipc.instants import LAST_US, parse_instant
from support.daemon import entry

FROM = "2027-01-01T00:00:00Z"


def parsed_to_us(to_date: str, **more: Any) -> int:
    fields = entry("a", 0, 60) | {"fromDate": FROM, "toDate": to_date} | more
    return parse_entry(json.dumps(fields).encode()).to_us


@pytest.mark.parametrize("digits", ["9999999", "999999999", "999999"])
def test_the_greatest_instant_of_net_and_java_is_cut_to_the_microsecond(digits: str):
    assert parsed_to_us(f"9999-12-31T23:59:59.{digits}Z") == LAST_US


@pytest.mark.parametrize(
    ("fraction", "microseconds"),
    [("1234567", "123456"), ("9999999", "999999"), ("1234564999", "123456"), ("0000009", "000000")],
)
def test_more_than_six_digits_of_a_second_are_cut_and_not_rounded(fraction: str, microseconds: str):
    """S19; a window that ends with the year does not end in the next one."""
    cut = parse_instant(f"2030-12-31T23:59:59.{microseconds}Z")
    assert parsed_to_us(f"2030-12-31T23:59:59.{fraction}Z") == cut
    assert parsed_to_us(f"2031-01-01T01:59:59.{fraction}+02:00") == cut


def test_long_fractions_elsewhere_in_an_entry_stay_as_they_are():
    fields = entry("a", 0, 60) | {"args": {"at": "12.34567891", "x": 0.12345678912}}
    assert json.loads(parse_entry(json.dumps(fields).encode()).args) == fields["args"]


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("2030-12-31T23:59:60Z", "2031-01-01T00:00:00Z"),
        ("2030-12-31T23:59:60.5Z", "2031-01-01T00:00:00.500000Z"),
        ("2031-01-01T01:59:60+02:00", "2031-01-01T00:00:00Z"),
    ],
)
def test_a_leap_second_is_the_instant_after_it(text: str, after: str):
    assert parsed_to_us(text) == parse_instant(after)


@pytest.mark.parametrize(
    "text", ["9999-12-31T23:59:60Z", "2030-12-31T23:60:00Z", "2030-12-31T24:59:61Z"]
)
def test_what_no_calendar_holds_is_set_aside_by_a_true_reason(text: str):
    with pytest.raises(EntryError, match="RFC3339") as caught:
        parsed_to_us(text)
    assert caught.value.id == "a"


def test_args_stay_as_they_are_when_a_date_is_mended():
    args = {"b": 1, "a": [1.5, "x"]}
    fields = entry("a", 0, 60) | {"fromDate": FROM, "toDate": "2030-12-31T23:59:60Z", "args": args}
    assert json.loads(parse_entry(json.dumps(fields).encode()).args) == args
