"""The clean-up after runs leaves to helpers what may wait."""

from pathlib import Path

import pytest
from geosched.ipc.messages.helper import EndTrees, FilesRemoved, RemoveFiles, ToHelper
from geosched.ipc.paths import Runtime
from geosched.supervisor.core.model import Instant
from geosched.supervisor.host.helpers import Job
from geosched.supervisor.runs import cleanup as cleanup_module
from geosched.supervisor.runs.cleanup import OUTPUTS_OF_A_JOB_MAX, RunCleanup
from geosched.workers.host.cgroups import Containment
from geosched.workers.runfiles.processes import make_directories


class Helped:
    def __init__(self, root: Path) -> None:
        make_directories(Runtime(root))
        self.jobs: list[Job] = []
        self.kept: dict[type[ToHelper], bool] = {}
        self.cleanup = RunCleanup(Runtime(root), root / "log", "instance", Containment("tree"))
        self.cleanup.help_by(self.submit, self.keep)

    def submit(self, request: ToHelper) -> Job:
        self.jobs.append(Job(request, 0.0))
        return self.jobs[-1]

    def keep(self, kind: type[ToHelper], *, ready: bool) -> None:
        self.kept[kind] = ready

    def removed(self) -> list[int]:
        """How many outputs each job was to remove."""
        requests = [job.request for job in self.jobs]
        return [len(request.paths) for request in requests if isinstance(request, RemoveFiles)]


@pytest.fixture
def helped(tmp_path: Path) -> Helped:
    return Helped(tmp_path)


def test_outputs_are_removed_by_one_job_at_a_time(helped: Helped):
    runs = [str(number) for number in range(OUTPUTS_OF_A_JOB_MAX + 50)]
    helped.cleanup.remove_output(runs)
    helped.cleanup.remove_output([])
    assert helped.removed() == [OUTPUTS_OF_A_JOB_MAX]
    helped.jobs[0].answer = FilesRemoved()
    helped.cleanup.remove_output([])
    assert helped.removed() == [OUTPUTS_OF_A_JOB_MAX, 50]
    helped.jobs[1].answer = FilesRemoved()
    helped.cleanup.remove_output([])
    assert len(helped.jobs) == 2


def test_outputs_that_a_hung_disk_kept_are_removed_later(
    helped: Helped, monkeypatch: pytest.MonkeyPatch
):
    helped.cleanup.remove_output(["a", "b"])
    helped.jobs[0].why_not = "it hangs"
    seconds = 1.0
    monkeypatch.setattr(cleanup_module.time, "monotonic", lambda: seconds)
    helped.cleanup.remove_output(["c"])
    assert helped.removed() == [2]
    seconds = cleanup_module.REMOVE_AGAIN_SECONDS + 1
    helped.cleanup.remove_output([])
    assert helped.removed() == [2, 3]


def test_a_helper_is_kept_to_end_trees_while_there_are_runs(helped: Helped):
    for runs in (True, False):
        helped.cleanup.gather(Instant(0, 0.0), runs=runs)
        assert helped.kept == {EndTrees: runs}
