"""An answer that no message can hold is a refusal; the daemon goes on."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from geosched.ipc.messages.control import Answer, Call, Dropped, Ping, RefusalKind, Refused, Reply
from geosched.ipc.sockets import Peer
from geosched.supervisor.control.operators import Operators
from geosched.supervisor.control.server import Control
from geosched.supervisor.core.model import Instant
from geosched.supervisor.participant import News


class Wire:
    """One request, and what is said to it, encoded as the router does."""

    def __init__(self) -> None:
        self.said: list[Answer] = []

    def drain(self, _: int, *, heard: object) -> Iterator[tuple[Peer, Call]]:
        yield Peer(b"peer", 0, 0, 1), Call(7, Ping())

    def send(self, _: bytes, message: Reply) -> bool:
        reply = msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Reply)
        assert reply.number == 7
        self.said.append(reply.answer)
        return True


class Handlers:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def look(self, _: Any) -> Answer:
        return self._answer


@pytest.mark.parametrize(
    "answer", [Dropped(2**64), Dropped(-(2**63) - 1), Refused(RefusalKind.FAILED, "/srv/\udcff")]
)
def test_an_answer_that_cannot_be_encoded_costs_itself(answer: Answer):
    wire = Wire()
    Control(wire, Handlers(answer), Operators(None, ())).gather(News(), Instant(0))
    (said,) = wire.said
    assert isinstance(said, Refused)
    assert said.kind is RefusalKind.FAILED
    assert "failure 1 in the log of geoschedd" in said.detail
