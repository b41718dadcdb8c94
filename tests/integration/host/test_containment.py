"""Whole trees of processes: held by a cgroup of either kind, or found without one."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from geosched.workers.host import cgroups, procfs
from geosched.workers.host.cgroups import Containment, Group
from geosched.workers.host.process_tree import RunTree
from support.wait import wait_for
from support.workers import end_marked

INSTANCE = f"test-containment-{os.getpid()}"
Start = Callable[..., subprocess.Popen[bytes]]


def of_kind(kind: str) -> Containment:
    """The containment that a host with only this kind would find."""
    for hierarchy, own in cgroups._own_groups():
        if hierarchy.kind == kind and cgroups._usable(own / INSTANCE / "probe", hierarchy):
            return Containment(kind, own / INSTANCE, hierarchy)
    pytest.skip(f"no {kind} can be made on this host")


@pytest.fixture(params=["cgroup2", "cgroup1"])
def held(request: pytest.FixtureRequest) -> Iterator[Containment]:
    found = of_kind(request.param)
    yield found
    for group in found.leftovers():
        wait_for(lambda group=group: group.kill() or not group.pids())
    found.remove()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a shell with the marks of run `r`; ends whatever carries them."""
    started: list[subprocess.Popen[bytes]] = []

    def starter(body: str, group: Group | None = None, run: str = "r") -> subprocess.Popen[bytes]:
        environment = {"GEOSCHED_INSTANCE": INSTANCE, "GEOSCHED_RUN_ID": run, "HERE": str(tmp_path)}
        if group is not None:
            body = f"echo $$ > {group.directory}/cgroup.procs; {body}"
        process = subprocess.Popen(
            ["/bin/sh", "-c", body], env=os.environ | environment, start_new_session=True
        )
        started.append(process)
        return process

    yield starter
    wait_for(lambda: not end_marked(INSTANCE, Containment("tree")))
    for process in started:
        process.kill()
        process.wait()


def pid_in(path: Path) -> int:
    return int(wait_for(lambda: path.exists() and path.read_text().strip()))


def lives(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is not None and not found.ended


BARE = "setsid env -i sh -c 'trap : TERM; echo $$ > $0; while :; do sleep 0.05; done' $HERE/bare &"


def test_a_group_ends_even_what_has_no_mark_no_session_and_no_parent(
    held: Containment, start: Start, tmp_path: Path
):
    group = held.group("r")
    assert group is not None
    group.make()
    start(f"({BARE}); exit 0", group).wait()
    bare = pid_in(tmp_path / "bare")
    assert bare in group.pids()
    wait_for(lambda: RunTree(INSTANCE, "r", group=held.group("r")).kill())
    assert not lives(bare)
    assert not Path(group.directory).exists()


def test_groups_that_a_script_made_in_its_own_go_too(
    held: Containment, start: Start, tmp_path: Path
):
    group = held.group("r")
    assert group is not None
    group.make()
    inner = Path(group.directory, "inner")
    start(f"mkdir {inner}; echo $$ > {inner}/cgroup.procs; echo $$ > $HERE/pid; sleep 600", group)
    pid = pid_in(tmp_path / "pid")
    assert pid in group.pids()
    wait_for(lambda: RunTree(INSTANCE, "r", group=held.group("r")).kill())
    assert not lives(pid)
    assert not Path(group.directory).exists()


def test_groups_that_were_left_are_found_and_ended_by_the_sweep(
    held: Containment, start: Start, tmp_path: Path
):
    group = held.group("another")
    assert group is not None
    group.make()
    start(f"({BARE}); exit 0", group, "another").wait()
    bare = pid_in(tmp_path / "bare")
    assert [found.directory for found in held.leftovers()] == [group.directory]
    wait_for(lambda: not end_marked(INSTANCE, held))
    assert not lives(bare)
    assert held.leftovers() == []


def test_what_is_detected_can_be_used_and_is_removed_again():
    found = Containment.detect(INSTANCE + "/../x")
    assert found.kind in ("cgroup2", "cgroup1", "tree")
    if found.base is not None:
        assert ".." not in found.base.parts
        found.remove()
        assert not found.base.exists()


def test_without_a_group_a_run_is_found_by_mark_session_and_descent(start: Start, tmp_path: Path):
    script = start("setsid sleep 601 & sh -c 'exec env -i sleep 602' & wait")
    tree = RunTree(INSTANCE, "r", script.pid)
    wait_for(lambda: len(tree.members()) == 3)
    assert not RunTree(INSTANCE, "another").members()
    assert not RunTree("another", "r").members()
    wait_for(tree.kill)
    assert script.wait() == -9


def test_the_session_of_a_script_that_is_gone_is_still_its_run(start: Start, tmp_path: Path):
    script = start("env -i sh -c 'echo $$ > $0; sleep 600' $HERE/left & exit 0")
    left = pid_in(tmp_path / "left")
    script.wait()
    wait_for(lambda: RunTree(INSTANCE, "r", script.pid).kill())
    assert not lives(left)


def test_a_stranger_with_the_pid_of_a_script_of_old_is_left_alone(start: Start):
    stranger = start("sleep 600", run="somebody-else")
    assert RunTree(INSTANCE, "r", stranger.pid).kill()
    assert stranger.poll() is None


def test_a_signal_reaches_everybody_and_wakes_the_stopped(start: Start):
    script = start("setsid sleep 600 & kill -STOP $$; wait")
    tree = RunTree(INSTANCE, "r", script.pid)
    wait_for(lambda: sum(m.state == "T" for m in tree.members().values()) == 1)
    tree.signal(15)
    assert script.wait(5) == -15
    wait_for(tree.gone)
