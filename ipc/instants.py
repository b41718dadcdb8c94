"""Instants on the wall clock: microseconds since 1970 UTC inside, RFC 3339 text outside.

An integer compares and sorts as time does, fits the database's index as it is, and
cannot lack a time zone. Durations are seconds (`float`) and never pass through here.
"""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

SECOND_US = 1_000_000
#: The last instant a `datetime` can name; an offset can put a valid text beyond it.
LAST_US = (datetime.max.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND


def to_us(instant: datetime) -> int:
    """Microseconds since 1970 UTC of an aware `datetime`; negative before 1970."""
    return (instant - EPOCH) // _MICROSECOND


def to_datetime(instant_us: int) -> datetime:
    return EPOCH + instant_us * _MICROSECOND


def format_instant(instant_us: int) -> str:
    """`YYYY-MM-DDTHH:MM:SS.mmmZ`, cut (not rounded) to milliseconds."""
    moment = to_datetime(instant_us)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def format_optional(instant_us: int | None) -> str | None:
    return None if instant_us is None else format_instant(instant_us)


def parse_instant(text: str) -> int:
    """The instant that an RFC 3339 text with a zone names. Raises `ValueError`."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"cannot read the instant {text!r}: it has no time zone")
    return to_us(moment)
