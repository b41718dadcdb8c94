"""Descriptors that a script attaches to its notifications."""

import os
import select
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from geosched.ipc.paths import Runtime
from geosched.workers.runfiles.processes import make_directories
from geosched.workers.runs.notify import Notice, NotifySocket
from support.lingering import AT_ONCE_SECONDS, leave, lingering
from support.second_user import SECOND_USER, needs_two_users

Open = Callable[[int], NotifySocket]
EVERY = Notice()


@pytest.fixture
def opened() -> Iterator[Open]:
    made: list[NotifySocket] = []
    with tempfile.TemporaryDirectory(prefix="gs-", dir="/tmp") as place:
        runtime = Runtime(Path(place))
        make_directories(runtime)

        def opened(uid: int) -> NotifySocket:
            path = runtime.notify_socket(os.getpid())
            made.append(NotifySocket(path, uid, select.poll(), belongs=lambda _: True))
            return made[-1]

        yield opened
        for each in made:
            each.close()


def seconds_of(call: Callable[[], object]) -> float:
    began_monotonic = time.monotonic()
    call()
    return time.monotonic() - began_monotonic


def test_a_barrier_is_acknowledged_and_no_descriptor_stays(opened: Open):
    notify = opened(os.geteuid())
    before = len(os.listdir("/proc/self/fd"))
    ours, theirs = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.connect(notify.address)
        socket.send_fds(told, [b"STATUS=here"], [theirs] * 253)
        socket.send_fds(told, [b"BARRIER=1"], [theirs])
        os.close(theirs)
        assert select.select([ours], [], [], 0)[0] == []
        assert notify.drain() == [Notice(status="here"), EVERY]
        assert select.select([ours], [], [], 0)[0] == [ours]
        assert os.read(ours, 1) == b""
    os.close(ours)
    assert notify.refused == 0
    assert len(os.listdir("/proc/self/fd")) == before


@needs_two_users
@pytest.mark.parametrize("receives", [True, False])
def test_one_whose_close_waits_holds_no_worker_up(opened: Open, receives: bool):
    notify = opened(SECOND_USER)
    Path(notify.address).parents[1].chmod(0o711)
    with lingering(notify.address, socket.SOCK_DGRAM, SECOND_USER) as (process, said):
        assert said == "sent"
        leave(process)
        assert seconds_of(notify.drain if receives else notify.close) < AT_ONCE_SECONDS
    assert notify.refused == 0
