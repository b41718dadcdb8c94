"""Answers `geosched-ctl`: who may ask what, and which request waits for what.

Requests are answered from the loop, so each sees one consistent state. Peers are known by
the kernel's word (fact Z5): root, the daemon's own user and the configured operators may
do everything, everybody else who can reach the socket may look. Carrying a request out is
the `Desk`'s part.
"""

import logging
import os
import pwd
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, assert_never

from .. import __version__
from ..ipc.control import (
    Accepted,
    Acknowledged,
    AcknowledgeIncidents,
    ActionIs,
    ActionsAre,
    ActionView,
    Answer,
    Call,
    EventsAre,
    GetStatus,
    ListActions,
    LogChunk,
    Ping,
    Pong,
    ReadEvents,
    ReadLog,
    RefusalKind,
    Refused,
    Reply,
    ShowAction,
    Shutdown,
    ShuttingDown,
    StatusIs,
    StopAction,
    Stopped,
    Sync,
    Synced,
)
from ..ipc.sockets import Peer, ProtocolError, Server
from .backend import SyncAsked
from .core.model import Instant

log = logging.getLogger(__name__)

REQUESTS_PER_TURN_MAX = 50
#: Clients that wait for an event, a stop or a sync; one more is refused.
WAITING_MAX = 64
EVENTS_WAIT_SECONDS_MAX = 10.0
#: What INTERFACE grants `stop` and `shutdown` beyond the grace, `sync` beyond the time-out.
BOUND_MARGIN_SECONDS = 10.0


class Desk(Protocol):
    """What the daemon can do for a client."""

    def status(self) -> StatusIs: ...
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


@dataclass(slots=True)
class _Waiting:
    """A client whose answer comes later."""

    routing_id: bytes
    number: int
    until: float
    stop_id: str | None = None
    sync: SyncAsked | None = None
    events_after: int | None = None


class Control:
    def __init__(self, server: Server[Call, Reply], desk: Desk, operators: Collection[str]) -> None:
        self.bad_messages = 0
        self._server = server
        self._desk = desk
        self._operators = operators
        self._waiting: list[_Waiting] = []

    def permit(self, operators: Collection[str]) -> None:
        """Who may act from now on: names or numbers of users."""
        self._operators = operators

    def gather(self, now: Instant) -> None:
        for peer, call in self._server.drain(REQUESTS_PER_TURN_MAX):
            if isinstance(call, ProtocolError):
                self._bad_request(peer, call)
                continue
            answer = self._answer(peer, call, now)
            if answer is not None:
                self._reply(peer.routing_id, call.number, answer)

    def answer_waiting(self, now: Instant) -> None:
        """After a turn: tell those whose wait is over."""
        still: list[_Waiting] = []
        for waiting in self._waiting:
            answer = self._ready(waiting, now)
            if answer is None and now.monotonic_seconds < waiting.until:
                still.append(waiting)
            elif answer is not None:
                self._reply(waiting.routing_id, waiting.number, answer)
        self._waiting = still

    def next_deadline(self) -> float | None:
        return min((waiting.until for waiting in self._waiting), default=None)

    def _answer(self, peer: Peer, call: Call, now: Instant) -> Answer | None:
        request, desk = call.request, self._desk
        acts = isinstance(request, Sync | StopAction | Shutdown | AcknowledgeIncidents)
        if acts and not self._may_act(peer):
            log.warning("Refused %s to uid %d", type(request).__name__, peer.uid)
            return Refused(RefusalKind.NOT_PERMITTED, f"uid {peer.uid} may look, but not act")
        match request:
            case Ping():
                return Pong(os.getpid(), __version__)
            case GetStatus():
                return desk.status()
            case ListActions():
                return desk.actions(request)
            case ShowAction(action_id):
                return desk.action(action_id) or _no_such(action_id)
            case ReadLog():
                return desk.log(request)
            case ReadEvents():
                return self._events(peer, call.number, request, now)
            case Sync() | StopAction():
                return self._begin(peer, call.number, request, now)
            case AcknowledgeIncidents():
                log.info("uid %d has seen what happened to daemonDB", peer.uid)
                return desk.acknowledge()
            case Shutdown():
                log.info("Shutdown asked by uid %d", peer.uid, extra={"event": "shutdown-asked"})
                return ShuttingDown(os.getpid(), desk.ask_shutdown() + BOUND_MARGIN_SECONDS / 2)
        assert_never(request)

    def _begin(
        self, peer: Peer, number: int, request: Sync | StopAction, now: Instant
    ) -> Answer | None:
        if len(self._waiting) >= WAITING_MAX:
            return Refused(RefusalKind.FAILED, "too many clients wait already")
        if isinstance(request, StopAction):
            bound = self._desk.stop_bound_seconds(request.id)
            if isinstance(bound, Refused):
                return bound
            log.info("Stop of %s asked by uid %d", request.id, peer.uid, extra={"id": request.id})
            self._desk.ask_stop(request.id)
            waiting = _Waiting(peer.routing_id, number, 0.0, stop_id=request.id)
        else:
            bound = self._desk.sync_bound_seconds()
            asked = self._desk.ask_sync()
            if not request.wait:
                return Synced(asked.counts)
            waiting = _Waiting(peer.routing_id, number, 0.0, sync=asked)
        # The run goes on stopping when nobody waits any more: only the answer is dropped.
        waiting.until = now.monotonic_seconds + 10 * bound
        self._waiting.append(waiting)
        return Accepted(bound)

    def _events(self, peer: Peer, number: int, request: ReadEvents, now: Instant) -> Answer | None:
        events = self._desk.events(request.after)
        if events.events or not request.wait or len(self._waiting) >= WAITING_MAX:
            return events
        until = now.monotonic_seconds + EVENTS_WAIT_SECONDS_MAX
        self._waiting.append(_Waiting(peer.routing_id, number, until, events_after=request.after))
        return None

    def _ready(self, waiting: _Waiting, now: Instant) -> Answer | None:
        if waiting.stop_id is not None:
            found = self._desk.action(waiting.stop_id)
            return Stopped(found.action) if found and _is_done(found.action) else None
        if waiting.sync is not None:
            done = waiting.sync.done
            return Synced(waiting.sync.counts, waiting.sync.error) if done else None
        assert waiting.events_after is not None
        events = self._desk.events(waiting.events_after)
        return events if events.events or now.monotonic_seconds >= waiting.until else None

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


def _is_done(action: ActionView) -> bool:
    return action.phase == "done"


def _no_such(action_id: str) -> Refused:
    return Refused(RefusalKind.NO_SUCH_ACTION, f"there is no action {action_id!r}")
