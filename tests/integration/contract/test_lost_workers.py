"""Workers that are lost: near the end of a window, many at once, and where none can be forked."""

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from support.contract import LONG, configure, hit, row, rows
from support.daemon import Daemon, daemon_installation, entry, lives
from support.processes import helpers, zygote
from support.wait import wait_for

KILL = signal.SIGKILL
#: The window's end, and how long before it the worker is killed.
WINDOW_SECONDS = 4.0
BEFORE_SECONDS = 0.05
MANY = 100
MANY_SETTLED_SECONDS = 10.0
ENDED_SECONDS = 5.0
#: A user of whom nothing else runs. The interpreter may lie where only root can read.
SOMEBODY = 64999
AS_SOMEBODY = ("setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups")
MAY_READ_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        configure(installed)
        yield installed


@pytest.fixture
def somebodys(daemon: Daemon) -> Daemon:
    """A daemon that is to run as somebody, and has no control groups."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can be somebody of whom no other process runs")
    return daemon


def begin(daemon: Daemon, body: str) -> dict[str, Any]:
    """Begin a run that leaves something when it is lost."""
    script = daemon.script("default", f"note began\n{body.format(root=daemon.root)}")
    daemon.configure(scripts={"default": {"command": [script]}})
    daemon.send([entry("a", -1, LONG)])
    for path in (daemon.root, *daemon.root.iterdir()):
        os.chown(path, SOMEBODY, SOMEBODY)
    daemon.start(by=(*AS_SOMEBODY, *MAY_READ_ALL))
    assert daemon.json("status")["containment"] == "tree"
    run = run_of(daemon, "a")
    wait_for((daemon.root / "written").exists)
    return run


@contextmanager
def nothing_forked(daemon: Daemon) -> Iterator[None]:
    """Let the zygote fork nothing."""

    def bound(most: str) -> None:
        command = ("prlimit", "--pid", str(zygote(daemon)), f"--nproc={most}:")
        subprocess.run([*AS_SOMEBODY, *command], check=True)

    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    bound("1")
    yield
    bound("unlimited" if hard == resource.RLIM_INFINITY else str(hard))


def seconds_of(shown: str) -> float:
    return datetime.fromisoformat(shown).timestamp()


def run_of(daemon: Daemon, action_id: str) -> dict[str, Any]:
    daemon.wait_phase(action_id, "running")
    wait_for(lambda: daemon.notes("began", action_id))
    shown = daemon.action(action_id)
    assert shown is not None
    found: dict[str, Any] = shown["run"]
    return found


@rows(
    "with_zygote",
    {"worker-killed-before-window-ends": False, "zygote+worker-killed-before-window-ends": True},
)
def test_a_worker_that_is_lost_just_before_the_window_ends_is_lost(
    daemon: Daemon, with_zygote: bool
):
    daemon.start()
    action = entry("a", -1, WINDOW_SECONDS)
    daemon.send([action])
    run = run_of(daemon, "a")
    zygotes = [zygote(daemon)] if with_zygote else []
    to_seconds = seconds_of(action["toDate"])
    time.sleep(to_seconds - BEFORE_SECONDS - time.time())
    hit(KILL, *zygotes, run["workerPid"])
    hit_seconds = time.time()
    shown = daemon.wait_status("a", "FAILED", seconds=20)
    assert hit_seconds < to_seconds, "too late to try anything"
    assert shown["reason"] == "worker-lost"
    assert seconds_of(shown["run"]["endedAt"]) < to_seconds
    assert not daemon.left_of("a")


@row("many-workers-killed")
def test_many_workers_killed_at_once_are_settled_together(daemon: Daemon):
    script = daemon.script("default", "note began\nsleep 600 & wait")
    daemon.configure(scripts={"default": {"command": [script]}}, max_running=MANY)
    ids = [f"a{number}" for number in range(MANY)]
    daemon.send([entry(action_id, -1, LONG) for action_id in ids])
    daemon.start()
    wait_for(lambda: len(daemon.notes("began")) == MANY, seconds=60, pause_seconds=0.2)
    before = daemon.actions()
    hit(KILL, *(before[action_id]["run"]["workerPid"] for action_id in ids))

    def all_failed() -> bool:
        return {one["executionStatus"] for one in daemon.actions().values()} == {"FAILED"}

    wait_for(all_failed, seconds=MANY_SETTLED_SECONDS, pause_seconds=0.1)
    assert {one["reason"] for one in daemon.actions().values()} == {"worker-lost"}
    assert not any(lives(one["run"]["scriptPid"]) for one in before.values())
    assert "stuck" not in daemon.stderr.read_text()


WRITES = "while echo x >> {root}/written; do sleep 0.05; done"


@rows("leaves", {"worker-killed-zygote-cannot-fork": f"({WRITES}) & wait"})
@pytest.mark.parametrize("helper", [True, False], ids=["helper", "no-helper"])
def test_what_a_lost_run_left_is_ended_where_nothing_can_be_forked(
    somebodys: Daemon, leaves: str, helper: bool
):
    daemon = somebodys
    run = begin(daemon, leaves)
    (kept,) = wait_for(lambda: helpers(daemon))
    with nothing_forked(daemon):
        if not helper:
            hit(KILL, kept)
            wait_for(lambda: not lives(kept))
        hit(KILL, run["workerPid"])
        wait_for(lambda: not daemon.left_of("a"), seconds=ENDED_SECONDS)
        if helper:
            assert daemon.wait_status("a", "FAILED")["reason"] == "worker-lost"
    assert daemon.wait_status("a", "FAILED")["reason"] == "worker-lost"


def test_what_left_the_session_of_a_script_is_ended_where_nothing_can_be_forked(somebodys: Daemon):
    run = begin(somebodys, f"setsid sh -c '{WRITES}' & wait")
    wait_for(lambda: helpers(somebodys))
    with nothing_forked(somebodys):
        hit(KILL, run["workerPid"])
        wait_for(lambda: not somebodys.left_of("a"), seconds=ENDED_SECONDS)
