"""The server of the control socket: permissions, clients that wait, and replies.

Requests are answered from the loop, so each sees one consistent state. Peers are known by
the kernel's word (fact Z5): root, the daemon's own user and the configured operators may
act (`operators.py`), everybody else who reaches the socket may look. Requests are carried out in
`handlers.py`.
"""

import enum
import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import msgspec

from ...ipc.messages.control import (
    Accepted,
    Acting,
    Answer,
    Call,
    Progress,
    RefusalKind,
    Refused,
    Reply,
    Request,
)
from ...ipc.router import Bounds, Router
from ...ipc.sockets import Peer
from ...ipc.wire import ProtocolError
from ..core.model import Instant
from ..participant import News, Participant
from ..store.errors import StoreError
from .handlers import Handlers, Later, Polls
from .operators import Operators

log = logging.getLogger(__name__)

REQUESTS_PER_TURN_MAX = 50
#: Of processor time, for requests of those who may only look: the others of them take the next
#: turn. One request may take as much again.
LOOKING_SECONDS_OF_TURN_MAX = 0.005
#: A client that asks for the progress of its request is sent it at this interval at most.
PROGRESS_SECONDS = 0.3


class Places(enum.Enum):
    """Places of clients that wait for an answer, in all and of one uid. Those of one kind are
    taken by no other, so that who may only look keeps out nobody who may act."""

    ACTING = Bounds(in_all=64, of_user=32)  # for requests that act
    LOOKING = Bounds(in_all=32, of_user=16)  # for others of those who may act
    ONLY_LOOKING = Bounds(in_all=16, of_user=4)  # of those who may not


class _Waiting(msgspec.Struct):
    """A client whose answer comes later, or never, after `until_monotonic`; it is told of
    progress from `tell_at_monotonic` on."""

    peer: Peer
    number: int
    places: Places
    polls: Polls
    until_monotonic: float
    tell_at_monotonic: float = 0.0


class Control(Participant):
    """The participant of the loop that answers `geosched-ctl`."""

    def __init__(
        self, server: Router[Call, Reply], handlers: Handlers, operators: Operators
    ) -> None:
        self._server = server
        self._handlers = handlers
        self._operators = operators
        self._waiting: list[_Waiting] = []
        self._failures = 0
        self._looked_seconds = 0.0  # of this turn, by those who may only look

    # --- the turns of the loop ----------------------------------------------------------

    def gather(self, _news: News, now: Instant) -> None:
        """Answer the requests that have arrived."""
        self._looked_seconds = 0.0
        for peer, call in self._server.drain(REQUESTS_PER_TURN_MAX, heard=self._is_heard):
            begun_seconds = time.thread_time()
            self._answer_now(peer, call, now)
            if not self._operators.may_act(peer.uid):
                self._looked_seconds += time.thread_time() - begun_seconds

    def _is_heard(self, peer: Peer) -> bool:
        """Those who may only look have used less than their time of this turn."""
        in_time = self._looked_seconds < LOOKING_SECONDS_OF_TURN_MAX
        return in_time or self._operators.may_act(peer.uid)

    def _answer_now(self, peer: Peer, call: Call | ProtocolError, now: Instant) -> None:
        if isinstance(call, ProtocolError):
            self._refuse_unreadable(peer, call)
            return
        answer = self._carried_out(peer, partial(self._begin, peer, call, now))
        if answer is not None:
            self._reply(peer, call.number, answer)

    def next_deadline(self, _now: Instant) -> float | None:
        """Return the monotonic instant at which the first wait ends, or a connection needs
        something, or None."""
        deadlines = [waiting.until_monotonic for waiting in self._waiting]
        deadlines += [instant for instant in (self._server.next_deadline(),) if instant is not None]
        return min(deadlines, default=None)

    def after_turn(self, now: Instant) -> None:
        """Reply to the clients whose answer is there, and drop those whose time is over."""
        still: list[_Waiting] = []
        for waiting in self._waiting:
            answer = self._carried_out(waiting.peer, partial(next, waiting.polls))
            if isinstance(answer, Accepted):
                self._reply(waiting.peer, waiting.number, answer)
                waiting.until_monotonic = now.monotonic_seconds + 10 * answer.bound_seconds
                still.append(waiting)
            elif answer is not None and not isinstance(answer, Progress):
                self._reply(waiting.peer, waiting.number, answer)
            elif now.monotonic_seconds < waiting.until_monotonic:
                still.append(waiting)
                self._tell(waiting, answer, now)
        self._waiting = still
        self._server.expire({waiting.peer.routing_id for waiting in still})

    def _tell(self, waiting: _Waiting, progress: Progress | None, now: Instant) -> None:
        if progress is not None and now.monotonic_seconds >= waiting.tell_at_monotonic:
            waiting.tell_at_monotonic = now.monotonic_seconds + PROGRESS_SECONDS
            self._reply(waiting.peer, waiting.number, progress)

    # --- answers ------------------------------------------------------------------------

    def _answer(self, peer: Peer, request: Request) -> Answer | Later:
        if not isinstance(request, Acting):
            return self._handlers.look(request)
        if self._operators.may_act(peer.uid):
            return self._act(peer, request)
        return self._refuse(peer, request)

    def _act(self, peer: Peer, request: Acting) -> Answer | Later:
        log.info("Asked by uid %d: %.200r", peer.uid, request, extra={"event": "asked"})
        return self._handlers.act(request)

    def _refuse(self, peer: Peer, request: Acting) -> Refused:
        log.warning(
            "Refused %s to uid %d",
            type(request).__name__,
            peer.uid,
            extra={"event": "not-permitted", "askedBy": peer.uid},
        )
        detail = f"uid {peer.uid} may look, but not act"
        if pending := self._operators.view.pending:
            detail += f" (not looked up yet: {', '.join(pending)})"
        return Refused(RefusalKind.NOT_PERMITTED, detail)

    def _carried_out(self, peer: Peer, work: Callable[[], Answer | None]) -> Answer | None:
        """Return the answer of `work`; an unexpected error costs the answer, not the daemon."""
        try:
            return work()
        except StoreError:
            raise  # those that a request can survive are answered by its handler
        except Exception:
            self._failures += 1
            log.exception(
                "Failure %d of a request",
                self._failures,
                extra={"event": "request-failed", "askedBy": peer.uid},
            )
            detail = f"an unexpected error: failure {self._failures} in the log of geoschedd"
            return Refused(RefusalKind.FAILED, detail)

    def _begin(self, peer: Peer, call: Call, now: Instant) -> Answer | None:
        """Answer a request at once, or begin a wait. Returns what the client is sent now."""
        later = self._answer(peer, call.request)
        if not isinstance(later, Later):
            return later
        places = self._places_for(peer, call.request)
        if not self._have_room(places, peer.uid):
            return later.crowded
        answer = next(later.polls)
        if answer is not None and not isinstance(answer, Progress):
            return answer
        # The request goes on when nobody waits any more: only its answer is dropped.
        patience_seconds = later.bound_seconds * (10 if later.accepted else 1)
        until_monotonic = now.monotonic_seconds + patience_seconds
        self._waiting.append(_Waiting(peer, call.number, places, later.polls, until_monotonic))
        return Accepted(later.bound_seconds) if later.accepted else None

    def _places_for(self, peer: Peer, request: Request) -> Places:
        if isinstance(request, Acting):
            return Places.ACTING
        return Places.LOOKING if self._operators.may_act(peer.uid) else Places.ONLY_LOOKING

    def _have_room(self, places: Places, uid: int) -> bool:
        taken = Counter(each.peer.uid for each in self._waiting if each.places is places)
        return taken.total() < places.value.in_all and taken[uid] < places.value.of_user

    # --- peers --------------------------------------------------------------------------

    def _refuse_unreadable(self, peer: Peer, error: ProtocolError) -> None:
        """Tell the client of an unknown verb or a bad argument, under number 0."""
        self._handlers.bad_messages += 1
        log.warning(
            "Refused a request of uid %d: %s",
            peer.uid,
            error,
            extra={"event": "bad-message", "askedBy": peer.uid},
        )
        self._reply(peer, 0, Refused(RefusalKind.BAD_REQUEST, str(error)))

    def _reply(self, peer: Peer, number: int, answer: Answer) -> None:
        """Send an answer; the refusal where it can be no message."""
        send = partial(self._send, peer.routing_id, Reply(number, answer))
        if (refused := self._carried_out(peer, send)) is not None:
            self._send(peer.routing_id, Reply(number, refused))

    def _send(self, routing_id: bytes, reply: Reply) -> None:
        if not self._server.send(routing_id, reply):
            log.debug("Dropped an answer: its client has left")
