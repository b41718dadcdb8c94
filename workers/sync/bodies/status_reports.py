"""Serialisation of reports, and parser of the verdicts on a batch of them. Pure."""

import codecs
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from ....ipc.actions import ExecutionStatus
from ....ipc.decoding import DECODE_ERRORS
from ....ipc.instants import format_instant
from ....ipc.messages.sync import ERROR_CHARS_MAX, Report

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class _Rejected(msgspec.Struct):
    key: str
    error: str = ""


class _Verdicts(msgspec.Struct):
    accepted: list[str]
    rejected: list[_Rejected] = []


_decode_verdicts = msgspec.json.Decoder(_Verdicts).decode


def as_json(report: Report) -> dict[str, Any]:
    """Return one report with the field names of INTERFACE."""
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
    """Return the JSON of a batch."""
    return msgspec.json.encode({"reports": [as_json(report) for report in reports]})


def batch_key(reports: Sequence[Report]) -> str:
    """Return the idempotency key of a batch: the same for the same reports in the same order."""
    keys = "\n".join(report.key for report in reports)
    return blake2b(keys.encode(), digest_size=16).hexdigest()


def read_verdicts(body: bytes, reports: Sequence[Report]) -> tuple[list[str], dict[str, str]]:
    """Return the accepted keys of `reports`, and the refused ones with their error.

    Keys of other reports are ignored. Raises `ValueError` where the body is nothing of the kind.
    """
    try:
        verdicts = _decode_verdicts(body.removeprefix(codecs.BOM_UTF8))
    except DECODE_ERRORS as error:
        raise ValueError(str(error) or "nested too deep") from None
    asked = {report.key for report in reports}
    accepted = [key for key in verdicts.accepted if key in asked]
    refused = {item.key: printable(item.error) for item in verdicts.rejected if item.key in asked}
    if not refused.keys().isdisjoint(accepted):
        raise ValueError("a key is accepted and rejected")
    return accepted, refused


def printable(text: str) -> str:
    """Return a text from outside as it may stand in a message: short, on one line."""
    return _UNPRINTABLE.sub(" ", text)[:ERROR_CHARS_MAX]
