"""A zygote on a host that lets it run less than a hundredth of the time: late, and not hung."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.supervisor.host.children import ZYGOTE_START_SECONDS_MAX
from support.contract import LONG, configure, running
from support.daemon import Daemon, daemon_installation, entry, lives
from support.processes import zygote
from support.wait import wait_for

PERIOD_SECONDS = 0.5
SHARE = 0.012


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        configure(installed)
        yield installed


def processor_seconds(pid: int) -> float:
    """What the one thread of a process has taken."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextlib.contextmanager
def slowed(pid: int) -> Iterator[None]:
    """Let a process have a share of a processor only: by what it took, so a busy host, which
    does not let it run as soon as it may, makes it no slower than an idle one does."""
    over = threading.Event()

    def pace() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(PERIOD_SECONDS * (1 - SHARE))
            enough = processor_seconds(pid) + PERIOD_SECONDS * SHARE
            waited = time.monotonic() + PERIOD_SECONDS
            os.kill(pid, signal.SIGCONT)
            while processor_seconds(pid) < enough and time.monotonic() < waited:
                time.sleep(0.001)

    thread = threading.Thread(target=pace)
    os.kill(pid, signal.SIGSTOP)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def degraded(daemon: Daemon) -> str:
    return daemon.json("status")["daemon"]["degraded"] or ""


def another(daemon: Daemon, old: int) -> int:
    """The zygote that took the place of another, as soon as it is there."""

    def found() -> int | None:
        with contextlib.suppress(StopIteration):
            return None if zygote(daemon) == old else zygote(daemon)
        return None

    pid = wait_for(found, seconds=20, pause_seconds=0.001)
    assert pid is not None
    return pid


@pytest.mark.timeout(200)
def test_a_slow_zygote_is_not_killed_and_what_it_was_asked_for_begins(daemon: Daemon):
    run = running(daemon)
    first = zygote(daemon)
    os.kill(first, signal.SIGKILL)
    daemon.send([entry("a", -1, LONG), *(entry(f"b{n}", -1, LONG) for n in range(2))])
    slow = another(daemon, first)
    begun = time.monotonic()
    with slowed(slow):
        wait_for(lambda: "no answer of the zygote" in degraded(daemon), seconds=20)
        assert "ATTENTION    degraded: cannot start processes" in daemon.ctl("status").stdout
        for n in range(2):
            daemon.wait_phase(f"b{n}", "running", seconds=120)
        took = time.monotonic() - begun
        assert lives(slow)
    assert took > ZYGOTE_START_SECONDS_MAX, "too quick to try anything"
    assert "does not answer" not in daemon.log_text()
    assert degraded(daemon) == ""
    assert daemon.action("a")["run"]["scriptPid"] == run["scriptPid"]
