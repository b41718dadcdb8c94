"""The server of the control socket: permissions, clients that wait, and replies.

Requests are answered from the loop, so each sees one consistent state. Peers are known by
the kernel's word (fact Z5): root, the daemon's own user and the configured operators may
act, everybody else who reaches the socket may look. Requests are carried out in `handlers.py`.
"""

import logging
import os
from collections.abc import Callable, Collection
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
from ...ipc.messages.helper import UserNamed
from ...ipc.router import Router
from ...ipc.sockets import Peer, ProtocolError
from ..core.model import Instant
from ..participant import News, Participant
from ..store.errors import StoreError
from .handlers import Handlers, Later, Polls

log = logging.getLogger(__name__)

REQUESTS_PER_TURN_MAX = 50
#: Longer than a helper may take to look up a name.
NAMED_SECONDS_MAX = 6.0
#: Clients that wait for an answer that takes time; and those of them that only look.
WAITING_MAX = 64
LOOKING_MAX = WAITING_MAX // 2
#: A client that asks for the progress of its request is sent it at this interval at most.
PROGRESS_SECONDS = 0.3


class _Waiting(msgspec.Struct):
    """A client whose answer comes later, or never, after `until_monotonic`; it is told of
    progress from `tell_at_monotonic` on. Unless it `acts`, it only looks."""

    routing_id: bytes
    number: int
    acts: bool
    polls: Polls
    until_monotonic: float
    tell_at_monotonic: float = 0.0


class Control(Participant):
    """The participant of the loop that answers `geosched-ctl`.

    `operators` are names or numbers of users who may act.
    """

    def __init__(
        self, server: Router[Call, Reply], handlers: Handlers, operators: Collection[str]
    ) -> None:
        self._server = server
        self._handlers = handlers
        self._operators = operators
        self._waiting: list[_Waiting] = []
        self._failures = 0

    def permit(self, operators: Collection[str]) -> None:
        """Replace the operators, after a reload."""
        self._operators = operators

    # --- the turns of the loop ----------------------------------------------------------

    def gather(self, _news: News, now: Instant) -> None:
        """Answer the requests that have arrived."""
        for peer, call in self._server.drain(REQUESTS_PER_TURN_MAX):
            if isinstance(call, ProtocolError):
                self._refuse_unreadable(peer, call)
                continue
            answer = self._carried_out(partial(self._begin, peer, call, now))
            if answer is not None:
                self._reply(peer.routing_id, call.number, answer)

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
            answer = self._carried_out(partial(next, waiting.polls))
            if isinstance(answer, Accepted):
                self._reply(waiting.routing_id, waiting.number, answer)
                waiting.until_monotonic = now.monotonic_seconds + 10 * answer.bound_seconds
                still.append(waiting)
            elif answer is not None and not isinstance(answer, Progress):
                self._reply(waiting.routing_id, waiting.number, answer)
            elif now.monotonic_seconds < waiting.until_monotonic:
                still.append(waiting)
                self._tell(waiting, answer, now)
        self._waiting = still
        self._server.expire({waiting.routing_id for waiting in still})

    def _tell(self, waiting: _Waiting, progress: Progress | None, now: Instant) -> None:
        if progress is not None and now.monotonic_seconds >= waiting.tell_at_monotonic:
            waiting.tell_at_monotonic = now.monotonic_seconds + PROGRESS_SECONDS
            self._reply(waiting.routing_id, waiting.number, progress)

    # --- answers ------------------------------------------------------------------------

    def _answer(self, peer: Peer, request: Request) -> Answer | Later:
        if not isinstance(request, Acting):
            return self._handlers.look(request)
        if peer.uid in (0, os.geteuid()) or str(peer.uid) in self._operators:
            return self._act(peer, request)
        if all(operator.isdecimal() for operator in self._operators):
            return self._refuse(peer, request)
        polls = self._act_if_named(peer, request)
        return Later(polls, NAMED_SECONDS_MAX, accepted=False)

    def _act_if_named(self, peer: Peer, request: Acting) -> Polls:
        """Carry out a request of somebody who may be an operator by name."""
        job = self._handlers.name_user(peer.uid)
        while not job.done:
            yield None
        match job.answer:
            case UserNamed(name) if name in self._operators:
                answer = self._act(peer, request)
            case UserNamed():
                answer = self._refuse(peer, request)
            case _:
                detail = f"cannot look up the name of uid {peer.uid}: {job.why_not or job.answer}"
                answer = Refused(RefusalKind.FAILED, detail)
        if not isinstance(answer, Later):
            yield answer
            return
        if answer.accepted:
            yield Accepted(answer.bound_seconds)
        yield from answer.polls

    def _act(self, peer: Peer, request: Acting) -> Answer | Later:
        log.info("Asked by uid %d: %.200r", peer.uid, request, extra={"event": "asked"})
        return self._handlers.act(request)

    def _refuse(self, peer: Peer, request: Acting) -> Refused:
        log.warning("Refused %s to uid %d", type(request).__name__, peer.uid)
        return Refused(RefusalKind.NOT_PERMITTED, f"uid {peer.uid} may look, but not act")

    def _carried_out(self, work: Callable[[], Answer | None]) -> Answer | None:
        """Return the answer of `work`; an unexpected error costs the answer, not the daemon."""
        try:
            return work()
        except StoreError:
            raise  # those that a request can survive are answered by its handler
        except Exception:
            self._failures += 1
            log.exception(
                "Failure %d of a request", self._failures, extra={"event": "request-failed"}
            )
            detail = f"an unexpected error: failure {self._failures} in the log of geoschedd"
            return Refused(RefusalKind.FAILED, detail)

    def _begin(self, peer: Peer, call: Call, now: Instant) -> Answer | None:
        """Answer a request at once, or begin a wait. Returns what the client is sent now."""
        later = self._answer(peer, call.request)
        if not isinstance(later, Later):
            return later
        looking = sum(not waiting.acts for waiting in self._waiting)
        acts = isinstance(call.request, Acting)
        if len(self._waiting) >= WAITING_MAX or (not acts and looking >= LOOKING_MAX):
            return later.crowded
        answer = next(later.polls)
        if answer is not None and not isinstance(answer, Progress):
            return answer
        # The request goes on when nobody waits any more: only its answer is dropped.
        patience_seconds = later.bound_seconds * (10 if later.accepted else 1)
        until_monotonic = now.monotonic_seconds + patience_seconds
        self._waiting.append(
            _Waiting(peer.routing_id, call.number, acts, later.polls, until_monotonic)
        )
        return Accepted(later.bound_seconds) if later.accepted else None

    # --- peers --------------------------------------------------------------------------

    def _refuse_unreadable(self, peer: Peer, error: ProtocolError) -> None:
        """Tell the client of an unknown verb or a bad argument, under number 0."""
        self._handlers.bad_messages += 1
        log.warning(
            "Refused a request of uid %d: %s", peer.uid, error, extra={"event": "bad-message"}
        )
        self._reply(peer.routing_id, 0, Refused(RefusalKind.BAD_REQUEST, str(error)))

    def _reply(self, routing_id: bytes, number: int, answer: Answer) -> None:
        """Send an answer; the refusal where it can be no message."""
        refused = self._carried_out(partial(self._send, routing_id, Reply(number, answer)))
        if refused is not None:
            self._send(routing_id, Reply(number, refused))

    def _send(self, routing_id: bytes, reply: Reply) -> None:
        if not self._server.send(routing_id, reply):
            log.debug("Dropped an answer: its client has left")
