"""Reports as backends read them: JSON, the key of a batch, and what was taken of it.

Pure; knows no transport, and decides nothing about what is reported when.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from ....ipc.actions import ExecutionStatus
from ....ipc.instants import format_instant
from ....ipc.messages.sync import Report

#: What is kept of a text in an answer.
ERROR_CHARS_MAX = 200

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class _Rejected(msgspec.Struct):
    key: str
    error: str = ""


class _Answer(msgspec.Struct):
    accepted: list[str]
    rejected: list[_Rejected] = []


_decode_answer = msgspec.json.Decoder(_Answer).decode


def as_json(report: Report) -> dict[str, Any]:
    """One report with the names that INTERFACE gives its fields."""
    return {
        "key": report.key,
        "id": report.action_id,
        "executionStatus": ExecutionStatus(report.status).json,
        "at": format_instant(report.at_us),
        "attempt": report.attempt,
        "runId": report.run_id,
        "exitCode": report.exit_code,
        "signal": report.signal,
        "reason": report.reason,
    }


def batch_body(reports: Sequence[Report]) -> bytes:
    return msgspec.json.encode({"reports": [as_json(report) for report in reports]})


def batch_key(reports: Sequence[Report]) -> str:
    """The same for the same reports in the same order."""
    keys = "\n".join(report.key for report in reports)
    return blake2b(keys.encode(), digest_size=16).hexdigest()


def read_verdicts(body: bytes, reports: Sequence[Report]) -> tuple[list[str], dict[str, str]]:
    """The keys of `reports` that were accepted, and the refused ones with their error.

    Keys that were not asked about are ignored. Raises `ValueError` for any other answer.
    """
    try:
        answer = _decode_answer(body)
    except RecursionError:
        raise ValueError("nested too deep") from None
    asked = {report.key for report in reports}
    accepted = [key for key in answer.accepted if key in asked]
    refused = {item.key: printable(item.error) for item in answer.rejected if item.key in asked}
    if not refused.keys().isdisjoint(accepted):
        raise ValueError("a key is accepted and rejected")
    return accepted, refused


def printable(text: str) -> str:
    """A text from outside, as it may stand in a message: short, on one line."""
    return _UNPRINTABLE.sub(" ", text)[:ERROR_CHARS_MAX]
