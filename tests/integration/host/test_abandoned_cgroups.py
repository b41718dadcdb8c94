"""Control groups of daemons that were killed, removed by the next one, whatever its place."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.supervisor.startup.mark import instance_of
from geosched.workers.host import cgroups, procfs
from geosched.workers.host.cgroups import Containment
from support.daemon import Daemon, daemon_installation
from support.wait import wait_for


def instance(number: int) -> str:
    return f"{procfs.boot_id()}-{os.getpid():08x}{number:04x}"


@pytest.fixture
def ours() -> Iterator[Containment]:
    found = Containment.detect(instance(0))
    if found.base is None:
        pytest.skip("no cgroup can be made on this host")
    yield found
    found.remove()


@pytest.fixture
def others(ours: Containment) -> Iterator[Containment]:
    """Of another instance, with the group of one worker and one that its script made."""
    found = Containment.detect(instance(1))
    group = found.group("worker-1")
    assert group is not None
    group.make()
    Path(group.directory, "scripts-own").mkdir()
    yield found
    for group in found.leftovers():
        wait_for(lambda group=group: group.kill() or not group.pids())
    found.remove()


def base_of(groups: Containment) -> Path:
    assert groups.base is not None
    return groups.base


def test_empty_groups_of_another_instance_are_removed(ours: Containment, others: Containment):
    ours.remove_abandoned()
    assert not base_of(others).exists()
    assert base_of(ours).exists()


def test_groups_of_an_instance_that_lives_stay(ours: Containment, others: Containment):
    held = others.hold()
    assert held is not None
    ours.remove_abandoned()
    assert (base_of(others) / "worker-1").exists()
    os.close(held)
    ours.remove_abandoned()
    assert not base_of(others).exists()


def test_nobody_else_can_hold_it(ours: Containment):
    held = ours.hold()
    assert held is not None
    os.close(held)
    assert stat.S_IMODE(base_of(ours).stat().st_mode) == 0o711


def test_groups_with_processes_stay(ours: Containment, others: Containment):
    join = base_of(others) / "worker-1" / "cgroup.procs"
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        try:
            join.write_text(str(process.pid))
            ours.remove_abandoned()
            assert process.pid in cgroups.Group(str(join.parent), others._hierarchy).pids()
        finally:
            process.kill()


def test_what_only_has_a_similar_name_stays(ours: Containment):
    strangers = [base_of(ours).parent / name for name in ("geosched-mine", "geosched-" + "a" * 49)]
    for stranger in strangers:
        stranger.mkdir()
    try:
        ours.remove_abandoned()
        assert all(stranger.exists() for stranger in strangers)
    finally:
        for stranger in strangers:
            stranger.rmdir()


def test_a_daemon_removes_what_a_killed_one_left_and_spares_one_that_lives():
    with (
        daemon_installation() as killed,
        daemon_installation() as living,
        daemon_installation() as later,
    ):
        for daemon in (killed, living, later):
            daemon.configure(scripts={}, spare_workers=0)
            daemon.start()
        left, spared = group_of(killed), group_of(living)
        killed.kill()
        wait_for(lambda: not processes_in(left), seconds=15)
        assert left.exists()
        later.terminate()
        later.start()
        assert not left.exists()
        assert spared.exists()


def group_of(daemon: Daemon) -> Path:
    found = Containment.detect(instance_of(daemon.root / "state")).base
    if found is None:
        pytest.skip("no cgroup can be made on this host")
    return found


def processes_in(base: Path) -> set[int]:
    found: set[int] = set()
    for directory, _, _ in os.walk(base):
        found |= {int(line) for line in Path(directory, "cgroup.procs").read_text().split()}
    return found
