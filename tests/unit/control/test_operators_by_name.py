"""Operators that are named: a helper looks up who asks, for a name service may hang."""

import pytest
from geosched.ipc.messages import control
from geosched.ipc.messages.control import Accepted, Answer, Call, RefusalKind, Refused, Reply
from geosched.ipc.messages.helper import Failed, NameUser, UserNamed
from geosched.ipc.sockets import Peer
from geosched.supervisor.control.handlers import Later
from geosched.supervisor.control.server import Control
from geosched.supervisor.core.model import Instant
from geosched.supervisor.host.helpers import Job
from geosched.supervisor.participant import News

UID = 12_345


class Wire:
    def __init__(self) -> None:
        self.asked: list[tuple[Peer, Call]] = []
        self.said: list[Answer] = []

    def drain(self, _: int) -> list[tuple[Peer, Call]]:
        asked, self.asked = self.asked, []
        return asked

    def send(self, _: bytes, message: Reply) -> bool:
        self.said.append(message.answer)
        return True

    def next_deadline(self) -> None:
        return None

    def expire(self, _: set[bytes]) -> None:
        return None


class Handlers:
    """Whose one job is to look up a name; a `Sync` takes time, all else is done at once."""

    def __init__(self) -> None:
        self.job = Job(NameUser(UID), 3.0)
        self.acted = 0

    def name_user(self, uid: int) -> Job:
        assert uid == UID
        return self.job

    def look(self, _: object) -> Answer:
        return control.Pong(1, "")

    def act(self, request: object) -> Answer | Later:
        self.acted += 1
        if isinstance(request, control.Sync):
            return Later(iter([None, control.Dropped(2)]), 9.0)
        return control.Dropped(1)


class Asking:
    def __init__(self) -> None:
        self.wire, self.handlers = Wire(), Handlers()
        self.control = Control(self.wire, self.handlers, ("anna", "7"))  # type: ignore[arg-type]

    def ask(self, request: control.Request) -> None:
        self.wire.asked.append((Peer(b"peer", UID, UID, 1), Call(1, request)))
        self.control.gather(News(), Instant(0))
        self.control.after_turn(Instant(0))

    def said(self) -> list[Answer]:
        self.control.after_turn(Instant(0))
        said, self.wire.said = self.wire.said, []
        return said


@pytest.fixture
def asking() -> Asking:
    return Asking()


def test_nobody_waits_for_the_name_but_who_asks(asking: Asking):
    asking.ask(control.FlushReports())
    assert asking.said() == []
    asking.ask(control.Ping())
    assert asking.said() == [control.Pong(1, "")]
    assert asking.handlers.acted == 0


def test_an_operator_may_act_once_the_name_is_known(asking: Asking):
    asking.ask(control.FlushReports())
    asking.handlers.job.answer = UserNamed("anna")
    assert asking.said() == [control.Dropped(1)]


def test_what_takes_time_is_accepted_once_the_name_is_known(asking: Asking):
    asking.ask(control.Sync())
    asking.handlers.job.answer = UserNamed("anna")
    assert asking.said() == [Accepted(9.0)]
    asking.control.after_turn(Instant(0))
    assert asking.said() == [control.Dropped(2)]


@pytest.mark.parametrize("name", ["", "bert"])
def test_others_may_not(asking: Asking, name: str):
    asking.ask(control.FlushReports())
    asking.handlers.job.answer = UserNamed(name)
    (answer,) = asking.said()
    assert isinstance(answer, Refused)
    assert answer.kind is RefusalKind.NOT_PERMITTED
    assert asking.handlers.acted == 0


def test_a_name_service_that_hangs_is_told_of(asking: Asking):
    asking.ask(control.FlushReports())
    asking.handlers.job.why_not = "no answer for 3 s"
    (answer,) = asking.said()
    assert isinstance(answer, Refused)
    assert answer.kind is RefusalKind.FAILED
    assert "no answer for 3 s" in answer.detail
    assert asking.handlers.acted == 0


def test_a_name_that_cannot_be_looked_up_is_told_of(asking: Asking):
    asking.ask(control.FlushReports())
    asking.handlers.job.answer = Failed("the table of users is broken")
    (answer,) = asking.said()
    assert isinstance(answer, Refused)
    assert "the table of users is broken" in answer.detail
