"""Exit codes and complaints of `geosched-ctl`: refusals, senseless answers, bad usage."""

import pytest
from geosched.ipc.messages.control import RefusalKind, Refused
from support.ctl import PONG, UNREADABLE, answering, ctl, ctl_at


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (RefusalKind.FAILED, 1),
        (RefusalKind.BAD_REQUEST, 2),
        (RefusalKind.NOT_PERMITTED, 4),
        (RefusalKind.NO_SUCH_ACTION, 5),
        (RefusalKind.CONFLICT, 6),
    ],
)
def test_each_refusal_has_its_exit_code_and_its_reason(place, daemon, kind, code) -> None:
    daemon(answering(Refused(kind, "cannot stop a\x1b[2J\nb")))
    result = ctl_at(place, "-o", "json", "stop", "a")
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith("geosched-ctl: cannot stop a")
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


def test_a_request_that_the_daemon_cannot_read_is_not_waited_for(place, daemon) -> None:
    daemon(answering(UNREADABLE))
    result = ctl_at(place, "status")
    assert (result.returncode, result.stderr) == (2, f"geosched-ctl: {UNREADABLE.detail}\n")


def test_an_answer_to_something_else_is_an_error(place, daemon) -> None:
    daemon(answering(PONG))
    result = ctl_at(place, "status")
    assert result.returncode == 1
    assert "Pong" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("ping", "too-much"),
        ("list", "--status", "MAYBE"),
        ("list", "--limit", "-1"),
        ("stop",),
        ("show", ""),
        ("show", "x" * 201),
        ("show", b"\xff"),
        ("--timeout", "0", "ping"),
        ("--timeout", "nan", "ping"),
        ("-o", "yaml", "ping"),
        ("-o", "json", "events", "-f"),
        ("-o", "json", "logs", "-f", "a"),
        ("logs", "a", "-n", "-3"),
        ("outbox", "drop"),
        ("outbox", "drop", "gen-1", "--refused"),
        ("outbox", "drop", b"\xff"),
        ("outbox", "list", "too-much"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(arguments) -> None:
    result = ctl(*arguments, GEOSCHED_SOCKET="/tmp/gs-nowhere")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1


def test_help_and_version_need_no_daemon() -> None:
    assert ctl("--help").returncode == 0
    assert ctl("list", "--help").returncode == 0
    assert ctl("--version").stdout.startswith("geosched-ctl ")
