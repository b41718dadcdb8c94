"""Words that a person who is in a hurry can use: hints, and output that cannot deceive."""

import os
import subprocess
from pathlib import Path

import pytest
from geosched.ipc.messages.control import ActionIs, LogChunk
from support.ctl import COMMAND, action, answering, ctl_at, environment, log_of

HOSTILE = b"\x1b[2J\x1b]0;title\x07red\rover\r\n\xe2\x80\xaeturned\ttab\xff\xe5\xa4\xa7\n"
SHOWN = "\\x1b[2J\\x1b]0;title\\x07red\\rover\n\\u202eturned\ttab\\xff大\n"


def on_terminal(place: Path, *arguments: str) -> str:
    """What a terminal is sent."""
    main, side = os.openpty()
    try:
        asking = subprocess.Popen(
            [COMMAND, "--socket", place / "control.sock", *arguments],
            env=environment(TERM="xterm", PYTHONIOENCODING="utf-8"),
            stdin=subprocess.DEVNULL,
            stdout=side,
            stderr=subprocess.PIPE,
        )
        _, complaint = asking.communicate(timeout=20)
        assert (asking.returncode, complaint) == (0, b"")
        return os.read(main, 65_536).decode().replace("\r\n", "\n")
    finally:
        os.close(side)
        os.close(main)


def test_a_terminal_is_shown_the_control_characters_of_a_script(place, daemon) -> None:
    daemon(log_of(HOSTILE))
    assert on_terminal(place, "logs", "a") == SHOWN
    assert on_terminal(place, "logs", "a", "-n", "1") == SHOWN.splitlines(keepends=True)[1]


def test_a_terminal_gets_them_raw_where_that_is_asked_for(place, daemon) -> None:
    daemon(log_of(b"\x1b[31mred\x1b[0m\n"))
    assert on_terminal(place, "logs", "--raw", "a") == "\x1b[31mred\x1b[0m\n"


def test_a_character_that_comes_in_two_chunks_is_one(place, daemon) -> None:
    text = "大小".encode()
    daemon(lambda request: [LogChunk("r", 1, request.offset, *_next_byte(text, request.offset))])
    assert on_terminal(place, "logs", "a") == "大小"


def _next_byte(text: bytes, offset: int) -> tuple[bytes, bool]:
    return text[offset : offset + 1], offset + 1 == len(text)


@pytest.mark.parametrize(("ended", "words"), [(True, ""), (False, " yet")])
def test_a_run_that_printed_nothing_has_lost_nothing(
    place, daemon, ended: bool, words: str
) -> None:
    daemon(log_of(b"", ended=ended))
    for arguments in (("logs", "a"), ("logs", "a", "-n", "5")):
        said = ctl_at(place, *arguments)
        assert (said.returncode, said.stdout) == (0, "")
        assert said.stderr == f"geosched-ctl: run 2 has printed nothing{words}\n"


def test_a_run_that_printed_something_is_not_remarked_on(place, daemon) -> None:
    daemon(log_of(b"x\n"))
    for arguments in (("logs", "a"), ("logs", "a", "-n", "0"), ("logs", "a", "-n", "1")):
        assert ctl_at(place, *arguments).stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "-abc"),
        ("show", "--abc"),
        ("stop", "-of"),
        ("logs", "-xyz", "-f"),
        ("logs", "-n", "5", "-é"),
        ("outbox", "drop", "-key"),
    ],
)
def test_an_id_that_begins_with_a_dash_gets_a_hint(place, arguments: tuple[str, ...]) -> None:
    said = ctl_at(place, *arguments)
    odd = next(word for word in arguments if word[:1] == "-" and word not in ("-n", "-f"))
    assert (said.returncode, len(said.stderr.splitlines())) == (2, 1)
    assert f"after --: geosched-ctl {arguments[0]}" in said.stderr
    assert f" -- {odd} " in said.stderr


@pytest.mark.parametrize("arguments", [("ping", "-abc"), ("show",), ("logs", "a", "-n", "-5")])
def test_no_hint_is_given_where_no_id_was_meant(place, arguments: tuple[str, ...]) -> None:
    said = ctl_at(place, *arguments)
    assert (said.returncode, "after --" in said.stderr) == (2, False)


def test_the_hint_is_right(place, daemon) -> None:
    daemon(answering(ActionIs(action("-abc"), ())))
    assert "-abc" in ctl_at(place, "show", "--", "-abc").stdout
