"""Records of the log as lines: of text, or of JSON, one object a line.

All processes of the daemon log by `set_up`, so that here, once, foreign text in a record is made
visible and bounded: ids, texts of scripts, answers of backends, requests of strangers, names in
/proc. Whatever they hold, a line that begins with an instant, or with a brace, is a record of ours.
"""

import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from ...ipc.foreign_text import visible, visible_json
from ...ipc.instants import format_instant

LEVELS = ("debug", "info", "warning", "error")
STYLES = ("text", "json")

#: Of a message, and of every other text of a record; what is longer is cut.
MESSAGE_BYTES_MAX = 4096
FIELD_BYTES_MAX = 1024
#: Of the trace of an exception the last lines, of so many bytes each.
TRACE_LINES_MAX = 40
#: Before each line of a trace: no text can look like a record.
TRACE_INDENT = "    "
_CUT = " [cut]"
#: The most that a character takes as an escape of JSON, of which there are two beyond U+FFFF.
_SHOWN_BYTES_MAX = 12

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}

log = logging.getLogger(__name__)


def set_up(level: str, style: str, handler: logging.Handler) -> None:
    """Log from `level` (one of `LEVELS`) on, by `handler`; `style` is one of `STYLES`."""
    handler.setFormatter(JsonLines() if style == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def pass_on(handler: logging.Handler) -> None:
    """Give all records of this process to `handler`, which passes them on to one that logs."""
    logging.basicConfig(level=logging.getLogger().level, handlers=[handler], force=True)


def log_uncaught() -> None:
    """Log what ends this process or a thread of it, or is raised where nobody can catch it: the
    interpreter would write it to standard error as it is."""

    def uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        log.critical("Uncaught", exc_info=(kind, error, trace), extra={"event": "crash"})

    def uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
        if given.exc_value is not None:
            uncaught(given.exc_type, given.exc_value, given.exc_traceback)

    def unraisable(given: "sys.UnraisableHookArgs") -> None:
        if given.exc_value is not None:
            uncaught(given.exc_type, given.exc_value, given.exc_traceback)

    sys.excepthook, threading.excepthook = uncaught, uncaught_in_thread
    sys.unraisablehook = unraisable


class TextLines(logging.Formatter):
    """A line for each record, and one, indented, for each of its trace."""

    def format(self, record: logging.LogRecord) -> str:
        message = bounded(record.getMessage(), MESSAGE_BYTES_MAX)
        lines = [f"{_at(record)} {record.levelname.lower():7} {visible(message)}"]
        lines += [f"{TRACE_INDENT}{visible(line)}" for line in self._trace(record)]
        return "\n".join(lines)

    def _trace(self, record: logging.LogRecord) -> Iterator[str]:
        return trace_lines(self.formatException(record.exc_info)) if record.exc_info else iter(())


class JsonLines(TextLines):
    """A JSON object for each record, with what it was given besides the message."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "at": _at(record),
            "level": record.levelname.lower(),
            "message": bounded(record.getMessage(), MESSAGE_BYTES_MAX),
            "logger": record.name,
        }
        fields |= {name: _plain(value) for name, value in _given(record)}
        if record.exc_info:
            fields["exception"] = "\n".join(self._trace(record))
        return visible_json(msgspec.json.encode(fields)).decode()


def bounded(text: str, bytes_max: int) -> str:
    """Return the text, or its begin where it could take more than so many bytes once it is shown.
    What no UTF-8 has, names of files perhaps, is shown already: JSON cannot carry it."""
    plain = text.isascii() and text.isprintable()
    chars_max = bytes_max if plain else bytes_max // _SHOWN_BYTES_MAX
    cut = text if len(text) <= chars_max else text[:chars_max] + _CUT
    return cut if plain else cut.encode(errors="backslashreplace").decode()


def trace_lines(trace: str) -> Iterator[str]:
    """Yield the last lines of a trace, each bounded."""
    for line in trace.splitlines()[-TRACE_LINES_MAX:]:
        yield bounded(line, FIELD_BYTES_MAX // 2)


def _at(record: logging.LogRecord) -> str:
    return format_instant(int(record.created * 1_000_000))


def _given(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    return ((name, value) for name, value in vars(record).items() if name not in _STANDARD)


def _plain(value: object) -> Any:
    """Return a value that JSON has, and that is bounded."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return bounded(str(value), FIELD_BYTES_MAX)
