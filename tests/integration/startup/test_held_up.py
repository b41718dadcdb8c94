"""A script's user who would hold each start up, or the action of another, by marks that it forged.

Any script has its instance's mark in its environment, and can give it to any process of its user.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc.messages.runs import EndCause, RunResult
from geosched.ipc.paths import Runtime
from geosched.supervisor.startup import sweep
from geosched.supervisor.startup.mark import mark_of
from geosched.supervisor.startup.sweep import Leftovers
from geosched.workers.host import process_tree, procfs
from geosched.workers.host.cgroups import TREE, Containment
from geosched.workers.runfiles import results
from geosched.workers.runfiles.processes import make_directories
from geosched.workers.runfiles.run_lock import NotedScript, note_script, take_run_lock
from support.daemon import lives
from support.second_user import SECOND_USER, command_as, needs_two_users

pytestmark = needs_two_users

THIRD_USER = SECOND_USER + 1
USERS = frozenset((SECOND_USER, THIRD_USER))
#: Has no mark itself, and always a child that has one: by the time that one is killed, the next.
FORKS = """
while :; do
    env "$1" "$2" sleep 0.2 & env "$1" "$2" sleep 0.2 & wait
done
"""


class Host:
    """What an earlier daemon left, and pretenders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runtime = Runtime(root / "run")
        self.runtime.dir.mkdir()
        make_directories(self.runtime)
        (root / "state").mkdir()
        self.mark = mark_of(root / "state")
        self.started: list[subprocess.Popen[bytes]] = []

    def marks(self, run_id: str) -> dict[str, str]:
        return {procfs.INSTANCE_VARIABLE: self.mark.text, procfs.RUN_ID_VARIABLE: run_id}

    def pretend(self, run_id: str, user: int) -> "subprocess.Popen[bytes]":
        self.started.append(command_as(user, "/bin/sleep", "600", env=self.marks(run_id)))
        return self.started[-1]

    def fork_without_end(self, run_id: str, user: int) -> "subprocess.Popen[bytes]":
        marks = [f"{name}={text}" for name, text in self.marks(run_id).items()]
        command = ("/bin/sh", "-c", FORKS, "sh", *marks)
        least = {"PATH": os.defpath}
        self.started.append(command_as(user, *command, env=least, stderr=subprocess.DEVNULL))
        return self.started[-1]

    def note(self, run_id: str, user: int) -> None:
        """As a worker does that is killed afterwards, with its script."""
        with command_as(user, "/bin/true", env={}) as script:
            known = procfs.Identity(procfs.boot_id(), script.pid, 1)
        lock = take_run_lock(self.runtime, run_id)
        note_script(lock, NotedScript(known, user))
        os.close(lock)

    def swept(self) -> Leftovers:
        leftovers = Leftovers(self.runtime, self.mark, self.root, USERS)
        leftovers.sweep()
        return leftovers

    def clean_up(self) -> None:
        for process in self.started:
            for pid, found in procfs.process_table().items():
                if found.session == process.pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """No control group holds anything here."""
    monkeypatch.setattr(sweep.Containment, "detect", lambda _: Containment(TREE))
    made = Host(tmp_path)
    yield made
    made.clean_up()


def test_who_starts_marked_processes_without_end_holds_no_start_up(host: Host) -> None:
    forker = host.fork_without_end("of nobody", SECOND_USER)
    host.note("theirs", SECOND_USER)
    host.note("another's", THIRD_USER)
    begun = time.monotonic()
    leftovers = host.swept()
    assert time.monotonic() - begun < sweep.SWEEP_SECONDS_MAX / 2
    assert leftovers.alive == frozenset()
    assert lives(forker.pid), "or there was nothing to try"


def test_the_id_of_another_users_run_keeps_that_from_no_new_attempt(host: Host) -> None:
    host.note("another's", THIRD_USER)
    host.fork_without_end("another's", SECOND_USER)
    assert host.swept().alive == frozenset()


def test_a_run_of_the_same_user_that_cannot_be_ended_stays(host: Host) -> None:
    """It costs that user's own actions."""
    host.note("theirs", SECOND_USER)
    host.fork_without_end("theirs", SECOND_USER)
    assert host.swept().alive == {"theirs"}
    assert os.listdir(host.runtime.runs) == ["theirs"]


def test_a_process_of_the_daemons_user_that_cannot_be_ended_has_all_the_time(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be of a run that nothing was noted of."""
    monkeypatch.setattr(sweep, "SWEEP_SECONDS_MAX", 2.0)
    monkeypatch.setattr(process_tree, "signal_process", lambda *_: None)
    host.pretend("ours", os.getuid())
    host.pretend("theirs", SECOND_USER)
    begun = time.monotonic()
    assert host.swept().alive == {"ours"}
    assert time.monotonic() - begun >= 2.0


def test_a_result_is_not_corrected_on_the_word_of_another_user(host: Host) -> None:
    """A run that was killed has failed; one that the sweep ended is begun again."""
    host.note("another's", THIRD_USER)
    host.note("theirs", SECOND_USER)
    for run_id in ("another's", "theirs"):
        host.pretend(run_id, SECOND_USER)
    leftovers = Leftovers(host.runtime, host.mark, host.root, USERS)
    leftovers.begin_sweep()
    for run_id in ("another's", "theirs"):
        killed = RunResult(run_id, EndCause.EXITED, signal=signal.SIGKILL, ended_us=1)
        results.keep(host.runtime, killed)
    leftovers.sweep()
    causes = {run_id: found.cause for run_id, found in leftovers.kept_results().items()}
    assert causes == {"another's": EndCause.EXITED, "theirs": EndCause.STOPPED}
