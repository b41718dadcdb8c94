"""Formatting that several verbs share: clean text, times, spans, sizes, and one action.

Pure: the current time is an argument. Ids and details come from outside, so everything
that is shown passes `clean`, which lets no control character through.
"""

import itertools

from ..foreign_text import visible
from ..instants import SECOND_US, parse_instant
from ..messages.views import ActionView
from .table import Block

NOTHING = "-"
#: An instant that is further away is shown as a date, without its time.
NEAR_US = 180 * 86_400 * SECOND_US


def action_block(action: ActionView, now_us: int) -> Block:
    """Return a block with the fields of one action."""
    length = parse_instant(action.to_date) - parse_instant(action.from_date)
    pairs = [
        ("id", clean(action.id)),
        ("from", f"{full_time(action.from_date)}, {from_now(action.from_date, now_us)}"),
        ("to", f"{full_time(action.to_date)}, {from_now(action.to_date, now_us)}"),
        ("length", span(length / SECOND_US)),
        ("status", f"{action.execution_status or 'NULL'} ({clean(action.phase)})"),
        ("why", why(action.reason, action.detail)),
        ("wanted", _yes(action.wanted) + _unless_same(action)),
        ("type", clean(action.type)),
        ("apps", clean(", ".join(action.app_names)) or NOTHING),
        ("attempt", str(action.attempt)),
    ]
    script_says = action.run.status_text if action.run else ""
    if script_says:
        pairs.append(("script says", clean(script_says)))
    if action.run and action.run.rss_bytes is not None and action.run.cpu_seconds is not None:
        used = f"{size(action.run.rss_bytes)} of memory, {span(action.run.cpu_seconds)} of CPU"
        pairs.append(("script uses", used))
    return Block(tuple(pairs))


def size(count: int) -> str:
    """Format a count of bytes in the largest unit that fits: `4.3 MiB`."""
    value, unit = float(count), 0
    while round(value, 1) >= 1024 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_SIZES[unit]}" if unit else f"{count} B"


_SIZES = ("B", "KiB", "MiB", "GiB")


def clean(text: str) -> str:
    """Escape what could move a cursor, hide or reverse text, or end a line."""
    return visible(text)


def short_time(instant: str | None, now_us: int, *, seconds: bool = False) -> str:
    """Format as `11-23 08:00`, with seconds unless they are 0, or as a date when it is far."""
    if instant is None:
        return NOTHING
    if abs(parse_instant(instant) - now_us) > NEAR_US:
        return instant[:10]
    whole_minute = instant[17:19] == "00" and not seconds
    return f"{instant[5:10]} {instant[11:16] if whole_minute else instant[11:19]}"


def full_time(instant: str) -> str:
    return f"{instant[:10]} {instant[11:19]} UTC"


def span(seconds: float) -> str:
    """Format a duration in its two largest units: `3 m 20 s`."""
    left = max(0, round(seconds))
    for (unit, size), (lesser, lesser_size) in itertools.pairwise(_UNITS):
        if left >= size:
            count, rest = divmod(left, size)
            more = rest // lesser_size
            return f"{count} {unit} {more} {lesser}" if more else f"{count} {unit}"
    return f"{left} s"


_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def from_now(instant: str | None, now_us: int) -> str:
    """Format the distance to an instant: `in 3 m 20 s`, `12 s ago`."""
    if instant is None:
        return NOTHING
    seconds = (parse_instant(instant) - now_us) / SECOND_US
    return f"in {span(seconds)}" if seconds > 0 else f"{span(-seconds)} ago"


def why(reason: str | None, detail: str) -> str:
    """Format the reason of a status, with its detail if there is one."""
    if reason is None:
        return clean(detail) or NOTHING
    return with_detail(clean(reason), detail)


def with_detail(text: str, detail: str) -> str:
    return f"{text}: {clean(detail)}" if detail else text


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _unless_same(action: ActionView) -> str:
    """Add what the backend wants, where the daemon decides otherwise."""
    if action.should_be_executed == action.wanted:
        return ""
    return f" (shouldBeExecuted: {_yes(action.should_be_executed)})"
