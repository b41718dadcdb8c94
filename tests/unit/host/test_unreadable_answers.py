"""Children that answer what nobody can read are replaced; the daemon goes on."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from geosched.ipc.messages.helper import FindUsers, FromHelper, UsersFound
from geosched.ipc.messages.zygote import FromZygote, ToZygote
from geosched.ipc.paths import Runtime
from geosched.ipc.wire import ProtocolError
from geosched.supervisor.core.model import Instant
from geosched.supervisor.host.children import Children
from geosched.supervisor.host.helpers import Helpers
from geosched.supervisor.participant import News
from geosched.workers import helper
from geosched.workers.host.cgroups import Containment
from geosched.workers.host.liveness import Activity

UNREADABLE = [b"\xc1", b"\x80", b"\x81\xa1t\xa5other", b"\x91" * 5000, b"\x81\xa1t\xa1\xff"]


class Forks:
    """Forks nothing: the test plays the helper."""

    def __init__(self) -> None:
        self.served: socket.socket | None = None
        self.killed: list[str] = []

    def fork_helper(self, _: str, served: int) -> None:
        self.served = socket.socket(fileno=os.dup(served))

    def kill(self, name: str) -> None:
        self.killed.append(name)


@pytest.mark.parametrize("said", UNREADABLE)
def test_a_helper_that_cannot_be_understood_is_given_up_with_a_reason(said: bytes):
    forks = Forks()
    helpers = Helpers(forks)
    job = helpers.submit(FindUsers(("anna",)), Instant(0, 0.0))
    assert forks.served is not None
    with forks.served as theirs:
        theirs.send(said)
        helpers.gather(News(forked={"helper-1": 1}), Instant(0, 0.0))
    helpers.close()
    assert job.answer is None
    assert "cannot read a message" in job.why_not
    assert forks.killed == ["helper-1"]


@pytest.mark.parametrize("asked", UNREADABLE)
def test_a_helper_that_does_not_understand_says_so_and_serves_the_next(asked: bytes):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.send(asked)
        ours.send(msgspec.msgpack.encode(FindUsers(("root",))))
        ours.shutdown(socket.SHUT_WR)
        given = ("test", Containment.detect("test"), Runtime(Path("/nowhere")))
        assert helper.main(theirs.detach(), *given) == 0
        answers = [msgspec.msgpack.decode(ours.recv(10_000), type=FromHelper) for _ in range(2)]
    assert "cannot read a message" in answers[0].detail
    assert isinstance(answers[1], UsersFound)


class Zygote:
    """Says what cannot be read."""

    pid = 1

    def __init__(self) -> None:
        self.killed = False
        self._reading, self._writing = os.pipe()
        os.write(self._writing, b"!")

    def fileno(self) -> int:
        return self._reading

    def ask(self, _: ToZygote, *__: int) -> bool:
        return True

    def receive(self) -> list[tuple[FromZygote, int | None]]:
        raise ProtocolError("cannot read a message")

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)

    def leave(self, _: float) -> None:
        self.close()


@pytest.fixture
def zygotes() -> Iterator[tuple[Children, list[Zygote]]]:
    made: list[Zygote] = []

    def start() -> Zygote:
        made.append(Zygote())
        return made[-1]

    children = Children(start, activity=lambda _: Activity(1, 1.0, runnable=False))
    children.start()
    yield children, made
    children.close()


def test_a_zygote_that_cannot_be_understood_is_replaced(zygotes: tuple[Children, list[Zygote]]):
    children, made = zygotes
    children.fork_worker("worker-1", "ipc://x", forks_ahead=False)
    news = News()
    children.gather(news, Instant(0, 100.0))
    assert made[0].killed
    assert list(news.failed) == ["worker-1"]
    children.fork_worker("worker-2", "ipc://x", forks_ahead=False)
    children.gather(News(), Instant(0, 200.0))
    assert len(made) == 2
