"""`geosched-ctl logs`: output of a run, whole, its last lines, or as it grows."""

import json
import subprocess
import threading
from pathlib import Path

import pytest
from geosched.ipc.messages import control
from geosched.ipc.messages.control import Answer, RefusalKind, Refused, Request
from support.ctl import COMMAND, OUTPUT, answering, ctl_at, environment, log_of, read_line, started


def raw(place: Path, *arguments: str) -> bytes:
    return subprocess.run(
        [COMMAND, "--socket", place / "control.sock", *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        timeout=30,
        check=True,
    ).stdout


@pytest.mark.parametrize("ended", [True, False])
def test_logs_are_byte_for_byte_what_the_run_wrote(place, daemon, ended) -> None:
    daemon(log_of(OUTPUT, ended=ended))
    assert raw(place, "logs", "a") == OUTPUT


@pytest.mark.parametrize("lines", [0, 1, 3, 10_000, 30_000])
def test_logs_may_be_only_the_last_lines(place, daemon, lines) -> None:
    daemon(log_of(OUTPUT))
    expected = b"".join(OUTPUT.splitlines(keepends=True)[-lines:]) if lines else b""
    assert raw(place, "logs", "a", "-n", str(lines)) == expected


def test_logs_of_an_earlier_attempt_are_asked_for_by_its_number(place, daemon) -> None:
    asked = daemon(log_of(b"first\n"))
    assert raw(place, "logs", "a", "--run", "1") == b"first\n"
    assert asked.seen == [control.ReadLog("a", 1, 0)]


def test_logs_as_json_are_one_document(place, daemon) -> None:
    daemon(log_of(b"\xffa\nb\n"))
    document = json.loads(ctl_at(place, "-o", "json", "logs", "a", "-n", "2").stdout)
    assert document == {
        "schemaVersion": 1,
        "runId": "r2",
        "attempt": 2,
        "output": "\ufffda\nb\n",
        "ended": True,
    }


def test_logs_follow_one_run_to_its_end(place, daemon) -> None:
    written = bytearray(b"old\nfirst\n")
    over = threading.Event()

    def growing(request: Request) -> list[Answer]:
        return log_of(bytes(written), ended=over.is_set())(request)

    asked = daemon(growing)
    asking = started(place, "logs", "-f", "-n", "1", "a")
    assert read_line(asking) == b"first\n"
    written.extend(b"second\n")
    assert read_line(asking) == b"second\n"
    written.extend(b"last")
    over.set()
    rest, complaint = asking.communicate(timeout=10)
    assert (asking.returncode, rest, complaint) == (0, b"last", b"")
    attempts = [request.attempt for request in asked.seen]
    assert attempts == [0, *[2] * (len(attempts) - 1)]


def test_logs_without_any_output_left_fail(place, daemon) -> None:
    daemon(answering(Refused(RefusalKind.FAILED, "cannot show the output of a: none is left")))
    assert ctl_at(place, "logs", "a").returncode == 1
