"""Actions and their statuses, and the parser for actions from a backend.

`parse_entry` is the only way an action enters the system from outside: it checks every
type, length and character (INTERFACE, "Backend over plain HTTP"; SPEC S20). It does not
depend on the kind of backend, and decides nothing about statuses.
"""

import enum
import re
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeAlias

import msgspec

from .decoding import DECODE_ERRORS
from .instants import LAST_US, InstantUs, to_us

ID_CHARS_MAX = 200
APP_NAMES_MAX = 1000
APP_NAME_CHARS_MAX = 255
ARGS_BYTES_MAX = 16 * 1024
#: Of canonical JSON: a number such as 1e15 is written with four times as many digits.
ARGS_CHARS_MAX = 4 * ARGS_BYTES_MAX
DEFAULT_TYPE = "default"

#: C0, DEL and C1, which could move a terminal's cursor or end a line in a log.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


ActionId: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_CHARS_MAX)]
_AppName: TypeAlias = Annotated[str, msgspec.Meta(max_length=APP_NAME_CHARS_MAX)]
_TYPE = r"^[A-Za-z0-9_.-]{1,64}\Z"
_is_type = re.compile(_TYPE).match


class ExecutionStatus(enum.StrEnum):
    """The status of an action's execution. In JSON `NULL` is `null`."""

    NULL = "NULL"  # not started: not yet, or again after a restart of the daemon
    STARTED = "STARTED"  # it has a run, or waits between two attempts
    WONT_START = "WONT_START"  # it never ran, and never will
    WONT_FINISH = "WONT_FINISH"  # it ran, but not to its end
    FINISHED = "FINISHED"  # it ran for its whole window, or its script exited with 0
    FAILED = "FAILED"  # its script could not be started, failed, or was lost

    @property
    def terminal(self) -> bool:
        """A terminal status never changes again."""
        return self not in (ExecutionStatus.NULL, ExecutionStatus.STARTED)

    @property
    def json(self) -> str | None:
        """The status in JSON."""
        return None if self is ExecutionStatus.NULL else self.value


class Action(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One window of time and the work to do in it, as the backend sent it.

    `from_us` and `to_us` are microseconds since 1970 UTC. `args` is canonical JSON text
    (keys sorted), or "" where the backend sent none. What bounds of single fields cannot say is
    in `unsound`.
    """

    id: ActionId
    from_us: InstantUs
    to_us: InstantUs
    should_be_executed: bool
    app_names: Annotated[tuple[_AppName, ...], msgspec.Meta(max_length=APP_NAMES_MAX)] = ()
    type: Annotated[str, msgspec.Meta(max_length=64)] = DEFAULT_TYPE
    args: Annotated[str, msgspec.Meta(max_length=ARGS_CHARS_MAX)] = ""

    def same_work(self, other: "Action") -> bool:
        """A run of `other` would do the same as a run of this action (SPEC S15)."""
        return (
            self.type == other.type
            and self.args == other.args
            and set(self.app_names) == set(other.app_names)
        )


class EntryError(ValueError):
    """An entry of a snapshot that cannot be used. `id` is None where it cannot be read either."""

    def __init__(self, action_id: str | None, reason: str) -> None:
        super().__init__(reason)
        self.id = action_id
        self.reason = reason


_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class _IdOnly(msgspec.Struct):
    id: ActionId


class _Entry(msgspec.Struct, rename="camel"):
    id: ActionId
    from_date: _Moment
    to_date: _Moment
    should_be_executed: bool
    app_names: Annotated[list[_AppName], msgspec.Meta(max_length=APP_NAMES_MAX)]
    #: None means absent: superjson writes null for undefined.
    type: Annotated[str, msgspec.Meta(pattern=_TYPE)] | None = None
    args: msgspec.Raw = msgspec.Raw()


_DATES = ("fromDate", "toDate")
_LONG_FRACTION = re.compile(r"(\.\d{6})\d+")
_MORE_DIGITS = re.compile(rb"\.[0-9]{7}")
_LEAP_SECOND = re.compile(r"(?<=:[0-5]\d):60(?=[.Zz+-])")
_decode_entry = msgspec.json.Decoder(_Entry).decode
_decode_id = msgspec.json.Decoder(_IdOnly).decode


def parse_entry(raw: bytes | memoryview | msgspec.Raw) -> Action:
    """Parse one JSON object of a snapshot.

    Unknown fields are ignored, `executionStatus` among them: only the daemon sets that.
    Raises `EntryError`, whose reason names the field and its fault.
    """
    try:
        entry = _decoded(raw)
        _refuse_control_characters(entry)
        args = _canonical_args(entry.args)
    except DECODE_ERRORS as error:
        reason = str(error) or "nested too deep"
        raise EntryError(_readable_id(raw), f"cannot use the entry: {reason}") from None
    from_us, to_us_ = to_us(entry.from_date), to_us(entry.to_date)
    if from_us < 0:
        raise EntryError(entry.id, "cannot use the entry: fromDate is before 1970")
    if to_us_ > LAST_US:
        raise EntryError(entry.id, "cannot use the entry: toDate is after the year 9999")
    if to_us_ <= from_us:
        raise EntryError(entry.id, "cannot use the entry: toDate is not after fromDate")
    return Action(
        entry.id,
        from_us,
        to_us_,
        entry.should_be_executed,
        tuple(entry.app_names),
        entry.type or DEFAULT_TYPE,
        args,
    )


def _decoded(raw: bytes | memoryview | msgspec.Raw) -> _Entry:
    try:
        entry = _decode_entry(raw)
    except msgspec.ValidationError as error:
        mended = _with_plain_dates(raw)
        if mended is None:
            raise error from None
        return _decode_entry(mended)
    if _MORE_DIGITS.search(raw) is None:
        return entry
    mended = _with_plain_dates(raw)  # else they are rounded (fact B9)
    return entry if mended is None else _decode_entry(mended)


def _with_plain_dates(raw: bytes | memoryview | msgspec.Raw) -> bytes | None:
    """Return an entry whose dates were rewritten by `_plain_date`; None where none needs it."""
    fields = msgspec.json.decode(raw)
    if not isinstance(fields, dict):
        return None
    plain = {name: _plain_date(fields[name]) for name in _DATES if name in fields}
    if all(plain[name] == fields[name] for name in plain):
        return None
    return msgspec.json.encode(fields | plain)


def _plain_date(text: Any) -> Any:
    """Return an RFC 3339 text as a `datetime` can hold it: cut to microseconds, and a leap second
    as the instant after it."""
    if not isinstance(text, str):
        return text
    text = _LONG_FRACTION.sub(r"\1", text)
    if not _LEAP_SECOND.search(text):
        return text
    try:
        before = datetime.fromisoformat(_LEAP_SECOND.sub(":59", text))
        return (before + timedelta(seconds=1)).isoformat()
    except (ValueError, OverflowError):
        return text


def _readable_id(raw: bytes | memoryview | msgspec.Raw) -> str | None:
    try:
        action_id = _decode_id(raw).id
    except DECODE_ERRORS:
        return None
    return None if _CONTROL.search(action_id) else action_id


def _refuse_control_characters(entry: _Entry) -> None:
    if _CONTROL.search(entry.id):
        raise ValueError("id has a control character or a lone surrogate")
    if any(_CONTROL.search(name) for name in entry.app_names):
        raise ValueError("appNames has a control character or a lone surrogate")


def _canonical_args(raw: msgspec.Raw) -> str:
    """Encode `args` anew with sorted keys, so that equal values are equal texts."""
    text = bytes(raw)
    if not text or text == b"null":
        return ""
    if len(text) > ARGS_BYTES_MAX:
        raise ValueError(f"args is longer than {ARGS_BYTES_MAX} bytes")
    return _canonical(text)


def _canonical(text: bytes | str) -> str:
    value = msgspec.json.decode(text)
    if any(_CONTROL.search(part) for part in _strings(value)):
        raise ValueError("args has a control character or a lone surrogate")
    return msgspec.json.encode(value, order="deterministic").decode()


def unsound(action: Action) -> str:
    """Say why `parse_entry` cannot have returned an action whose fields are within their bounds,
    where a process says so that may have been taken over; "" for one that it can."""
    if not 0 <= action.from_us < action.to_us:
        return "toDate is not after fromDate"
    if _CONTROL.search("".join((action.id, *action.app_names))):
        return "a control character"
    if action.type != DEFAULT_TYPE and not _is_type(action.type):
        return "a type that is no word"
    if not action.args:
        return ""
    try:
        canonical = _canonical(action.args) == action.args != "null"
    except DECODE_ERRORS:
        canonical = False
    return "" if canonical else "args is no canonical JSON"


def _strings(value: Any) -> list[str]:
    """Return every string in a JSON value, keys included."""
    found: list[str] = []
    rest = [value]
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, list):
            rest.extend(part)
        elif isinstance(part, dict):
            found.extend(part)
            rest.extend(part.values())
    return found
