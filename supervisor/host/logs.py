"""Log records on standard error: as lines of text, or as a JSON object a line."""

import logging
import sys
from typing import Any

import msgspec

from ...ipc.foreign_text import visible, visible_json
from ...ipc.instants import format_instant

LEVELS = ("debug", "info", "warning", "error")
_LINE_FEED = "\n"
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


def set_up(level: str, style: str) -> None:
    """Log to standard error from `level` (one of `LEVELS`) on; `style` is `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _at(record: logging.LogRecord) -> str:
    return format_instant(int(record.created * 1_000_000))


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_at(record)} {record.levelname.lower():7} {visible(record.getMessage())}"
        if record.exc_info:
            line = f"{line}\n{visible(self.formatException(record.exc_info), keep=_LINE_FEED)}"
        return line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "at": _at(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
        } | _extra(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return visible_json(msgspec.json.encode(fields, enc_hook=str)).decode()
