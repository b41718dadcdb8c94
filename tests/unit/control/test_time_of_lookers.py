"""Requests of those who may only look: so much processor time of a turn, and so many rows each."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from geosched.ipc.actions import ExecutionStatus
from geosched.ipc.messages import control
from geosched.ipc.messages.control import (
    ActionsAre,
    Answer,
    Call,
    ListActions,
    Ping,
    Reply,
    Request,
)
from geosched.ipc.sockets import Peer
from geosched.supervisor.control import server
from geosched.supervisor.control.handlers import Handlers
from geosched.supervisor.control.operators import Operators
from geosched.supervisor.control.server import Control
from geosched.supervisor.core.model import Instant
from geosched.supervisor.participant import News
from geosched.supervisor.store.daemondb import DaemonDB
from support.store import add

STRANGER = 12_345
REQUEST_SECONDS = server.LOOKING_SECONDS_OF_TURN_MAX / 2


class Wire:
    """A server whose peers are made up; who is not heard waits, as the router has it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Peer, Call]] = []
        self.answered: list[bytes] = []

    def drain(
        self, messages_max: int, *, heard: Callable[[Peer], bool]
    ) -> Iterator[tuple[Peer, Call]]:
        waiting, self.asked = self.asked, []
        for peer, call in waiting[:messages_max]:
            if heard(peer):
                yield peer, call
            else:
                self.asked.append((peer, call))

    def send(self, routing_id: bytes, _: Reply) -> bool:
        self.answered.append(routing_id)
        return True


class Slow:
    """Takes its time for each request."""

    def look(self, _: Request) -> Answer:
        over_seconds = time.thread_time() + REQUEST_SECONDS
        while time.thread_time() < over_seconds:
            pass
        return control.Dropped(0)


def test_who_may_only_look_has_so_much_of_a_turn_and_who_may_act_is_heard_behind_them() -> None:
    wire = Wire()
    allowed = Operators(None, ())  # type: ignore[arg-type]
    asking = Control(wire, Slow(), allowed)  # type: ignore[arg-type]
    for number in range(20):
        wire.asked.append((Peer(b"stranger", STRANGER, 0, number), Call(1, Ping())))
    wire.asked.append((Peer(b"root", 0, 0, 1), Call(1, Ping())))
    asking.gather(News(), Instant(0))
    assert wire.answered == [b"stranger", b"stranger", b"root"]
    asking.gather(News(), Instant(0))
    assert wire.answered[3:] == [b"stranger"] * 2, "another turn, and as much of it"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[DaemonDB]:
    with closing(DaemonDB.open(tmp_path, map_bytes=4 * 1024**2)) as opened:
        yield opened


def test_one_request_reads_so_many_rows_and_may_find_none_in_them(
    db: DaemonDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geosched.supervisor.store.tables.actions.PAGE_ROWS_MAX", 10)
    add(db, *(f"action {number}" for number in range(25)))
    loop = SimpleNamespace(now=Instant(0), parts=SimpleNamespace(db=db))
    handlers = Handlers(loop, None, containment="tree")  # type: ignore[arg-type]
    pages, cursor = 0, ""
    while pages == 0 or cursor:
        answer = handlers.look(ListActions(("FAILED",), cursor))
        assert isinstance(answer, ActionsAre)
        assert answer.actions == ()
        pages, cursor = pages + 1, answer.cursor
    assert pages == 3


def test_a_page_holds_so_many_names_and_one_action_more(db: DaemonDB) -> None:
    """Its frame is bounded."""
    names = tuple(f"{'x' * 1000}{number}" for number in range(40))
    add(db, *(f"action {number}" for number in range(6)), app_names=names)
    found, cursor = db.page("", 100, frozenset(ExecutionStatus))
    assert (len(found), bool(cursor)) == (2, True)
