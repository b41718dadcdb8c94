"""A store whose file may not grow though its disk has room: LMDB says EIO, as of a dying one."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.supervisor.core.model import Change
from geosched.supervisor.store.daemondb import DaemonDB
from geosched.supervisor.store.errors import StoreError, StoreErrorKind
from support.daemon import Daemon, daemon_installation, entry
from support.limits import file_size
from support.store import seen
from support.wait import wait_for

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        script = installed.script("s", "trap 'exit 0' TERM\nnote began\nsleep 600 & wait $!")
        installed.configure(scripts={"default": {"command": [script], "stop_grace": "2s"}})
        yield installed


def additions(count: int) -> list[Change]:
    return [seen(f"a{number}") for number in range(count)]


@pytest.mark.parametrize("more_bytes", [0, 4096, 6000, 100_000])
def test_a_limit_of_file_sizes_is_a_full_disk_and_no_failing_one(tmp_path: Path, more_bytes: int):
    """Where a write is cut short, by whatever number of bytes, LMDB says EIO."""
    with file_size(1024 * 1024):  # so that the store gets no blocks ahead
        db = DaemonDB.open(tmp_path)
    data = tmp_path / "daemondb" / "data.mdb"
    with file_size(data.stat().st_size + more_bytes), pytest.raises(StoreError) as caught:
        db.commit(additions(2000), report=False)
    assert caught.value.kind is StoreErrorKind.FULL
    assert not caught.value.fatal
    assert all(db.commit(additions(2000), report=False).won)
    db.close()


def test_a_daemon_waits_for_the_limit_to_be_lifted_and_goes_on(daemon: Daemon):
    known = [entry("a", -1, 600)]
    daemon.send(known)
    daemon.start()
    daemon.wait_phase("a", "running")
    assert daemon.process is not None
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (34 * 1024, UNLIMITED[1]))
    due = [entry(f"b{n}", -1, 600) for n in range(3)]
    daemon.send([*known, *due, *(entry(f"c{n}", 600, 900) for n in range(300))])

    def state() -> object:
        return daemon.json("status")["store"]["state"]

    wait_for(lambda: state() == "full", seconds=20, what="a store that calls itself full")
    assert daemon.notes("began", "b0") == []
    assert daemon.action("a")["phase"] == "running"
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, UNLIMITED)
    for number in range(3):
        daemon.wait_phase(f"b{number}", "running", seconds=30)
    wait_for(lambda: state() == "ok", seconds=20, what="a store that is well again")
    assert daemon.terminate() == 0
