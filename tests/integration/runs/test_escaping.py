"""A run's whole tree is gone after its end, whatever its script does to stay (law 12, S17).

For each way of holding a tree that this host offers: the daemon is started where it finds
no better one.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import escaping
from support.daemon import Daemon, daemon_installation, entry
from support.escaping import KINDS, holders, is_held
from support.mounts import commands_without
from support.wait import wait_for

pytestmark = pytest.mark.alone  # storms of forks leave nothing for a neighbour

LONG = 3600
#: S17 promises 5 s, which the crash contract tries. Here a dozen runs and storms of forks
#: share the host, so the question is whether, not how soon.
NOTHING_LEFT_SECONDS = 20.0
#: What a daemon must not see, so that it holds trees in the given way.
HIDDEN = {"cgroup2": "", "cgroup1": "cgroup2", "tree": "cgroup2 cgroup"}
#: S17's parenthesis: what left its session, has no mark, and lost its worker.
BEYOND_A_TREE = {"bare", "bare-daemon-of-nobody", "renamed-daemon"}

#: They leave little of the host for whoever begins beside them, so they begin last.
STORMS = {"comet", "comet-of-sessions", "shower"}

#: A daemon, and its runs by the kind of their script.
Runs = tuple[Daemon, dict[str, dict]]


@pytest.fixture(params=HIDDEN)
def held_by(request: pytest.FixtureRequest) -> str:
    if os.geteuid() != 0:
        pytest.skip("only root may hide cgroups from a daemon, and become somebody else")
    return str(request.param)


@pytest.fixture
def runs(held_by: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    """A daemon that finds no better way than `held_by`, and a run of every kind of script,
    each of which has done what it does."""
    with daemon_installation() as daemon:
        configure(daemon)
        monkeypatch.setenv("GEOSCHED_TEST_BIN", str(commands_without(daemon.root, HIDDEN[held_by])))
        daemon.start()
        try:
            if (found := daemon.json("status")["containment"]) != held_by:
                pytest.skip(f"this host lets us hold a tree by {found}, not by {held_by}")
            entries = {kind: entry(kind, -1, LONG, type=kind) for kind in KINDS}
            for kinds in (set(KINDS) - STORMS, set(KINDS)):
                daemon.send([entries[kind] for kind in kinds])
                for kind in kinds:
                    wait_for(Path(f"{lock(daemon, kind)}.ready").exists, seconds=20, what=kind)
            shown = wait_for(lambda: all_running(daemon), seconds=15, what="runs of every kind")
            yield daemon, {kind: one["run"] for kind, one in shown.items()}
        finally:
            daemon.kill()
            wait_for(lambda: not end_all(daemon), seconds=20)


def lock(daemon: Daemon, kind: str) -> Path:
    return daemon.root / f"{kind}.lock"


def configure(daemon: Daemon) -> None:
    for kind in KINDS:
        lock(daemon, kind).touch()
    scripts = {
        kind: {
            "command": [sys.executable, escaping.__file__, kind, str(lock(daemon, kind))],
            "stop_grace": "200ms",
            "heartbeat_timeout": "30s",  # storms leave little for anybody else
        }
        for kind in KINDS
    }
    daemon.configure(scripts=scripts, max_running=len(KINDS))


def all_running(daemon: Daemon) -> dict[str, dict]:
    shown = daemon.actions()
    return shown if all(one["phase"] == "running" for one in shown.values()) else {}


def as_they_end(daemon: Daemon) -> Iterator[dict]:
    """Each action, at the first look at which it is over."""
    seen: set[str] = set()
    while len(seen) < len(KINDS):
        over = wait_for(lambda: over_but(seen, daemon), seconds=30, what="the end of a run")
        seen.update(one["id"] for one in over)
        yield from over


def over_but(seen: set[str], daemon: Daemon) -> list[dict]:
    shown = daemon.actions().values()
    return [one for one in shown if one["phase"] == "done" and one["id"] not in seen]


def left(daemon: Daemon) -> set[str]:
    return {kind for kind in KINDS if is_held(lock(daemon, kind))}


def end_all(daemon: Daemon) -> set[str]:
    """What is still there after one more round of ending it."""
    for kind in (remaining := left(daemon)):
        for pid in holders(lock(daemon, kind)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return remaining


def test_a_stop_ends_all_that_a_script_began(runs: Runs):
    daemon, _ = runs
    daemon.send([])
    for over in as_they_end(daemon):
        assert over["executionStatus"] == "WONT_FINISH", over
        assert not is_held(lock(daemon, over["id"])), over


def test_the_death_of_its_worker_ends_all_that_a_script_began(runs: Runs, held_by: str):
    daemon, begun = runs
    for run in begun.values():
        os.kill(run["workerPid"], signal.SIGKILL)
    beyond = BEYOND_A_TREE if held_by == "tree" else set()
    for over in as_they_end(daemon):
        assert (over["executionStatus"], over["reason"]) == ("FAILED", "worker-lost"), over
        assert is_held(lock(daemon, over["id"])) == (over["id"] in beyond), over


def test_the_death_of_the_supervisor_ends_all_that_a_script_began(runs: Runs):
    daemon, _ = runs
    daemon.kill()
    wait_for(lambda: not left(daemon), seconds=NOTHING_LEFT_SECONDS, what="nothing to be left")
