"""Who may ask the daemon for what, and who waits for what."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import msgspec
import pytest
from geosched.ipc.messages import control, views
from geosched.ipc.messages.control import (
    Accepted,
    Acting,
    Answer,
    Call,
    RefusalKind,
    Refused,
    Reply,
    Request,
)
from geosched.ipc.sockets import Peer
from geosched.supervisor.control.handlers import BOUND_MARGIN_SECONDS, Handlers
from geosched.supervisor.control.operators import Operators
from geosched.supervisor.control.server import PROGRESS_SECONDS, Control, Places
from geosched.supervisor.core.model import Instant
from geosched.supervisor.participant import News
from geosched.supervisor.sync.compare import Comparison
from geosched.supervisor.sync.manager import SyncAsked

STRANGER = 12_345
BOUND_SECONDS = 1.0 + BOUND_MARGIN_SECONDS
NEWS = News()
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
        self.waiting: set[bytes] = set()

    def drain(self, _: int, *, heard: object) -> Iterator[tuple[Peer, Call]]:
        while self.asked:
            yield self.asked.pop(0)

    def send(self, _: bytes, message: Reply) -> bool:
        self.said.append(message.answer)
        return True

    def next_deadline(self) -> None:
        return None

    def expire(self, waiting: set[bytes]) -> None:
        self.waiting = waiting


class Backend:
    """Notes what it is asked for, which is never done by itself."""

    def __init__(self) -> None:
        self.asked, self.comparison = SyncAsked(), Comparison(7)
        self.share: tuple[int, int] | None = None
        self.wishes = 0

    def ask(self) -> SyncAsked:
        self.wishes += 1
        return self.asked

    ask_report = ask

    def ask_comparison(self) -> Comparison:
        self.wishes += 1
        return self.comparison

    def share_applied(self) -> tuple[int, int] | None:
        return self.share


class NoHandlers:
    """Counts what it is to carry out, and has one answer to everything."""

    def __init__(self) -> None:
        self.done = 0

    def look(self, _: Request) -> Answer:
        return control.Dropped(0)

    def act(self, _: Request) -> Answer:
        self.done += 1
        return control.Dropped(0)


def handlers(tmp_path: Path, backend: Backend) -> Handlers:
    """The real ones, over as much of a loop as these tests need."""
    reports = SimpleNamespace(put_back=lambda: 3)
    running = SimpleNamespace(state=None, action=SimpleNamespace(type="default"))
    db = SimpleNamespace(
        store_dir=tmp_path, reports=reports, events=lambda _: [], read=lambda _: running
    )
    loop = SimpleNamespace(
        now=Instant(0),
        parts=SimpleNamespace(db=db, sync=backend),
        settings=SimpleNamespace(backend=SimpleNamespace(timeout_seconds=1.0), scripts={}),
    )
    return Handlers(loop, None, containment="tree")  # type: ignore[arg-type]


class Asking:
    def __init__(self, handlers: Any, operators: tuple[str, ...] = ()) -> None:
        self.wire = Wire()
        allowed = Operators(None, operators)  # type: ignore[arg-type]
        self.control = Control(self.wire, handlers, allowed)  # type: ignore[arg-type]

    def ask(self, request: Request, uid: int) -> list[Answer]:
        self.wire.asked.append((Peer(b"peer", uid, uid, 1), Call(1, request)))
        self.control.gather(NEWS, Instant(0))
        return self.told()

    def told(self) -> list[Answer]:
        said, self.wire.said = self.wire.said, []
        return said


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def asking(tmp_path: Path, backend: Backend) -> Asking:
    return Asking(handlers(tmp_path, backend))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_stranger_may_look_and_not_act(request_: Request):
    asked = NoHandlers()
    (answer,) = Asking(asked).ask(request_, STRANGER)
    refused = isinstance(answer, Refused) and answer.kind is RefusalKind.NOT_PERMITTED
    assert refused is isinstance(request_, Acting)
    assert asked.done == 0


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
@pytest.mark.parametrize("uid", [0, os.geteuid(), STRANGER])
def test_root_the_daemons_own_user_and_operators_may_do_everything(uid: int, request_: Request):
    answers = Asking(NoHandlers(), (str(STRANGER),)).ask(request_, uid)
    assert answers == [control.Dropped(0)]


def test_reports_that_were_put_back_are_answered_when_all_have_been_told(
    asking: Asking, backend: Backend
):
    assert asking.ask(control.FlushReports(), 0) == [Accepted(BOUND_SECONDS)]
    asking.control.after_turn(Instant(0))
    assert asking.told() == []
    backend.asked.counts = views.SyncView(reported=2)
    backend.asked.done, backend.asked.error = True, "cannot report: no"
    asking.control.after_turn(Instant(0))
    assert asking.told() == [control.Flushed(3, 2, "cannot report: no")]
    assert asking.control.next_deadline(Instant(0)) is None


def test_who_wants_to_see_how_a_sync_goes_is_told_now_and_then(asking: Asking, backend: Backend):
    asking.ask(control.Sync(progress=True), 0)
    asking.ask(control.Sync(), 0)
    share, told = (200, 9000), control.Progress(200, 9000)
    for moment, progress, expected in [
        (1.0, None, []),  # nothing to tell yet
        (1.1, share, [told]),
        (1.1 + PROGRESS_SECONDS / 2, share, []),
        (1.1 + PROGRESS_SECONDS, share, [told]),
    ]:
        backend.share = progress
        asking.control.after_turn(Instant(0, moment))
        assert asking.told() == expected
    backend.asked.done = True
    asking.control.after_turn(Instant(0, 2.0))
    assert asking.told() == [control.Synced(views.SyncView())] * 2


def test_a_comparison_is_answered_when_it_is_done(asking: Asking, backend: Backend):
    assert asking.ask(control.Compare(), 0) == [Accepted(BOUND_SECONDS)]
    asking.control.after_turn(Instant(0))
    assert asking.told() == []
    backend.comparison.failed("cannot pull: no", 0.0)
    asking.control.after_turn(Instant(0))
    assert asking.told() == [control.Compared(7, 0, 0, "cannot pull: no")]


WAIT = control.ReadEvents(wait=True)
CROWDED = [control.EventsAre(())]


def test_no_more_requests_of_one_user_wait_than_may(asking: Asking, backend: Backend):
    for _ in range(Places.ACTING.value.of_user):
        assert asking.ask(control.Sync(), 0) == [Accepted(BOUND_SECONDS)]
    for request in (control.Sync(), control.FlushReports(), control.StopAction("a")):
        backend.wishes = 0
        (answer,) = asking.ask(request, 0)
        assert isinstance(answer, Refused)
        assert backend.wishes == 0
    assert asking.ask(WAIT, 0) == []  # which has places of its own


@pytest.mark.parametrize("places", [Places.LOOKING, Places.ONLY_LOOKING])
def test_each_user_has_few_of_the_places_and_all_together_no_more_than_there_are(
    tmp_path: Path, backend: Backend, places: Places
):
    in_all, of_user = places.value
    users = range(1000, 1000 + in_all // of_user)
    operators = tuple(map(str, (*users, STRANGER))) if places is Places.LOOKING else ()
    asking = Asking(handlers(tmp_path, backend), operators)
    for uid in users:
        for _ in range(of_user):
            assert asking.ask(WAIT, uid) == []
        assert asking.ask(WAIT, uid) == CROWDED
    assert asking.ask(WAIT, STRANGER) == CROWDED


def test_those_who_may_only_look_take_no_place_of_those_who_may_act(asking: Asking):
    for uid in range(1000, 1000 + Places.ONLY_LOOKING.value.in_all):
        assert asking.ask(WAIT, uid) == []
        (answer,) = asking.ask(control.Sync(), uid)
        assert isinstance(answer, Refused)
    assert asking.ask(WAIT, STRANGER) == CROWDED
    assert asking.ask(WAIT, 0) == []
    assert asking.ask(control.Sync(), 0) == [Accepted(BOUND_SECONDS)]


def test_a_place_is_free_again_once_its_answer_is_there(asking: Asking, backend: Backend):
    for _ in range(Places.ACTING.value.of_user):
        asking.ask(control.Sync(), 0)
    backend.asked.done = True
    asking.control.after_turn(Instant(0))
    asking.told()
    backend.asked = SyncAsked()
    assert asking.ask(control.Sync(), 0) == [Accepted(BOUND_SECONDS)]


def test_nobody_waits_for_ever(asking: Asking):
    asking.ask(control.Sync(), 0)
    until = asking.control.next_deadline(Instant(0))
    assert until == 10 * BOUND_SECONDS
    asking.control.after_turn(Instant(0, until))
    assert asking.told() == []
    assert asking.control.next_deadline(Instant(0)) is None


def test_a_request_that_fails_unexpectedly_costs_its_answer_and_no_other(
    asking: Asking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fails(_: Request) -> Answer:
        raise OverflowError("a number of somebody else's")

    monkeypatch.setattr(asking.control._handlers, "look", fails)
    for number in (1, 2):
        (answer,) = asking.ask(control.Ping(), STRANGER)
        assert isinstance(answer, Refused)
        assert f"failure {number} in the log" in answer.detail
    assert all(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    "request_",
    [
        {"t": "logs", "id": "a", "offset": 2**63},
        {"t": "logs", "id": "a", "attempt": -1},
        {"t": "logs", "id": "a", "attempt": 2**40},
        {"t": "events", "after": 2**63},
        {"t": "events", "after": -1},
    ],
    ids=str,
)
def test_a_number_out_of_range_is_no_request(request_: dict[str, object]):
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(
            msgspec.msgpack.encode({"number": 1, "request": request_}), type=Call
        )
