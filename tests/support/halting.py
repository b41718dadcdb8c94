"""A daemon one of whose processes halts at a named point of a run."""

import contextlib
import os
import signal
from pathlib import Path

from geosched.ipc.failpoints import VARIABLE

from .daemon import Daemon, lives
from .processes import state_of
from .wait import wait_for


def start_halting(daemon: Daemon, point: str) -> Path:
    """Start the daemon; whoever reaches `point` first halts. The mark that will tell who."""
    mark = daemon.root / f"halted-{point}"
    daemon.start(wait=False, env={VARIABLE: f"{point}@{mark}"})
    return mark


def halted(daemon: Daemon, mark: Path) -> int:
    """The pid of the process that halted, once it really did."""
    text = wait_for(
        lambda: mark.exists() and mark.read_text(),
        seconds=20,
        what=f"a process that halts: {daemon.log_text()}",
    )
    wait_for(lambda: state_of(int(text)) == "T", what=f"process {text} to be stopped")
    return int(text)


def go_on(pid: int) -> None:
    """A process that halted; one that was killed meanwhile does not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def kill_child(pid: int) -> None:
    """One of the daemon's children: gone when this returns, whoever reaps it."""
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not lives(pid))
