"""Instants of the wall clock: microseconds since 1970 UTC inside, RFC 3339 text outside.

An integer sorts as time does, fits the index of the database as it is, and cannot lack
a time zone. Durations are seconds (`float`), and not converted here.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeAlias

import msgspec

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

SECOND_US = 1_000_000
#: A wall clock that moves by this much against the others was stepped. Reading two clocks is
#: never exact, and slewing is no step (fact P20: noise < 25 µs).
STEP_SECONDS_MIN = 0.5
#: The first and the last instant of a `datetime`; with its offset, a valid text can lie beyond.
FIRST_US = (datetime.min.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
LAST_US = (datetime.max.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
#: An instant that was received or stored: any that can be shown.
InstantUs: TypeAlias = Annotated[int, msgspec.Meta(ge=FIRST_US, le=LAST_US)]


def to_us(instant: datetime) -> int:
    """Convert an aware `datetime` to microseconds since 1970 UTC; negative before 1970."""
    return (instant - EPOCH) // _MICROSECOND


def to_datetime(instant_us: int) -> datetime:
    """Convert microseconds since 1970 UTC to an aware `datetime`."""
    return EPOCH + instant_us * _MICROSECOND


def format_instant(instant_us: int) -> str:
    """Format as `YYYY-MM-DDTHH:MM:SS.mmmZ`, cut (not rounded) to milliseconds."""
    moment = to_datetime(instant_us).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='milliseconds')}Z"


def format_optional(instant_us: int | None) -> str | None:
    """Format as `format_instant` does; None stays None."""
    return None if instant_us is None else format_instant(instant_us)


def restated_us(at_us: int, at_boot_seconds: float, *, now_us: int, now_boot_seconds: float) -> int:
    """Return the instant that the wall clock read as `at_us`; as it would read it now, where it was
    set back since: else what was there before a window's end could seem to come after it."""
    stepped_us = (now_us - at_us) - round((now_boot_seconds - at_boot_seconds) * SECOND_US)
    return at_us + stepped_us if stepped_us <= -STEP_SECONDS_MIN * SECOND_US else at_us


def parse_instant(text: str) -> int:
    """Parse an RFC 3339 text with a time zone. Raises `ValueError`."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"cannot read the instant {text!r}: it has no time zone")
    instant_us = to_us(moment)
    if not FIRST_US <= instant_us <= LAST_US:
        raise ValueError(f"cannot read the instant {text!r}: its year is out of range")
    return instant_us
