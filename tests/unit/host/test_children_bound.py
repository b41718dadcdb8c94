"""No more workers are asked for than descriptors fit, and none is forgotten."""

import os
from collections.abc import Iterator

import pytest
from geosched.ipc.messages.sync import BackendAddress
from geosched.ipc.messages.zygote import Forked, FromZygote, ToZygote
from geosched.supervisor.core.model import Instant
from geosched.supervisor.host.children import CHILDREN_MIN, ZYGOTE_RESTART_SECONDS, Children
from geosched.supervisor.participant import News

CHILDREN_MAX = 3


class Zygote:
    """Forks real processes for what it is asked, as soon as it is heard."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        self.pid = os.getpid()
        self.forked: list[int] = []
        self._told: list[tuple[FromZygote, int | None]] = []

    def fileno(self) -> int:
        return self._reading

    def ask(self, request: ToZygote, *_descriptors: int) -> bool:
        pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        self.forked.append(pid)
        self._told.append((Forked(request.name, pid), os.pidfd_open(pid)))
        os.write(self._writing, b"x")
        return True

    def receive(self) -> list[tuple[FromZygote, int | None]]:
        os.read(self._reading, 100)
        told, self._told = self._told, []
        return told

    def kill(self) -> None:
        pass

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)

    def leave(self, seconds: float) -> None:
        self.close()


def turn(children: Children, seconds: float = 1.0) -> News:
    news = News()
    children.gather(news, Instant(0, seconds))
    return news


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    for pid in made.forked:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_workers_beyond_the_bound_are_forked_as_others_go(zygote: Zygote):
    children = Children(lambda: zygote, children_max=CHILDREN_MAX)
    children.start()
    for number in range(CHILDREN_MAX + 2):
        children.fork_worker(f"worker-{number}", "ipc://nowhere", forks_ahead=False)
    assert len(zygote.forked) == CHILDREN_MAX
    assert len(turn(children).forked) == CHILDREN_MAX
    assert children.next_deadline(Instant(0, 1.0)) is None  # they wait, and the loop need not turn
    turn(children)
    assert len(zygote.forked) == CHILDREN_MAX
    children.fork_synchroniser("sync-1", 0, BackendAddress())  # descriptors are kept for it
    assert len(zygote.forked) == CHILDREN_MAX + 1
    for _ in range(3):
        os.kill(zygote.forked[0], 9)
        os.waitpid(zygote.forked.pop(0), 0)
    forked = [*turn(children).forked, *turn(children).forked]
    assert forked == ["sync-1", f"worker-{CHILDREN_MAX}", f"worker-{CHILDREN_MAX + 1}"]
    children.close()


def test_a_zygote_that_cannot_be_started_is_tried_again(zygote: Zygote):
    fails = [OSError(24, "Too many open files")]

    def start() -> Zygote:
        if fails:
            raise fails.pop()
        return zygote

    children = Children(start)
    turn(children)
    children.fork_worker("worker-1", "ipc://nowhere", forks_ahead=False)
    due = children.next_deadline(Instant(0, 1.0))
    assert due == 1.0 + ZYGOTE_RESTART_SECONDS
    assert list(turn(children, due).forked) == []
    assert list(turn(children, due).forked) == ["worker-1"]
    children.close()


def test_no_worker_is_asked_for_after_those_that_waited_were_dropped(zygote: Zygote):
    children = Children(lambda: zygote, children_max=CHILDREN_MAX)
    children.start()
    for number in range(CHILDREN_MAX + 2):
        children.fork_worker(f"worker-{number}", "ipc://nowhere", forks_ahead=False)
    turn(children)
    children.drop_held()
    for _ in range(2):
        os.kill(zygote.forked[0], 9)
        os.waitpid(zygote.forked.pop(0), 0)
        turn(children)
    assert len(zygote.forked) == CHILDREN_MAX - 2
    children.close()


def test_room_for_fewer_children_is_kept_but_never_for_too_few(zygote: Zygote):
    children = Children(lambda: zygote, children_max=CHILDREN_MIN + 1)
    children.start()
    assert not children.have_room_for_fewer(2)
    assert children.have_room_for_fewer(1)
    assert children.have_room_for_fewer(1)  # in all, not beside what was kept before
    for number in range(CHILDREN_MIN + 1):
        children.fork_worker(f"worker-{number}", "ipc://nowhere", forks_ahead=False)
    assert len(zygote.forked) == CHILDREN_MIN
    children.close()
