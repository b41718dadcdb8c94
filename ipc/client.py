"""The client of the control socket: one request at a time, its replies, one deadline.

Every wait has a bound, and each reason for a missing answer is an exception class of its own.
`ctl/` makes the requests and prints the answers.
"""

import itertools
import math
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from .dealer import Dealer
from .messages.control import Accepted, Answer, Call, Progress, RefusalKind, Refused, Reply, Request
from .socket_files import endpoint, listening
from .wire import REPLY_FRAME_BYTES_MAX, ProtocolError

#: After this silence a daemon counts as not answering (INTERFACE, "Commands").
SILENCE_SECONDS_MAX = 5.0
#: No request may take longer, whatever bound the daemon names.
ACCEPTED_SECONDS_MAX = 86_400.0
#: A connection that was not used for so long is replaced before it is used again: the daemon
#: closes it after twice that time, and what is sent at that very moment would be lost.
UNUSED_SECONDS_MAX = 30.0
#: The number of the answer to a call that the daemon could not read.
UNREADABLE_CALL = 0

_decode: Callable[[bytes | memoryview], Reply] = msgspec.msgpack.Decoder(Reply).decode

Wanted = TypeVar("Wanted", bound=Answer)


class ClientError(Exception):
    """The reason why a request failed, in words for the operator."""


class NotRunningError(ClientError):
    """No process listens at the socket."""


class NotAnsweringError(ClientError):
    """A process listens, and does not answer."""


class NotPermittedError(ClientError):
    """This user may not connect."""


class NotDoneError(ClientError):
    """The request was accepted, is not done in time, and goes on."""


class BadAnswerError(ClientError):
    """The answer is none to this request, or cannot be read."""


class RefusedError(ClientError):
    """The daemon refused the request; `kind` is the reason, by its exit code."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.detail)
        self.kind: RefusalKind = refused.kind


class Client:
    """A connection to the daemon whose control socket is `path`.

    `timeout_seconds` bounds each request as a whole, silence included. Without it, a request ends
    after 5 s of silence or, once accepted, after the time that the daemon says it may take.
    """

    def __init__(self, path: Path, *, timeout_seconds: float | None = None) -> None:
        """Connect. Raises `ClientError` where no process listens, `OSError` for a path too long."""
        endpoint(path)  # or its path is too long
        self.path = path
        self._timeout_seconds = timeout_seconds
        self._numbers = itertools.count(1)
        _require_listener(path)
        self._poll = select.poll()
        self._connection = self._connected()
        self._used_monotonic = time.monotonic()

    def _connected(self) -> Dealer[Reply, Call]:
        return Dealer(
            os.fspath(self.path),
            self._poll,
            decode=_decode,
            frame_bytes_max=REPLY_FRAME_BYTES_MAX,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def ask(
        self,
        request: Request,
        expected: type[Wanted],
        *,
        daemon_waits_seconds: float = 0.0,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Wanted:
        """Return the answer that ends `request`, which must be of type `expected`.

        `on_progress` is called with each `Progress` before it. `daemon_waits_seconds` is the
        time that the daemon may hold the answer back by agreement; its silence counts from
        then on. Raises `ClientError`.
        """
        try:
            return self._ask(request, expected, daemon_waits_seconds, on_progress)
        finally:
            self._used_monotonic = time.monotonic()

    def _ask(
        self,
        request: Request,
        expected: type[Wanted],
        daemon_waits_seconds: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> Wanted:
        number = next(self._numbers)
        began_monotonic = time.monotonic()
        if began_monotonic > self._used_monotonic + UNUSED_SECONDS_MAX:
            self._connection.close()
            self._connection = self._connected()
        patience_seconds = self._patience_seconds + daemon_waits_seconds
        if not self._connection.send(Call(number, request)):
            raise NotAnsweringError(f"cannot reach the daemon: {self.path} takes no request")
        answer = self._receive(number, began_monotonic + patience_seconds)
        if answer is None:
            raise NotAnsweringError(
                f"cannot reach the daemon: no answer at {self.path} for {patience_seconds:g} s"
            )
        answer = self._final(number, answer, began_monotonic, patience_seconds, on_progress)
        if isinstance(answer, Refused):
            raise RefusedError(answer)
        if not isinstance(answer, expected):
            raise BadAnswerError(f"cannot use the daemon's answer: it is {type(answer).__name__}")
        return answer

    def _final(
        self,
        number: int,
        answer: Answer,
        began_monotonic: float,
        bound_seconds: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> Answer:
        """Return the answer that follows those that only say that it will. The first `Accepted`
        alone sets its deadline: a daemon that repeats it holds nobody for longer."""
        deadline_monotonic = began_monotonic + bound_seconds
        accepted = False
        while isinstance(answer, Accepted | Progress):
            if isinstance(answer, Progress):
                if on_progress is not None:
                    on_progress(answer)
            elif not accepted:
                accepted = True
                bound_seconds = self.bound_seconds(answer.bound_seconds)
                begins = time.monotonic() if self._timeout_seconds is None else began_monotonic
                deadline_monotonic = begins + bound_seconds
            following = self._receive(number, deadline_monotonic)
            if following is None:
                raise NotDoneError(
                    f"cannot say how it ended: not done within {bound_seconds:g} s, and goes on"
                )
            answer = following
        return answer

    def bound_seconds(self, daemon_says_seconds: float) -> float:
        """Return the time to wait for a request that may take as long as the daemon says."""
        if self._timeout_seconds is not None:
            return self._timeout_seconds
        return min(ACCEPTED_SECONDS_MAX, daemon_says_seconds)

    @property
    def _patience_seconds(self) -> float:
        """Return the silence after which a daemon counts as not answering. Whoever names a
        time-out knows their host: on a slow one a short answer takes longer, too."""
        return SILENCE_SECONDS_MAX if self._timeout_seconds is None else self._timeout_seconds

    def _receive(self, number: int, deadline_monotonic: float) -> Answer | None:
        """Return the next answer to call `number`, or None at the deadline.

        ZeroMQ does not report a lost peer, so after each silence the socket is checked for
        a listener.
        """
        while (remaining := deadline_monotonic - time.monotonic()) > 0:
            try:
                reply = self._next_reply(min(remaining, SILENCE_SECONDS_MAX))
            except ProtocolError as error:
                raise BadAnswerError(f"cannot use the daemon's answer: {error}") from None
            if reply is None:
                _require_listener(self.path)
            elif reply.number in (number, UNREADABLE_CALL):
                return reply.answer
        return None

    def _next_reply(self, seconds_max: float) -> Reply | None:
        """Wait for the next reply. Raises `ProtocolError` for one that cannot be read."""
        until_monotonic = time.monotonic() + seconds_max
        while (reply := self._connection.receive()) is None:
            now_monotonic = time.monotonic()
            if now_monotonic >= until_monotonic:
                return None
            due_monotonic = self._connection.next_deadline()
            wake_monotonic = until_monotonic if due_monotonic is None else due_monotonic
            wait_seconds = max(0.0, min(wake_monotonic, until_monotonic) - now_monotonic)
            self._poll.poll(math.ceil(1000 * wait_seconds))
        return reply


def _require_listener(path: Path) -> None:
    try:
        if listening(path):
            return
    except PermissionError:
        raise NotPermittedError(f"cannot reach the daemon: permission denied at {path}") from None
    except OSError as error:
        raise ClientError(f"cannot reach the daemon: {error.strerror}") from None
    raise NotRunningError(
        f"cannot reach the daemon: nothing listens at {path} (is geoschedd running?)"
    )
