"""Who may ask the daemon for what, and who waits for what."""

import os
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
from geosched.ipc.messages import control, views
from geosched.ipc.messages.control import (
    Accepted,
    Answer,
    Call,
    RefusalKind,
    Refused,
    Reply,
    Request,
)
from geosched.ipc.sockets import Peer
from geosched.supervisor.control.server import PROGRESS_SECONDS, WAITING_MAX, Acting, Control
from geosched.supervisor.core.model import Instant
from geosched.supervisor.participant import News
from geosched.supervisor.sync.compare import Comparison
from geosched.supervisor.sync.syncs import SyncAsked

STRANGER = 12_345
#: One request of each kind; what it asks for does not matter here.
REQUESTS: list[Request] = [
    kind(*("x" for field in msgspec.structs.fields(kind) if field.required))
    for kind in get_args(Request)
]


class Wire:
    """A server whose peers are made up; `said` is what they were answered."""

    def __init__(self) -> None:
        self.asked: list[tuple[Peer, Call]] = []
        self.said: list[Answer] = []

    def drain(self, _: int) -> Iterator[tuple[Peer, Call]]:
        while self.asked:
            yield self.asked.pop(0)

    def send(self, _: bytes, message: Reply) -> bool:
        self.said.append(message.answer)
        return True


class Desk:
    """Notes what it is asked for, and gives whatever a caller can bear."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.asked = SyncAsked()
        self.answers: dict[str, Any] = {
            "stop_bound_seconds": 1.0,
            "sync_bound_seconds": 1.0,
            "ask_shutdown": 1.0,
            "flush_reports": 3,
            "ask_sync": self.asked,
            "ask_report": self.asked,
            "events": control.EventsAre(()),
        }

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: Any) -> Any:
            self.done.append(name)
            return self.answers.get(name, control.Dropped(0))

        return method


class Asking:
    def __init__(self, operators: tuple[str, ...] = ()) -> None:
        self.wire, self.desk = Wire(), Desk()
        self.control = Control(self.wire, self.desk, operators)  # type: ignore[arg-type]

    def ask(self, request: Request, uid: int) -> list[Answer]:
        self.wire.asked.append((Peer(b"peer", uid, uid, 1), Call(1, request)))
        self.control.gather(News(), Instant(0))
        return self.told()

    def told(self) -> list[Answer]:
        said, self.wire.said = self.wire.said, []
        return said


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_stranger_may_look_and_not_act(request_: Request):
    asking = Asking()
    (answer,) = asking.ask(request_, STRANGER)
    refused = isinstance(answer, Refused) and answer.kind is RefusalKind.NOT_PERMITTED
    assert refused is isinstance(request_, Acting)
    assert not refused or asking.desk.done == []


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
@pytest.mark.parametrize("uid", [0, os.geteuid(), STRANGER])
def test_root_the_daemons_own_user_and_operators_may_do_everything(uid: int, request_: Request):
    answers = Asking((str(STRANGER),)).ask(request_, uid)
    assert not any(isinstance(answer, Refused) for answer in answers)


def test_reports_that_were_put_back_are_answered_when_all_have_been_told():
    asking = Asking()
    assert asking.ask(control.FlushReports(), 0) == [Accepted(1.0)]
    asking.control.after_turn(Instant(0))
    assert asking.told() == []
    asking.desk.asked.counts = views.SyncView(reported=2)
    asking.desk.asked.done, asking.desk.asked.error = True, "cannot report: no"
    asking.control.after_turn(Instant(0))
    assert asking.told() == [control.Flushed(3, 2, "cannot report: no")]


def test_who_wants_to_see_how_a_sync_goes_is_told_now_and_then():
    asking = Asking()
    asking.ask(control.Sync(progress=True), 0)
    asking.ask(control.Sync(), 0)
    told = control.Progress(200, 9000)
    for moment, progress, expected in [
        (1.0, None, []),  # nothing to tell yet
        (1.1, told, [told]),
        (1.1 + PROGRESS_SECONDS / 2, told, []),
        (1.1 + PROGRESS_SECONDS, told, [told]),
    ]:
        asking.desk.answers["progress"] = progress
        asking.control.after_turn(Instant(0, moment))
        assert asking.told() == expected
    asking.desk.asked.done = True
    asking.control.after_turn(Instant(0, 2.0))
    assert asking.told() == [control.Synced(views.SyncView())] * 2


def test_a_comparison_is_answered_when_it_is_done():
    asking = Asking()
    asking.desk.answers["ask_comparison"] = comparison = Comparison(7)
    assert asking.ask(control.Compare(), 0) == [Accepted(1.0)]
    asking.control.after_turn(Instant(0))
    assert asking.told() == []
    comparison.failed("cannot pull: no", 0.0)
    asking.control.after_turn(Instant(0))
    assert asking.told() == [control.Compared(7, 0, 0, "cannot pull: no")]


def test_no_more_clients_wait_than_may():
    asking = Asking()
    for _ in range(WAITING_MAX):
        assert asking.ask(control.Sync(), 0) == [Accepted(1.0)]
    for request in (control.Sync(), control.FlushReports(), control.StopAction("a")):
        asking.desk.done.clear()
        (answer,) = asking.ask(request, 0)
        assert isinstance(answer, Refused)
        assert asking.desk.done == []
