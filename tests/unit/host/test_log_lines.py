"""Records of the log as lines: whatever is in a record, no part of it looks like another."""

import ast
import json
import logging
import re
import sys
from pathlib import Path

import pytest
from geosched.workers.host.log_lines import (
    MESSAGE_BYTES_MAX,
    TRACE_INDENT,
    TRACE_LINES_MAX,
    JsonLines,
    TextLines,
)
from geosched.workers.host.log_relay import RECORD_BYTES_MAX

ROOT = Path(__file__).resolve().parents[3]
FORGED = "2026-11-28T00:00:00.000Z info    Stopped"
#: Each could end a line for somebody who reads the log.
ENDS = ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029")
STYLES = {"text": TextLines(), "json": JsonLines()}


def line(style: str, message: str, *arguments: object, **more: object) -> str:
    record = logging.LogRecord("geosched.x", logging.INFO, "", 0, message, arguments, None)
    vars(record).update(more)
    return STYLES[style].format(record)


def raised(text: str) -> object:
    try:
        raise ValueError(text)
    except ValueError:
        return sys.exc_info()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("end", ENDS, ids=ascii)
def test_a_message_is_one_line(style: str, end: str) -> None:
    found = line(style, "Refused %s", f"x{end}{FORGED}", id=f"x{end}{FORGED}")
    assert found.isprintable()


@pytest.mark.parametrize("end", ENDS, ids=ascii)
def test_no_line_of_a_trace_looks_like_a_record(end: str) -> None:
    found = line("text", "Failure", exc_info=raised(f"x{end}{FORGED}{end}<3>x"))
    first, *others = found.split("\n")
    assert re.match(r"\d{4}-.*Z info    Failure$", first)
    assert len(others) > 3
    for each in others:
        assert each.startswith(TRACE_INDENT)
        assert each.isprintable()
    assert FORGED in found


@pytest.mark.parametrize("end", ENDS, ids=ascii)
def test_a_trace_is_a_field_of_a_json_record(end: str) -> None:
    found = line("json", "Failure", exc_info=raised(f"x{end}{FORGED}"))
    assert found.isprintable()
    assert FORGED in json.loads(found)["exception"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("char", ["x", "\n", "\u202e", "\U000e0041", "大", "\udce9"], ids=ascii)
def test_a_record_is_never_longer_than_what_the_log_takes(style: str, char: str) -> None:
    long = char * 1_000_000
    found = line(style, "Refused %s", long, id=long, reason=long, runId=long, exc_info=raised(long))
    assert len(found.encode(errors="backslashreplace")) < RECORD_BYTES_MAX
    assert "[cut]" in found
    if style == "json":
        json.loads(found)


def test_the_last_lines_of_a_long_trace_are_kept() -> None:
    found = line("text", "Failure", exc_info=raised("\n".join(map(str, range(1000)))))
    assert found.endswith(f"\n{TRACE_INDENT}999")
    assert len(found.split("\n")) == 1 + TRACE_LINES_MAX


def test_a_message_of_usual_length_is_whole() -> None:
    text = "x" * (MESSAGE_BYTES_MAX - 20)
    assert line("text", "%s", text).endswith(text)


def test_numbers_stay_numbers_and_everything_else_is_text() -> None:
    found = json.loads(line("json", "x", seq=7, to=None, share=0.5, path=Path("/a"), ok=True))
    assert [found[name] for name in ("seq", "to", "share", "path", "ok")] == [
        *(7, None, 0.5, "/a", True)
    ]


def test_nothing_else_sets_the_log_up() -> None:
    """So that no process writes records of another form."""
    setting = ("basicConfig", "addHandler", "setFormatter")
    found = set()
    for folder in ("ipc", "workers", "supervisor"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in setting:
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == {"workers/host/log_lines.py"}
