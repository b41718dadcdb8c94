"""Which workers the pool takes for hung ones; what they say and do is played here."""

from collections.abc import Iterator
from typing import Any

import pytest
from geosched.ipc.messages.runs import Ready
from geosched.ipc.sockets import Peer
from geosched.supervisor.core.model import Instant
from geosched.supervisor.participant import News
from geosched.supervisor.runs.pool import Pool
from geosched.workers.host.liveness import Activity, JudgeClock

PID = 4711


class Server:
    endpoint = "ipc://nowhere"

    def __init__(self) -> None:
        self.mail: list[Any] = []

    def drain(self, _most: int) -> Iterator[tuple[Peer, Any]]:
        while self.mail:
            yield self.mail.pop(0)

    def send(self, _to: bytes, _message: Any) -> bool:
        return True


class Children:
    def __init__(self) -> None:
        self.forked: list[str] = []
        self.killed: list[str] = []

    def fork_worker(self, name: str, _endpoint: str, *, forks_ahead: bool) -> None:
        self.forked.append(name)

    def kill(self, name: str) -> None:
        self.killed.append(name)


class Cleanup:
    """There is nothing to clean up after workers without a run."""

    def gather(self, _now: Instant, *, runs: bool) -> None:
        assert not runs


class Played:
    """A pool with one worker that was asked for, and does nothing unless it is told to."""

    def __init__(self) -> None:
        self.server, self.children = Server(), Children()
        self.activity = Activity(1, 0.0, runnable=False)
        self.seconds = 0.0
        self.pool = Pool(
            self.server,
            self.children,
            Cleanup(),
            JudgeClock(0.0),
            activity_of=lambda _pid: self.activity,
        )
        self.pool.arm(0, 1)

    @property
    def name(self) -> str:
        (name,) = self.children.forked
        return name

    def turn(self, *, ready: bool = False, forked: bool = False, seconds: float = 1.0) -> None:
        self.seconds += seconds
        if ready:
            self.server.mail.append((Peer(self.name.encode(), 0, 0, PID), Ready()))
        news = News(forked={self.name: PID} if forked else {})
        self.pool.gather(news, Instant(0, self.seconds))

    @property
    def promised(self) -> int:
        return self.pool.promise(0, Instant(0, self.seconds))


@pytest.fixture
def played() -> Played:
    return Played()


def test_a_ready_worker_rests_as_long_as_it_likes_whichever_word_comes_first(played: Played):
    played.turn(ready=True)
    played.turn(forked=True)
    for _ in range(30):
        played.turn()
    assert played.children.killed == []
    assert played.promised == 1


def test_a_worker_that_does_nothing_before_it_is_ready_is_killed(played: Played):
    played.turn(forked=True)
    for _ in range(8):
        played.turn()
    assert played.children.killed == [played.name]


def test_a_worker_that_could_run_is_waited_for_however_long_that_takes(played: Played):
    played.turn(forked=True)
    played.activity = Activity(1, 0.0, runnable=True)
    for _ in range(1000):
        played.turn()
    assert played.children.killed == []


def test_no_run_is_promised_to_a_worker_that_is_being_killed(played: Played):
    played.turn(forked=True)
    for _ in range(7):
        played.turn()
    assert played.children.killed
    played.turn(ready=True)  # it was on its way
    assert played.promised == 0
