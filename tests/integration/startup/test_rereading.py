"""The configuration file read again: how long its reader has, and what a leaving daemon does."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.supervisor.config.sections import SettingsError
from geosched.supervisor.startup import reread
from geosched.supervisor.startup.reread import Reread
from geosched.supervisor.store.tools.child_process import ChildProcess
from support.daemon import Daemon, daemon_installation, entry

SLOW = "import time; any(map(time.sleep, [0.1] * 30))"
HANGING = "import time; time.sleep(60)"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as made:
        yield made


def outcome(monkeypatch: pytest.MonkeyPatch, does: str) -> str:
    """Why nothing was read, of a reader that does something else."""
    monkeypatch.setattr(reread, "REREAD_IDLE_SECONDS_MAX", 1.0)
    monkeypatch.setattr(
        reread,
        "ChildProcess",
        lambda *_, **__: ChildProcess("-n", "1", "-r", "1", does, tool="timeit"),
    )
    reading = Reread(Path("/some/where.toml"))
    while True:
        try:
            assert reading.result() is None
        except SettingsError as why:
            return str(why)
        due = reading.next_look() - time.monotonic()
        assert due <= 1.0
        time.sleep(max(0.0, due) + 0.001)


def test_a_reader_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    assert "no answer" in outcome(monkeypatch, HANGING)
    assert time.monotonic() - begun < 15


def test_a_reader_that_is_only_slow_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no answer" not in outcome(monkeypatch, SLOW)


def test_a_daemon_that_leaves_is_not_ready_again(daemon: Daemon) -> None:
    path = daemon.root / "notify"
    script = daemon.script("stubborn", "trap '' TERM; while :; do sleep 0.1; done")
    daemon.configure(scripts={"default": {"command": [script], "stop_grace": "3s"}})
    daemon.send([entry("a", -1, 600)])
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        daemon.start(env={"NOTIFY_SOCKET": str(path)})
        daemon.wait_phase("a", "running")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(20) == 0
        manager.setblocking(False)
        while True:
            try:
                told.append(manager.recv(4096).decode())
            except BlockingIOError:
                break
    stopping = next(n for n, message in enumerate(told) if "STOPPING=1" in message)
    assert not any("READY=1" in message for message in told[stopping:])
