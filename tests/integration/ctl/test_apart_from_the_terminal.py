"""Processes that `geosched-ctl` starts: one without rights, which reads what strangers sent or
wrote, has no stream and no session in common with the terminal of who asked."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from geosched.ipc.ctl import tool
from geosched.ipc.ctl.tool import Complaints, Tool
from geosched.ipc.messages.broker import Say
from geosched.workers.host import procfs
from support.backend import address
from support.daemon import Daemon, commands, daemon_installation, lives
from support.db import large
from support.oauth import OAuthServer
from support.wait import wait_for

#: Of the caller's environment: none of it is for what speaks to the network.
SECRET = "CALLERS_SECRET"
FORGED = "\x1b]0;x\x07\r\n2026-11-28T00:00:00.000Z info    Forged\u202e"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        installed.configure(scripts={"default": {"command": ["true"]}})
        yield installed


class Asked:
    """A command whose three streams are a terminal, but for what is piped."""

    def __init__(self, daemon: Daemon, *verb: str, **streams: int) -> None:
        self.terminal, side = pty.openpty()
        self.place = os.ttyname(side)
        self.process = subprocess.Popen(
            [commands() / "geosched-ctl", "--config", daemon.config, *verb],
            **({"stdin": side, "stdout": side, "stderr": side} | streams),
            env=os.environ | {SECRET: "hunter2"},
            start_new_session=True,
        )
        os.close(side)

    def below(self) -> list[int]:
        found = procfs.below(self.process.pid)
        return [pid for pid, one in found.items() if not one.ended]

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=20)
        os.close(self.terminal)


def assert_apart(asked: Asked) -> None:
    for pid in asked.below():
        opened = {str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()}
        assert asked.place not in opened, pid
        found = procfs.stat(pid)
        assert found is not None
        assert found.session not in (asked.process.pid, os.getsid(0))
        assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_login_has_nothing_of_the_terminal_and_ends_with_who_asked(daemon: Daemon) -> None:
    with OAuthServer() as oauth:
        daemon.configure(
            scripts={"default": {"command": ["true"]}},
            backend={
                "kind": "http",
                "url": "http://127.0.0.1:9",
                "token_file": "tokens.json",
                **oauth.settings(),
            },
        )
        asked = Asked(daemon, "login")
        try:
            wait_for(lambda: oauth.forms, seconds=20, what="a request of the login")
            below = asked.below()
            assert len(below) == (2 if os.geteuid() == 0 else 1), "the login, and root's broker"
            assert_apart(asked)
            asked.process.kill()  # as the end of a terminal does: nothing is told to the login
            wait_for(lambda: not any(map(lives, below)), what="the end of the login")
        finally:
            asked.end()


def test_an_export_has_nothing_of_the_terminal(daemon: Daemon) -> None:
    large(daemon)
    asked = Asked(daemon, "db", "export", stdout=subprocess.PIPE)
    try:
        assert asked.process.stdout is not None
        assert asked.process.stdout.readline()
        assert asked.below()
        assert_apart(asked)
    finally:
        asked.end()


@pytest.fixture
def shouting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tool that was taken over."""
    (tmp_path / "shouting.py").write_text(
        "import sys\n"
        f"print({FORGED!r}, file=sys.stderr)\n"
        "print('x' * 10_000_000, file=sys.stderr)\n"
        "for n in range(10_000): print(n, file=sys.stderr)\n"
        "print('done')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    return "shouting"


def test_what_a_tool_complains_of_is_shown_as_foreign_text_and_not_without_end(
    shouting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Tool("shout", shouting, show=Complaints()) as running:
        assert list(running.lines()) == [b"done\n"]
        assert running.code() == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == tool.COMPLAINTS_MAX
    assert all(line.isprintable() and line.startswith("geosched-ctl: ") for line in said)
    assert max(map(len, said)) < tool.COMPLAINT_BYTES_MAX + 100


@pytest.mark.skipif(os.geteuid() != 0, reason="only a login by root has a broker")
def test_what_a_login_has_its_broker_say_is_a_record_as_any() -> None:
    """The login has no rights, and may have been taken over."""
    code = (
        "import sys, time; from geosched.workers.sync import unprivileged;"
        "import msgspec; from geosched.ipc.messages.sync import BackendAddress;"
        "unprivileged.set_up_process();"
        "given = msgspec.json.decode(sys.argv[1], type=BackendAddress);"
        "files = unprivileged.files_of(given, 0, lambda: None);"
        "files._broker.send(bytes.fromhex(sys.argv[2])); files._broker.close()"
    )
    said = msgspec.msgpack.encode(Say("warning", FORGED, "", 0)).hex()
    backend = msgspec.json.encode(address(url="http://127.0.0.1:9")).decode()
    done = subprocess.run(
        [sys.executable, "-c", code, backend, said],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    (line,) = done.stderr.splitlines()
    assert line.isprintable()
    assert " warning Synchroniser: \\x1b]0;x\\x07\\r\\n2026" in line
