"""A client waits no longer than it was told first, whatever the daemon says after that."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from geosched.ipc.client import Client, NotDoneError
from geosched.ipc.messages.control import (
    Accepted,
    Answer,
    Call,
    Progress,
    Reply,
    StopAction,
    Stopped,
)
from geosched.ipc.router import Router
from geosched.ipc.sockets import Poller
from geosched.ipc.wire import ProtocolError
from support.router import BOUNDS

#: What a client may take beyond its bound on a loaded machine.
LATE_SECONDS_MAX = 3.0
BOUND_SECONDS = 1.0


class Repeating:
    """A daemon that says the same to every request, again and again."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.said = 0
        self._answer = answer
        self._router: Router[Call, Reply] = Router(path, receives=Call, bounds=BOUNDS)
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        poller = Poller()
        poller.watch(self._router.fileno())
        asked: list[tuple[bytes, int]] = []
        while not self._leave.is_set():
            poller.wait(0.05)
            for peer, call in self._router.drain(16):
                assert not isinstance(call, ProtocolError)
                asked.append((peer.routing_id, call.number))
            for routing_id, number in asked:
                self.said += self._router.send(routing_id, Reply(number, self._answer))

    def close(self) -> None:
        self._leave.set()
        self._thread.join(10)
        self._router.close()


@pytest.fixture
def repeating(path: Path) -> Iterator[Callable[[Answer], Repeating]]:
    made: list[Repeating] = []

    def make(answer: Answer) -> Repeating:
        made.append(Repeating(path, answer))
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()


@pytest.mark.parametrize("timeout_seconds", [None, BOUND_SECONDS])
@pytest.mark.parametrize(
    "answer", [Accepted(BOUND_SECONDS), Progress(1, 2)], ids=["accepted", "progress"]
)
def test_what_is_said_again_and_again_makes_nobody_wait_longer(
    repeating: Callable[[Answer], Repeating],
    path: Path,
    answer: Answer,
    timeout_seconds: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("geosched.ipc.client.SILENCE_SECONDS_MAX", BOUND_SECONDS)
    daemon = repeating(answer)
    began = time.monotonic()
    with (
        Client(path, timeout_seconds=timeout_seconds) as client,
        pytest.raises(NotDoneError, match="not done within 1 s"),
    ):
        client.ask(StopAction("a"), Stopped)
    assert BOUND_SECONDS <= time.monotonic() - began < BOUND_SECONDS + LATE_SECONDS_MAX
    assert daemon.said > 3
