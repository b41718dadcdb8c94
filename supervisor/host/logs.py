"""The log's way to standard error, of this process and of all that it starts.

Standard error is read, or not, by somebody outside: only a relay of its own waits for that. It is
a process, and not a thread, because one that the kernel holds in write(2) keeps its process from
ending, and the locks of the daemon with it; and because it writes what others said last.
"""

import os
import select
import signal
from types import TracebackType
from typing import Self

from ...workers.host.log_lines import set_up
from ...workers.host.log_relay import DroppingHandler, log_socket, relay
from ..core.model import Instant
from ..participant import News, Participant
from .children import Children

#: A relay that is gone is forked again no more often than this; dropped records are told of, too.
RELAY_AGAIN_SECONDS = 1.0
#: A daemon that leaves waits this long for its last records to be read.
LAST_RECORDS_SECONDS_MAX = 2.0
_STDERR = 2


class Log(Participant):
    """The log of this process and of all that it starts, from construction to `close`: they have
    its socket as their standard error.

    Until the first relay is forked the socket keeps the records.
    """

    def __init__(self, level: str, style: str) -> None:
        self.level, self.style = level, style
        self._stderr = _duplicate(_STDERR)
        self._source, sink = log_socket()
        with sink:
            os.dup2(sink.fileno(), _STDERR)
        self._handler = DroppingHandler(_STDERR)
        set_up(level, style, self._handler)
        self._children: Children | None = None
        self._relays = 0
        self._asked = False
        self._again_monotonic = 0.0
        self._pidfd: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def relay_by(self, children: Children) -> None:
        """Have the relay forked."""
        self._children = children
        self._ask()

    def gather(self, news: News, now: Instant) -> None:
        """Have another relay forked where there is none; tell of lost records."""
        if self._pidfd is not None and _ended(self._pidfd, 0.0):
            os.close(self._pidfd)
            self._pidfd = None
        if self._name in news.failed:
            self._asked = False
        if self._name in news.forked and self._children is not None:
            self._asked = False
            if self._children.get(self._name) is not None:
                self._pidfd = self._children.give_up(self._name).pidfd
        if self._is_without_relay and now.monotonic_seconds >= self._again_monotonic:
            self._again_monotonic = now.monotonic_seconds + RELAY_AGAIN_SECONDS
            self._ask()
        self._handler.tell_lost()

    def next_deadline(self, now: Instant) -> float | None:
        """Return when to try again what is not done."""
        left_out = self._handler.next_deadline()
        if self._handler.dropped_records or self._is_without_relay:
            again = max(now.monotonic_seconds + RELAY_AGAIN_SECONDS, self._again_monotonic)
            return again if left_out is None else min(again, left_out)
        return left_out

    def close(self) -> None:
        """Let the last records be read, for `LAST_RECORDS_SECONDS_MAX` at most.

        The store and all sockets are closed by now, so that this process may fork.
        """
        self._handler.tell_lost()
        quiet = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(quiet, _STDERR)
        if self._pidfd is None or _ended(self._pidfd, 0.0):
            self._pidfd = self._fork_relay()
        self._source.close()
        if not _ended(self._pidfd, LAST_RECORDS_SECONDS_MAX):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        for descriptor in (quiet, self._stderr, self._pidfd):
            os.close(descriptor)

    @property
    def _name(self) -> str:
        return f"log-relay-{self._relays}"

    @property
    def _is_without_relay(self) -> bool:
        return self._children is not None and self._pidfd is None and not self._asked

    def _ask(self) -> None:
        assert self._children is not None
        self._relays += 1
        self._asked = True
        self._children.fork_log_relay(self._name, self._source.fileno(), self._stderr)

    def _fork_relay(self) -> int:
        """Fork the relay of a daemon that leaves, and return its pidfd."""
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return os.pidfd_open(pid)
        status = 1
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            relay(self._source.fileno(), self._stderr, gone=lambda: os.getppid() != parent)
            status = 0
        finally:
            os._exit(status)


def _duplicate(descriptor: int) -> int:
    """Duplicate a descriptor; one that is closed is as one that nobody reads."""
    try:
        return os.dup(descriptor)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _ended(pidfd: int, seconds_max: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds_max * 1000))
