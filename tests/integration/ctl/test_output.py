"""Standard output of `geosched-ctl`: readers that leave, full disks, terminals."""

import os
import re
import subprocess

import pytest
from geosched.ipc.messages import control
from support.ctl import (
    COMMAND,
    OUTPUT,
    PONG,
    action,
    answering,
    ctl,
    ctl_at,
    environment,
    log_of,
    started,
)


def test_a_reader_that_leaves_early_is_no_reason_to_complain(place, daemon) -> None:
    daemon(log_of(OUTPUT))
    for arguments in (("logs", "a"), ("-o", "json", "logs", "a")):
        asking = started(place, *arguments)
        assert asking.stdout is not None
        asking.stdout.read(10)
        asking.stdout.close()
        assert asking.stderr is not None
        assert asking.stderr.read() == b""
        asking.stderr.close()
        asking.wait(10)


@pytest.mark.parametrize("arguments", [("ping",), ("-o", "json", "ping"), ("--help",)])
def test_output_that_cannot_be_written_is_a_failure(place, daemon, arguments) -> None:
    daemon(answering(PONG))
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [COMMAND, "--socket", place / "control.sock", *arguments],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == b"geosched-ctl: cannot write the output: No space left on device\n"


def test_a_terminal_gets_colours_and_its_own_width_and_a_pipe_neither(place, daemon) -> None:
    daemon(answering(control.ActionsAre((action("x" * 150 + "\x1b[2J"),), "")))
    main, side = os.openpty()
    asking = subprocess.Popen(
        [COMMAND, "--socket", place / "control.sock", "list"],
        env=environment(TERM="xterm-256color", COLUMNS="80"),
        stdin=subprocess.DEVNULL,
        stdout=side,
    )
    assert asking.wait(10) == 0
    os.close(side)
    shown = os.read(main, 65_536).decode()
    os.close(main)
    assert "\x1b[1m" in shown
    assert "\x1b[2J" not in shown
    bare = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert len(bare) == 2
    assert max(map(len, bare)) <= 80
    piped = ctl_at(place, "list").stdout
    assert "x" * 150 in piped
    assert "\x1b" not in piped


def test_an_id_that_the_terminal_cannot_show_is_no_crash(place, daemon) -> None:
    daemon(answering(control.ActionsAre((action("größe-大"),), "")))
    result = ctl("--socket", str(place / "control.sock"), "list", PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    assert "gr??e-?" in result.stdout
