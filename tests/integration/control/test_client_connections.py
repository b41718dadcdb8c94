"""A client whose connection the daemon closes meanwhile loses no request."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc import client as module
from geosched.ipc.client import Client, ClientError
from geosched.ipc.messages.control import Call, Ping, Pong, Reply
from geosched.ipc.router import IDLE_SECONDS_MAX, Router
from geosched.ipc.sockets import Poller
from geosched.ipc.wire import ProtocolError
from support.limits import no_descriptors
from support.router import BOUNDS
from support.wait import wait_for


class Daemon:
    """Answers pings. `now` is the clock that it goes by; `asked_by` are its peers, by request."""

    def __init__(self, path: Path) -> None:
        self.now = 1000.0
        self.asked_by: list[bytes] = []
        self.router: Router[Call, Reply] = Router(
            path, receives=Call, bounds=BOUNDS, monotonic_seconds=lambda: self.now
        )
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        poller = Poller()
        poller.watch(self.router.fileno())
        while not self._leave.is_set():
            poller.wait(0.02)
            for peer, call in self.router.drain(16):
                assert not isinstance(call, ProtocolError)
                self.asked_by.append(peer.routing_id)
                self.router.send(peer.routing_id, Reply(call.number, Pong(1, "x")))
            self.router.expire(())

    def close(self) -> None:
        self._leave.set()
        self._thread.join(10)
        self.router.close()


@pytest.fixture
def daemon(path: Path) -> Iterator[Daemon]:
    made = Daemon(path)
    yield made
    made.close()


def test_a_client_that_asks_again_soon_stays_connected(daemon: Daemon, path: Path):
    with Client(path) as client:
        for _ in range(3):
            client.ask(Ping(), Pong)
    assert len(set(daemon.asked_by)) == 1


def test_a_client_that_has_not_asked_for_long_connects_anew(
    daemon: Daemon, path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "UNUSED_SECONDS_MAX", 0.0)
    with Client(path) as client:
        for _ in range(3):
            client.ask(Ping(), Pong)
    assert len(set(daemon.asked_by)) == 3


def test_it_connects_anew_long_before_the_daemon_closes(daemon: Daemon):
    assert module.UNUSED_SECONDS_MAX <= IDLE_SECONDS_MAX / 2


def test_a_client_whose_connection_was_closed_is_answered(daemon: Daemon, path: Path):
    with Client(path) as client:
        for closed in range(1, 4):
            client.ask(Ping(), Pong)
            daemon.now += IDLE_SECONDS_MAX
            wait_for(lambda: daemon.asked_by[-1] not in daemon.router._connections)
            client.ask(Ping(), Pong)
            assert len(set(daemon.asked_by)) == closed + 1


def test_a_client_that_has_no_descriptor_left_says_so(daemon: Daemon, path: Path):
    with no_descriptors(), pytest.raises(ClientError, match="Too many open files"):
        Client(path)
