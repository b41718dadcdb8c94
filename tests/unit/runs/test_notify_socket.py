"""The file of a script's socket: whose it is, and what becomes of it."""

import os
import select
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from geosched.ipc.paths import Runtime
from geosched.workers.runfiles.processes import forget_sockets, make_directories
from geosched.workers.runs.notify import SOCKETS_MAX, Notice, NotifySocket

Open = Callable[[], NotifySocket]


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with tempfile.TemporaryDirectory(prefix="gs-", dir="/tmp") as place:
        made = Runtime(Path(place))
        umask = os.umask(0o777)
        try:
            make_directories(made)
        finally:
            os.umask(umask)
        yield made


@pytest.fixture
def opened(runtime: Runtime) -> Iterator[Open]:
    made: list[NotifySocket] = []

    def opened() -> NotifySocket:
        path = runtime.notify_socket(os.getpid())
        made.append(NotifySocket(path, os.geteuid(), select.poll(), belongs=lambda _: True))
        return made[-1]

    yield opened
    for each in made:
        each.close()


def connected(notify: NotifySocket) -> socket.socket:
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.connect(notify.address)
    return told


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_it_is_its_users_alone_whatever_the_umask(runtime: Runtime, opened: Open, umask: int):
    before = os.umask(umask)
    try:
        path = Path(opened().address)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(runtime.notify.stat().st_mode) == 0o711


def test_it_takes_the_place_of_a_link_and_follows_none(runtime: Runtime, opened: Open):
    other = runtime.dir / "other"
    runtime.notify_socket(os.getpid()).symlink_to(other)
    notify = opened()
    assert not other.exists()
    with connected(notify) as told:
        told.send(b"STATUS=here")
    assert notify.drain() == [Notice(status="here")]


def test_a_folder_that_others_can_write_or_a_link_to_one_is_not_used(
    runtime: Runtime, opened: Open
):
    runtime.notify.chmod(0o733)
    with pytest.raises(OSError, match="others than its own user can write"):
        opened()
    runtime.notify.rename(runtime.dir / "moved")
    runtime.notify.symlink_to(runtime.dir / "moved")
    with pytest.raises(OSError, match="Not a directory"):
        opened()


def test_whoever_connected_first_is_heard_however_often_it_is_removed(opened: Open):
    notify = opened()
    with connected(notify) as first:
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(3 * SOCKETS_MAX):
            assert not notify.mend()
            Path(notify.address).unlink()
            assert notify.mend()
        assert len(os.listdir("/proc/self/fd")) < descriptors + SOCKETS_MAX
        with connected(notify) as last:
            first.send(b"STATUS=first")
            last.send(b"STATUS=last")
        assert notify.drain() == [Notice(status="first"), Notice(status="last")]


def test_where_it_cannot_be_made_anew_nobody_is_called_silent(runtime: Runtime, opened: Open):
    notify = opened()
    Path(notify.address).unlink()
    runtime.notify.rmdir()
    assert notify.mend()
    make_directories(runtime)
    assert notify.mend()
    assert not notify.mend()


def test_the_files_of_workers_that_are_gone_are_removed(runtime: Runtime, opened: Open):
    opened().close()
    (runtime.notify / "4711").touch()
    forget_sockets(runtime)
    assert [*runtime.notify.iterdir()] == []
