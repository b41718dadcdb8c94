"""What cannot be looked at for want of a descriptor is not taken for gone."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from geosched.ipc.messages.helper import EndTrees, Failed, LostRun, TreesEnded
from geosched.ipc.paths import Runtime
from geosched.supervisor.core.model import Instant
from geosched.supervisor.host.helpers import Job
from geosched.supervisor.runs.lost_trees import LostTrees
from geosched.supervisor.sync.backoff import Backoff
from geosched.workers.helper import carry_out
from geosched.workers.host import cgroups, procfs
from geosched.workers.host.cgroups import TREE, Containment
from geosched.workers.host.liveness import UNSEEN
from geosched.workers.runfiles import results
from support.limits import no_descriptors

INSTANCE, RUN_ID = "no-descriptors", "r1"


@pytest.fixture
def script() -> Iterator["subprocess.Popen[bytes]"]:
    marks = {procfs.INSTANCE_VARIABLE: INSTANCE, procfs.RUN_ID_VARIABLE: RUN_ID}
    with subprocess.Popen(["sleep", "60"], env=os.environ | marks, start_new_session=True) as one:
        yield one
        one.kill()


@pytest.mark.parametrize(
    "look",
    [
        procfs.children,
        procfs.marks,
        procfs.stat,
        lambda pid: cgroups._read(Path(f"/proc/{pid}/cgroup")),
        lambda pid: cgroups.Group(f"/proc/{pid}", cgroups._UNIFIED).pids(),
    ],
    ids=("children", "marks", "stat", "group", "groups"),
)
def test_to_look_at_a_process_fails(
    script: "subprocess.Popen[bytes]", look: Callable[[int], object]
):
    with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
        look(script.pid)


def test_a_run_is_not_gone_that_nobody_can_look_for(
    script: "subprocess.Popen[bytes]", tmp_path: Path
):
    request = EndTrees((LostRun(RUN_ID, script.pid, ""),), os.getpid())
    given = (INSTANCE, Containment(TREE), Runtime(tmp_path))
    with no_descriptors():
        assert isinstance(carry_out(request, *given), Failed)
    assert script.poll() is None
    carry_out(request, *given)
    assert script.wait(10) == -9
    assert carry_out(request, *given) == TreesEnded((RUN_ID,))


def test_what_a_lost_run_left_is_looked_for_once_there_are_descriptors(
    script: "subprocess.Popen[bytes]",
):
    trees = LostTrees(Containment(TREE))
    trees.help_by(lambda request: Job(request, 0.0))
    tree = trees.end(RUN_ID, script.pid, None)
    with no_descriptors():
        trees.gather(0.0)
    assert not tree.gone
    assert trees.next_deadline(0.0) is not None


def test_a_kept_result_that_cannot_be_read_now_is_not_dropped(tmp_path: Path):
    runtime = Runtime(tmp_path)
    runtime.results.mkdir()
    kept = runtime.results / RUN_ID
    kept.write_bytes(b"what a worker kept")
    with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
        results.load(runtime, RUN_ID)
    assert kept.exists()
    assert results.load(runtime, RUN_ID) is None
    assert not kept.exists()


def test_a_process_that_cannot_be_looked_at_is_not_judged(script: "subprocess.Popen[bytes]"):
    with no_descriptors():
        assert procfs.activity(script.pid) is UNSEEN
        assert procfs.activity(2**30) is UNSEEN
    assert procfs.activity(script.pid) not in (None, UNSEEN)
    assert procfs.activity(2**30) is None


def test_a_back_off_that_cannot_be_kept_holds_all_the_same(tmp_path: Path):
    now = Instant(0, 1.0, 1.0)
    backoff = Backoff(tmp_path / "backoff", now, chance=lambda: 0.5)
    backoff.turn_to("http https://backend.example")
    with no_descriptors():
        backoff.failed(pull=True, now=now)
    assert not backoff.may(pull=True, now=now)
