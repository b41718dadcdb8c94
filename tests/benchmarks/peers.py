"""Other software that starts commands: how it is installed, and how it is told to.

Everything goes below `tests/benchmarks/peers`, in places that git ignores; versions are
pinned. What cannot be installed is said to be missing, with the reason.
"""

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PLACE = Path(__file__).parent / "peers"
VENV = PLACE / ".venv"
PYTHON = str(VENV / "bin" / "python")
INSTALL_SECONDS = 300
ANSWER_SECONDS = 30

#: Commands that belong to one instant, by the name of what they start.
Groups = list[dict[str, list[str]]]


class PeerError(Exception):
    """It is not installed, or does not answer; the text says which."""


@dataclass(frozen=True)
class Peer:
    """A program that speaks as peers/bare_loop.py explains."""

    name: str
    command: tuple[str, str]
    distributions: tuple[str, ...] = ()  # from PyPI


BARE = Peer("bare posix_spawn loop", (sys.executable, "bare_loop.py"))
APSCHEDULER = Peer(
    "APScheduler 3.11.3, Popen",
    (PYTHON, "with_apscheduler.py"),
    ("APScheduler==3.11.3", "SQLAlchemy==2.1.9"),
)
PEERS = (
    BARE,
    APSCHEDULER,
    Peer("node-schedule 2.1.1, execFile", ("node", "with_node_schedule.js")),
    Peer("Bree 9.2.9", ("node", "with_bree.js")),
    Peer("supervisord 4.3.0, by RPC", (PYTHON, "with_supervisor.py"), ("supervisor==4.3.0",)),
    Peer("circus 0.19.0, by RPC", (PYTHON, "with_circus.py"), ("circus==0.19.0",)),
)


# --- installation -----------------------------------------------------------------------


def install(peer: Peer) -> None:
    """Nothing is fetched that is already there."""
    if peer.command[0] == "node":
        for tool in ("node", "npm"):
            if shutil.which(tool) is None:
                raise PeerError(f"this machine has no {tool}")
        if not (PLACE / "node_modules").is_dir():
            _run("npm", "install", "--no-audit", "--no-fund", "--no-package-lock")
    elif peer.distributions:
        if not Path(PYTHON).exists():
            _run(sys.executable, "-m", "venv", VENV)
        _run(PYTHON, "-m", "pip", "install", "--quiet", *peer.distributions)


def _run(*command: str | Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=PLACE, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"not installed within {INSTALL_SECONDS} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise PeerError(f"cannot be installed: {lines[-1]}")


# --- use --------------------------------------------------------------------------------


@contextmanager
def started(peer: Peer, groups: Groups) -> Iterator[Callable[[list[int]], None]]:
    """A peer that knows its commands; it is given the instants by what this yields."""
    command = [peer.command[0], str(PLACE / peer.command[1])]
    process = subprocess.Popen(
        command, cwd=PLACE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        _say(process, groups, "ready")
        yield lambda instants: _say(process, instants, "taken")
    finally:
        _end(process)


def _say(process: subprocess.Popen[bytes], message: object, answer: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        raise PeerError("it has ended") from None
    deadline = time.monotonic() + ANSWER_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(deadline - time.monotonic()):
            raise PeerError(f"not {answer} within {ANSWER_SECONDS} s")
    if process.stdout.readline().decode().strip() != answer:
        raise PeerError(f"it is not {answer}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its input ends, so it does; and with it all of its session, at the latest after 10 s."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # a daemon it left behind; else there is none
    process.wait(10)
