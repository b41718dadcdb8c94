"""Without `rich` a terminal gets the same tables, in the same words, without colour."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from geosched.ipc.messages import control, views
from msgspec.structs import replace
from support.ctl import COMMAND, action, answering, environment

#: As if it were not installed.
WITHOUT = "import sys; sys.modules['rich'] = None; from geosched.ipc.ctl.main import main; main()"
DETAIL = "it was waited for, and then a little longer, until " + "nobody " * 12 + "came"
ACTION = replace(
    action("x" * 60), execution_status="FAILED", phase="done", reason="exit-code", detail=DETAIL
)
RUN = views.RunView("r", 1, 12, 13, "2026-11-23T07:00:01.000Z", None, reason="exit-code")
SHOWN = control.ActionIs(ACTION, (RUN,))
LISTED = control.ActionsAre((action("a"), ACTION), "")


def on_terminal(place: Path, command: list[str], *arguments: str, columns: int) -> str:
    main, side = os.openpty()
    try:
        asking = subprocess.Popen(
            [*command, "--socket", place / "control.sock", *arguments],
            env=environment(TERM="xterm", COLUMNS=str(columns), PYTHONIOENCODING="utf-8"),
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


@pytest.mark.parametrize("columns", [44, 80, 200])
@pytest.mark.parametrize(
    ("verb", "answer"), [(("list",), LISTED), (("show", "x"), SHOWN)], ids=["list", "show"]
)
def test_the_same_columns_and_words_are_shown_without_colour(
    place, daemon, verb, answer, columns
) -> None:
    daemon(answering(answer))
    coloured = on_terminal(place, [str(COMMAND)], *verb, columns=columns)
    plain = on_terminal(place, [sys.executable, "-c", WITHOUT], *verb, columns=columns)
    assert "\x1b[" in coloured
    assert "\x1b" not in plain
    lines = plain.splitlines()
    assert max(map(len, lines)) <= columns
    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert lines == [line.rstrip() for line in bare.splitlines()]
