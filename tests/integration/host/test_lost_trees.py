"""Trees of runs whose worker is gone, found in the same looks, or by their sessions alone."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.workers.host import procfs
from geosched.workers.host.process_tree import RunTree, end_trees
from support.wait import wait_for

INSTANCE = f"test-lost-trees-{os.getpid()}"


class Scripts:
    """Leaders of sessions, each with the mark of its run and something below it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, run_id: str, body: str = "sleep 600 & wait") -> int:
        marks = {procfs.INSTANCE_VARIABLE: INSTANCE, procfs.RUN_ID_VARIABLE: run_id}
        process = subprocess.Popen(
            ["/bin/sh", "-c", body],
            cwd=self._place,
            env=os.environ | marks,
            start_new_session=True,
        )
        self.started[run_id] = process
        return process.pid

    def left(self, run_id: str) -> list[int]:
        session = self.started[run_id].pid
        table = procfs.process_table().values()
        return [found.pid for found in table if found.session == session and not found.ended]

    def end(self) -> None:
        for run_id, process in self.started.items():
            for pid in self.left(run_id):
                os.kill(pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Scripts]:
    made = Scripts(tmp_path)
    yield made
    made.end()


def test_the_trees_of_many_runs_are_ended_by_the_same_rounds_and_no_others(scripts: Scripts):
    lost = [f"r{number}" for number in range(5)]
    trees = [RunTree(INSTANCE, run_id, scripts.start(run_id)) for run_id in lost]
    scripts.start("another")
    for run_id in (*lost, "another"):
        wait_for(lambda run_id=run_id: len(scripts.left(run_id)) == 2)
    wait_for(lambda: sorted(end_trees(trees).gone) == lost)
    assert not any(scripts.left(run_id) for run_id in lost)
    assert len(scripts.left("another")) == 2
    assert end_trees([]) == ([], {})


def test_a_run_that_is_not_gone_holds_up_no_other(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
):
    stays, goes = (RunTree(INSTANCE, one, scripts.start(one)) for one in ("stays", "goes"))
    wait_for(lambda: scripts.left("stays") and scripts.left("goes"))
    kept = {stays.script_pid, *scripts.left("stays")}
    signal_process = "geosched.workers.host.process_tree.signal_process"
    monkeypatch.setattr(
        signal_process,
        lambda known, number: known.pid in kept or os.kill(known.pid, number),
    )
    wait_for(lambda: end_trees([stays, goes]).gone == ["goes"])
    assert scripts.left("stays")


#: Becomes the subreaper of a script whose child outlives it, or of one that lives; then ends by
#: the session, and tells what lives below it.
SUBREAPER = """
import os, subprocess, sys, time
from geosched.workers.host import procfs
from geosched.workers.host.linux import become_subreaper
from geosched.workers.host.process_tree import end_sessions
become_subreaper()
script = subprocess.Popen(["/bin/sh", "-c", sys.argv[1]], start_new_session=True)
if sys.argv[2] == "ended":
    script.wait()
time.sleep(0.3)
before = len([one for one in procfs.below(os.getpid()).values() if not one.ended])
for _ in range(20):
    end_sessions({script.pid})
    time.sleep(0.05)
after = len([one for one in procfs.below(os.getpid()).values() if not one.ended])
print(before, after)
for pid in procfs.below(os.getpid()):
    os.kill(pid, 9)
"""


@pytest.mark.parametrize(
    ("body", "state", "seen"),
    [
        ("sleep 600 & exit 0", "ended", "1 0"),
        ("(setsid sleep 600 & sleep 600) & exit 0", "ended", "2 0"),
        ("sleep 600 & wait", "lives", "2 2"),  # its number may be another's by now
    ],
)
def test_the_session_of_a_script_that_ended_is_ended_without_an_environment(
    body: str, state: str, seen: str
):
    told = subprocess.run(
        [sys.executable, "-c", SUBREAPER, body, state], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == seen.split()
