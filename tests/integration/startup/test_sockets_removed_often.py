"""Sockets that somebody removes again and again: what each making costs, and where it ends."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc.messages.control import Call, Reply
from geosched.ipc.messages.runs import FromWorker, ToWorker
from geosched.ipc.paths import Runtime
from geosched.ipc.router import Bounds, Router
from geosched.ipc.sockets import Server, new_context
from geosched.supervisor.core.model import Instant
from geosched.supervisor.host.locks import DirectoryLock
from geosched.supervisor.host.runtime_dir import (
    DESCRIPTORS_LEFT_SPARE,
    LOOK_SECONDS,
    RuntimeDirWatch,
)
from geosched.supervisor.participant import News

ROOM = 3


class Place:
    """A runtime directory with both kinds of socket, and a host that has room for so much."""

    def __init__(self, directory: Path) -> None:
        self.runtime = Runtime(directory)
        self.context = new_context()
        self.workers: Server[FromWorker, ToWorker] = Server(
            self.context, self.runtime.worker_socket, receives=FromWorker
        )
        self.control: Router[Call, Reply] = Router(
            self.runtime.control_socket, receives=Call, bounds=Bounds(8, 4), mode=0o600
        )
        self.lock = DirectoryLock(directory)
        self.aside: list[int] = []
        self.watch = RuntimeDirWatch(
            self.runtime, self.lock, [self.workers, self.control], self._set_aside
        )
        self.seconds = 0.0

    def _set_aside(self, count: int) -> bool:
        self.aside.append(count)
        return count <= ROOM

    def look(self, *removed: Path) -> None:
        for path in removed:
            path.unlink()
        for _ in range(2):  # it is noticed, then looked at
            self.seconds += LOOK_SECONDS
            self.watch.gather(News(), Instant(0, self.seconds))

    def close(self) -> None:
        self.watch.close()
        self.lock.close()
        self.workers.close()
        self.control.close()
        self.context.term()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    made.look()
    yield made
    made.close()


def open_now() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_the_makings_leave_open_is_taken_from_children_and_told(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    before = open_now()
    for number in range(1, DESCRIPTORS_LEFT_SPARE + 1):
        place.look(place.runtime.worker_socket)
        assert open_now() - before == number * place.workers.rebind_leaves_descriptors
    assert place.aside == []
    assert "lost" not in caplog.text
    place.look(place.runtime.worker_socket)
    assert place.aside == [1]
    assert f"{DESCRIPTORS_LEFT_SPARE + 1} descriptors are lost" in caplog.text


def test_where_no_room_is_left_no_more_are_made_and_the_control_socket_is(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(DESCRIPTORS_LEFT_SPARE + ROOM):
        place.look(place.runtime.worker_socket)
    assert place.workers.in_place()
    before = open_now()
    place.look(place.runtime.worker_socket, place.runtime.control_socket)
    place.look()
    assert not place.workers.in_place()
    assert place.control.in_place()
    assert open_now() == before
    assert caplog.text.count("start the daemon anew") == 1
    for _ in range(3 * DESCRIPTORS_LEFT_SPARE):
        place.look(place.runtime.control_socket)
        assert place.control.in_place()
    assert open_now() == before
