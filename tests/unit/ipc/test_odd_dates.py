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
