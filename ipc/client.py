"""The asking side of the control socket: one request, its replies, one deadline.

It tells apart why a daemon gives no answer, and never waits without a bound. What is
asked, and how an answer is shown, is `ctl/`'s.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from .messages.control import Accepted, Answer, Call, Progress, RefusalKind, Refused, Reply, Request
from .sockets import (
    SYNC_FRAME_BYTES_MAX,
    Connection,
    ProtocolError,
    endpoint,
    listening,
    new_context,
)

#: A daemon that says nothing for so long does not answer (INTERFACE, "Commands").
SILENCE_SECONDS_MAX = 5.0
#: No request may take longer than this, whatever the daemon says of it.
ACCEPTED_SECONDS_MAX = 86_400.0
#: Under this number comes the answer to a call that the daemon could not read.
UNREADABLE_CALL = 0

Wanted = TypeVar("Wanted", bound=Answer)


class ClientError(Exception):
    """Why a request came to nothing, in words for the operator."""


class NotRunningError(ClientError):
    """Nobody listens at the socket."""


class NotAnsweringError(ClientError):
    """Somebody listens, and is silent."""


class NotPermittedError(ClientError):
    """This user may not connect."""


class NotDoneError(ClientError):
    """The daemon accepted the request, and is not done in time. The request goes on."""


class BadAnswerError(ClientError):
    """The daemon said something that does not answer the request."""


class RefusedError(ClientError):
    """The daemon said no."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.detail)
        self.kind: RefusalKind = refused.kind


class Client:
    """A connection to the daemon whose control socket is `path`.

    `timeout_seconds` bounds each request as a whole; without it, a request ends after
    5 s of silence, or, once accepted, after the time that the daemon says it may take.
    """

    def __init__(self, path: Path, *, timeout_seconds: float | None = None) -> None:
        """Raises `ClientError` where nobody can be asked, `OSError` for a path too long."""
        name = endpoint(path)
        _require_listener(path)
        self.path = path
        self._timeout_seconds = timeout_seconds
        self._numbers = itertools.count(1)
        self._context = new_context()
        self._connection: Connection[Reply, Call] = Connection(
            self._context, name, receives=Reply, frame_bytes_max=SYNC_FRAME_BYTES_MAX
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
        self._connection.close(linger_milliseconds=0)
        self._context.term()

    def ask(
        self,
        request: Request,
        expected: type[Wanted],
        *,
        daemon_waits_seconds: float = 0.0,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Wanted:
        """The answer that ends `request`, which must be an `expected`.

        `on_progress` hears what comes before it, for a request that asks for that.
        `daemon_waits_seconds` is how long the daemon may by agreement hold the answer
        back; its silence counts from then on. Raises `ClientError`.
        """
        number = next(self._numbers)
        began = time.monotonic()
        patience = self._patience_seconds + daemon_waits_seconds
        if not self._connection.send(Call(number, request)):
            raise NotAnsweringError(f"cannot reach the daemon: {self.path} takes no request")
        answer = self._receive(number, began + patience)
        accepted_at, bound = began, patience
        if answer is None:
            raise NotAnsweringError(
                f"cannot reach the daemon: no answer at {self.path} for {patience:g} s"
            )
        while isinstance(answer, Accepted | Progress):
            if isinstance(answer, Accepted):
                bound = self.bound_seconds(answer.bound_seconds)
                accepted_at = time.monotonic() if self._timeout_seconds is None else began
            elif on_progress is not None:
                on_progress(answer)
            answer = self._receive(number, accepted_at + bound)
            if answer is None:
                raise NotDoneError(
                    f"cannot say how it ended: not done within {bound:g} s, and goes on"
                )
        if isinstance(answer, Refused):
            raise RefusedError(answer)
        if not isinstance(answer, expected):
            raise BadAnswerError(f"cannot use the daemon's answer: it is {type(answer).__name__}")
        return answer

    def bound_seconds(self, daemon_says_seconds: float) -> float:
        """How long to wait for what the daemon says may take so long."""
        if self._timeout_seconds is not None:
            return self._timeout_seconds
        return min(ACCEPTED_SECONDS_MAX, daemon_says_seconds)

    @property
    def _patience_seconds(self) -> float:
        if self._timeout_seconds is None:
            return SILENCE_SECONDS_MAX
        return min(SILENCE_SECONDS_MAX, self._timeout_seconds)

    def _receive(self, number: int, deadline: float) -> Answer | None:
        """The next answer to call `number`, or None where none came until `deadline`.

        A lost peer is no event to ZeroMQ: each time it was silent for a while, the
        socket is asked whether there still is one.
        """
        while (remaining := deadline - time.monotonic()) > 0:
            try:
                reply = self._connection.receive(
                    timeout_seconds=max(0.001, min(remaining, SILENCE_SECONDS_MAX))
                )
            except ProtocolError as error:
                raise BadAnswerError(f"cannot use the daemon's answer: {error}") from None
            if reply is None:
                _require_listener(self.path)
            elif reply.number in (number, UNREADABLE_CALL):
                return reply.answer
        return None


def _require_listener(path: Path) -> None:
    try:
        if listening(path):
            return
    except PermissionError:
        raise NotPermittedError(f"cannot reach the daemon: permission denied at {path}") from None
    raise NotRunningError(
        f"cannot reach the daemon: nothing listens at {path} (is geoschedd running?)"
    )
