"""A run of an earlier daemon that could not be ended: settled, and its files removed, once gone."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from geosched.ipc.messages.helper import EndTrees, ToHelper, TreesEnded
from geosched.ipc.paths import Runtime
from geosched.supervisor.core.model import DaemonStarted, Instant
from geosched.supervisor.host.helpers import Job
from geosched.supervisor.runs.cleanup import RunCleanup
from geosched.supervisor.scheduler.due import STUCK_CHECK_SECONDS, DueEvents
from geosched.workers.host.cgroups import Containment
from geosched.workers.runfiles.processes import make_directories


class Host:
    """The due events of a daemon with one such run; the test plays the helper."""

    def __init__(self, root: Path) -> None:
        make_directories(Runtime(root))
        self.lock = Runtime(root).runs / "r"
        self.lock.touch()
        self.jobs: list[Job] = []
        self.happened: list[object] = []
        self._cleanup = RunCleanup(Runtime(root), root / "log", "instance", Containment("tree"))
        self._cleanup.help_by(self.submit, self.keep)
        db: Any = SimpleNamespace(read=lambda _action_id: None)
        agenda: Any = None
        self.due = DueEvents(db, agenda, self._cleanup)
        record: Any = SimpleNamespace(action=SimpleNamespace(id="a"))
        self.due.stuck = {"r": record}

    def submit(self, request: ToHelper) -> Job:
        self.jobs.append(Job(request, 0.0))
        return self.jobs[-1]

    def keep(self, _kind: type[ToHelper], *, ready: bool) -> None:
        assert not ready

    def turn(self, seconds: float) -> None:
        self._cleanup.gather(Instant(0, seconds), runs=False)
        turn: Any = SimpleNamespace(
            now=Instant(0, seconds), happened=lambda _id, event: self.happened.append(event)
        )
        self.due.stuck_runs(turn)


def test_a_stuck_run_is_settled_once_nothing_is_left_and_its_lock_is_removed(tmp_path: Path):
    host = Host(tmp_path)
    host.turn(1.0)
    host.turn(1.01)
    (job,) = host.jobs
    assert isinstance(job.request, EndTrees)
    job.answer = TreesEnded(("r",))
    assert not host.happened
    assert host.lock.exists()
    host.turn(1.0 + STUCK_CHECK_SECONDS)
    assert host.happened == [DaemonStarted(None)]
    assert not host.lock.exists()
    host.due.after_turn(Instant(0, 3.0))
    assert not host.due.stuck
