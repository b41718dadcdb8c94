"""Answers `geosched-ctl`: who may ask what, and which request waits for what.

Requests are answered from the loop, so each sees one consistent state. Peers are known by
the kernel's word (fact Z5): root, the daemon's own user and the configured operators may
do everything, everybody else who can reach the socket may look. Carrying a request out is
the `Desk`'s part.
"""

import logging
import os
import pwd
from collections.abc import Callable, Collection
from typing import Protocol, TypeAlias, assert_never

import msgspec

from ... import __version__
from ...ipc.messages.control import (
    EVENTS_WAIT_SECONDS,
    Accepted,
    Acknowledged,
    AcknowledgeIncidents,
    ActionIs,
    ActionsAre,
    Answer,
    Call,
    Compare,
    Compared,
    DifferencesAre,
    Dropped,
    DropReports,
    EventsAre,
    Flushed,
    FlushReports,
    GetStatus,
    ListActions,
    ListDifferences,
    ListReports,
    LogChunk,
    Ping,
    Pong,
    Progress,
    ReadEvents,
    ReadLog,
    RefusalKind,
    Refused,
    Reply,
    ReportsAre,
    ShowAction,
    Shutdown,
    ShuttingDown,
    StatusIs,
    StopAction,
    Stopped,
    Sync,
    Synced,
)
from ...ipc.messages.views import ActionView
from ...ipc.sockets import Peer, ProtocolError, Server
from ..core.model import Instant
from ..participant import News, Participant
from ..sync.compare import Comparison
from ..sync.syncs import SyncAsked

log = logging.getLogger(__name__)

REQUESTS_PER_TURN_MAX = 50
#: Clients that wait for an event, a stop or a sync; one more is refused.
WAITING_MAX = 64
#: Who wants to see how a sync goes is told so often.
PROGRESS_SECONDS = 0.3
#: What INTERFACE grants `stop` and `shutdown` beyond the grace, `sync` beyond the time-out.
BOUND_MARGIN_SECONDS = 10.0


class Desk(Protocol):
    """What the daemon can do for a client."""

    def status(self, bad_requests: int) -> StatusIs: ...
    def actions(self, request: ListActions) -> ActionsAre | Refused: ...
    def action(self, action_id: str) -> ActionIs | None: ...
    def log(self, request: ReadLog) -> LogChunk | Refused: ...
    def events(self, after: int) -> EventsAre: ...
    def stop_bound_seconds(self, action_id: str) -> float | Refused: ...
    def ask_stop(self, action_id: str) -> None: ...
    def ask_sync(self) -> SyncAsked: ...
    def sync_bound_seconds(self) -> float: ...
    def ask_shutdown(self) -> float: ...
    def acknowledge(self) -> Acknowledged | Refused: ...
    def reports(self, request: ListReports) -> ReportsAre: ...
    def flush_reports(self) -> int | Refused: ...
    def ask_report(self) -> SyncAsked: ...
    def ask_comparison(self) -> Comparison: ...
    def differences(self, request: ListDifferences) -> DifferencesAre | Refused: ...
    def progress(self) -> Progress | None: ...
    def drop_reports(self, request: DropReports) -> Dropped | Refused: ...


#: What needs the right to act. Everything else only looks.
Acting: TypeAlias = (
    Sync | Compare | StopAction | FlushReports | DropReports | AcknowledgeIncidents | Shutdown
)
Ready: TypeAlias = Callable[[Instant], Answer | None]


class _Waiting(msgspec.Struct):
    """A client whose answer comes later: when `ready` has one, or never, after `until`.

    `tell_at` is when it is told next how far things are; None for one that did not ask.
    """

    routing_id: bytes
    number: int
    until: float
    ready: Ready
    tell_at: float | None = None


class Control(Participant):
    def __init__(self, server: Server[Call, Reply], desk: Desk, operators: Collection[str]) -> None:
        self.bad_messages = 0
        self._server = server
        self._desk = desk
        self._operators = operators
        self._waiting: list[_Waiting] = []

    def permit(self, operators: Collection[str]) -> None:
        """Who may act from now on: names or numbers of users."""
        self._operators = operators

    def gather(self, _news: News, now: Instant) -> None:
        for peer, call in self._server.drain(REQUESTS_PER_TURN_MAX):
            if isinstance(call, ProtocolError):
                self._bad_request(peer, call)
                continue
            answer = self._answer(peer, call, now)
            if answer is not None:
                self._reply(peer.routing_id, call.number, answer)

    def after_turn(self, now: Instant) -> None:
        """After a turn: tell those whose wait is over."""
        still: list[_Waiting] = []
        for waiting in self._waiting:
            answer = waiting.ready(now)
            if answer is None and now.monotonic_seconds < waiting.until:
                still.append(waiting)
                self._tell_progress(waiting, now)
            elif answer is not None:
                self._reply(waiting.routing_id, waiting.number, answer)
        self._waiting = still

    def _tell_progress(self, waiting: _Waiting, now: Instant) -> None:
        if waiting.tell_at is None or now.monotonic_seconds < waiting.tell_at:
            return
        progress = self._desk.progress()
        if progress is not None:
            waiting.tell_at = now.monotonic_seconds + PROGRESS_SECONDS
            self._reply(waiting.routing_id, waiting.number, progress)

    def next_deadline(self, _now: Instant) -> float | None:
        return min((waiting.until for waiting in self._waiting), default=None)

    def _answer(self, peer: Peer, call: Call, now: Instant) -> Answer | None:
        request, desk = call.request, self._desk
        if isinstance(request, Acting):
            return self._act(peer, call.number, request, now)
        match request:
            case Ping():
                return Pong(os.getpid(), __version__)
            case GetStatus():
                return desk.status(self.bad_messages)
            case ListActions():
                return desk.actions(request)
            case ShowAction(action_id):
                return desk.action(action_id) or _no_such(action_id)
            case ReadLog():
                return desk.log(request)
            case ListReports():
                return desk.reports(request)
            case ListDifferences():
                return desk.differences(request)
            case ReadEvents():
                return self._events(peer, call.number, request, now)
        assert_never(request)

    def _act(self, peer: Peer, number: int, request: Acting, now: Instant) -> Answer | None:
        if not self._may_act(peer):
            log.warning("Refused %s to uid %d", type(request).__name__, peer.uid)
            return Refused(RefusalKind.NOT_PERMITTED, f"uid {peer.uid} may look, but not act")
        log.info("Asked by uid %d: %.200r", peer.uid, request, extra={"event": "asked"})
        match request:
            case Sync():
                return self._sync(peer, number, request, now)
            case Compare():
                return self._compare(peer, number, now)
            case FlushReports():
                return self._flush(peer, number, now)
            case StopAction(action_id):
                return self._stop(peer, number, action_id, now)
            case DropReports():
                return self._desk.drop_reports(request)
            case AcknowledgeIncidents():
                return self._desk.acknowledge()
            case Shutdown():
                bound = self._desk.ask_shutdown() + BOUND_MARGIN_SECONDS / 2
                return ShuttingDown(os.getpid(), bound)
        assert_never(request)

    # --- what takes time ----------------------------------------------------------------

    def _sync(self, peer: Peer, number: int, request: Sync, now: Instant) -> Answer:
        if self._crowded:
            return _CROWDED
        asked = self._desk.ask_sync()
        if not request.wait:
            return Synced(asked.counts)

        def ready(_: Instant) -> Answer | None:
            return Synced(asked.counts, asked.error) if asked.done else None

        accepted = self._accept(peer, number, now, self._desk.sync_bound_seconds(), ready)
        self._waiting[-1].tell_at = 0.0 if request.progress else None
        return accepted

    def _compare(self, peer: Peer, number: int, now: Instant) -> Answer:
        if self._crowded:
            return _CROWDED
        made = self._desk.ask_comparison()

        def ready(_: Instant) -> Answer | None:
            found = Compared(made.number, len(made.different), made.set_aside, made.error)
            return found if made.done else None

        return self._accept(peer, number, now, self._desk.sync_bound_seconds(), ready)

    def _flush(self, peer: Peer, number: int, now: Instant) -> Answer:
        if self._crowded:
            return _CROWDED
        flushed = self._desk.flush_reports()
        if isinstance(flushed, Refused):
            return flushed
        asked = self._desk.ask_report()

        def ready(_: Instant) -> Answer | None:
            done = asked.done
            return Flushed(flushed, asked.counts.reported, asked.error) if done else None

        return self._accept(peer, number, now, self._desk.sync_bound_seconds(), ready)

    def _stop(self, peer: Peer, number: int, action_id: str, now: Instant) -> Answer:
        if self._crowded:
            return _CROWDED
        bound = self._desk.stop_bound_seconds(action_id)
        if isinstance(bound, Refused):
            return bound
        self._desk.ask_stop(action_id)

        def ready(_: Instant) -> Answer | None:
            found = self._desk.action(action_id)
            return Stopped(found.action) if found and _is_done(found.action) else None

        return self._accept(peer, number, now, bound, ready)

    def _events(self, peer: Peer, number: int, request: ReadEvents, now: Instant) -> Answer | None:
        events = self._desk.events(request.after)
        if events.events or not request.wait or self._crowded:
            return events
        until = now.monotonic_seconds + EVENTS_WAIT_SECONDS

        def ready(then: Instant) -> Answer | None:
            events = self._desk.events(request.after)
            return events if events.events or then.monotonic_seconds >= until else None

        self._waiting.append(_Waiting(peer.routing_id, number, until, ready))
        return None

    @property
    def _crowded(self) -> bool:
        return len(self._waiting) >= WAITING_MAX

    def _accept(
        self, peer: Peer, number: int, now: Instant, bound: float, ready: Ready
    ) -> Accepted:
        # What was asked for goes on when nobody waits any more: only the answer is dropped.
        until = now.monotonic_seconds + 10 * bound
        self._waiting.append(_Waiting(peer.routing_id, number, until, ready))
        return Accepted(bound)

    # --- peers --------------------------------------------------------------------------

    def _may_act(self, peer: Peer) -> bool:
        if peer.uid in (0, os.geteuid()) or str(peer.uid) in self._operators:
            return True
        try:
            return pwd.getpwuid(peer.uid).pw_name in self._operators
        except KeyError:
            return False

    def _bad_request(self, peer: Peer, error: ProtocolError) -> None:
        """An unknown verb or a bad argument: told to the client, under number 0."""
        self.bad_messages += 1
        log.warning(
            "Refused a request of uid %d: %s", peer.uid, error, extra={"event": "bad-message"}
        )
        self._reply(peer.routing_id, 0, Refused(RefusalKind.BAD_REQUEST, str(error)))

    def _reply(self, routing_id: bytes, number: int, answer: Answer) -> None:
        if not self._server.send(routing_id, Reply(number, answer)):
            log.debug("Dropped an answer: its client has left")


_CROWDED = Refused(RefusalKind.FAILED, "too many clients wait already")


def _is_done(action: ActionView) -> bool:
    return action.phase == "done"


def _no_such(action_id: str) -> Refused:
    return Refused(RefusalKind.NO_SUCH_ACTION, f"there is no action {action_id!r}")
