"""Child processes of the daemon: forked by the zygote, known by pidfd, reaped here.

Owns the zygote and every pidfd. It knows that a child is there or gone, not its purpose:
`pool.py` and `exchange.py` do.
"""

import logging
import os
import select
import signal
import time
from collections.abc import Callable

import msgspec

from ...ipc.messages.zygote import (
    Forked,
    ForkFailed,
    ForkSynchroniser,
    ForkWorker,
    ToZygote,
    ZygoteReady,
)
from ...workers.zygote_client import ZygoteClient
from ..core.model import Instant
from ..participant import News, Participant

log = logging.getLogger(__name__)

#: A zygote that leaves a request unanswered for this long is replaced (DESIGN 1).
ZYGOTE_SILENCE_SECONDS_MAX = 2.0
#: A daemon that stops waits this long for its zygote, and for its other children, so that
#: nothing of it is left.
ZYGOTE_LEAVES_SECONDS_MAX = 1.0
CHILDREN_LEAVE_SECONDS_MAX = 0.5
#: A zygote that dies at once is started again no more often than this.
ZYGOTE_RESTART_SECONDS = 1.0
#: A request that the zygote's full socket did not take is sent again after this time.
REQUEST_AGAIN_SECONDS = 0.02
#: More children than any turn can find ended.
REAPED_PER_TURN_MAX = 100_000
EVENTS_PER_TURN_MAX = 256
#: Children at once, where nothing less is asked for.
CHILDREN_MAX = 100_000


class Child(msgspec.Struct):
    """A process that the zygote forked for us. `pidfd` is open as long as it is known."""

    name: str
    pid: int
    pidfd: int

    def signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return  # it ended a moment ago; its pidfd tells so next turn


class Children(Participant):
    """Forks through the zygote, and replaces it when it is silent or dead."""

    def __init__(
        self,
        start_zygote: Callable[[], ZygoteClient],
        *,
        children_max: int = CHILDREN_MAX,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start_zygote = start_zygote
        self._children_max = children_max
        self._monotonic_seconds = monotonic_seconds
        self._epoll = select.epoll()
        self._children: dict[str, Child] = {}
        self._by_pidfd: dict[int, str] = {}
        self._asked: set[str] = set()
        self._waiting: list[ToZygote] = []
        self._held: list[ForkWorker] = []  # until others are gone
        self._now_monotonic = 0.0
        self._not_before_monotonic = 0.0
        self._zygote: ZygoteClient | None = None
        self._zygote_deadline_monotonic: float | None = None

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is news."""
        return self._epoll.fileno()

    def start(self, monotonic_seconds: float) -> None:
        self._zygote = self._start_zygote()
        self._epoll.register(self._zygote.fileno(), select.EPOLLIN)
        # Its imports take a while: the first request may be answered as late as that.
        self._zygote_deadline_monotonic = monotonic_seconds + 5 * ZYGOTE_SILENCE_SECONDS_MAX

    def fork_worker(self, name: str, endpoint: str, *, forks_ahead: bool) -> None:
        self._held.append(ForkWorker(name, endpoint, forks_ahead))
        self._ask_for_held()

    def fork_synchroniser(self, name: str, endpoint: str) -> None:
        self._ask(ForkSynchroniser(name, endpoint))

    def adopt(self, child: Child) -> None:
        """Watch for the end of a process that was started elsewhere; take over its pidfd."""
        self._know(child)

    def get(self, name: str) -> Child | None:
        return self._children.get(name)

    def kill(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None:
            child.signal(signal.SIGKILL)

    def next_deadline(self, _now: Instant) -> float | None:
        """Return the instant at which a silent zygote is replaced, or the next one may start."""
        if self._waiting:
            return self._not_before_monotonic
        return self._zygote_deadline_monotonic if self._asked else None

    def gather(self, news: News, now: Instant) -> None:
        """Fill in the news of this turn."""
        self._now_monotonic = now.monotonic_seconds
        for descriptor, _ in self._epoll.poll(0, EVENTS_PER_TURN_MAX):
            name = self._by_pidfd.get(descriptor)
            if name is None:
                self._hear_zygote(news)
            else:
                self._forget(name)
                news.gone.append(name)
        self._judge_zygote(news)
        self._pass_on()
        self._ask_for_held()

    def reap(self) -> None:
        """Reap every child that has ended: the zygote, and processes that were reparented to us
        from dead workers. The only place that waits for any process (fact P4)."""
        for _ in range(REAPED_PER_TURN_MAX):
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return

    def close(self) -> None:
        """Wait for all children, which leave when their lifeline ends; but not for long. A daemon
        that has stopped leaves nothing of its own behind."""
        if self._zygote is not None:
            self._epoll.unregister(self._zygote.fileno())
        deadline = self._monotonic_seconds() + CHILDREN_LEAVE_SECONDS_MAX
        while self._children and (left := deadline - self._monotonic_seconds()) > 0:
            for descriptor, _ in self._epoll.poll(left, EVENTS_PER_TURN_MAX):
                self._forget(self._by_pidfd[descriptor])
        if self._zygote is not None and self._children:
            self._zygote.close()  # it ends those that hang, and leaves after them (S17)
        elif self._zygote is not None:
            self._zygote.leave(ZYGOTE_LEAVES_SECONDS_MAX)
        for name in list(self._children):
            self._forget(name)
        self._epoll.close()

    def _ask(self, request: ToZygote) -> None:
        """Ask now, or when there is a zygote again."""
        self._waiting.append(request)
        self._pass_on()

    def _ask_for_held(self) -> None:
        """Ask for no more workers than descriptors fit."""
        while self._held and self._count < self._children_max:
            self._ask(self._held.pop(0))

    @property
    def _count(self) -> int:
        return len(self._children) + len(self._asked) + len(self._waiting)

    def _pass_on(self) -> None:
        if not self._waiting:
            return
        if self._zygote is None:
            if self._now_monotonic < self._not_before_monotonic:
                return
            try:
                self.start(self._monotonic_seconds())
            except OSError as error:
                log.error("Cannot start a zygote: %s", error, extra={"event": "zygote-failed"})
                self._not_before_monotonic = self._now_monotonic + ZYGOTE_RESTART_SECONDS
                return
        assert self._zygote is not None
        while self._waiting:
            request = self._waiting[0]
            if not self._zygote.ask(request):
                # Its socket is full.
                self._not_before_monotonic = self._now_monotonic + REQUEST_AGAIN_SECONDS
                break
            self._asked.add(request.name)
            self._waiting.pop(0)
        if self._zygote_deadline_monotonic is None:
            # From now on: since the turn began, a commit may have stalled for longer.
            self._zygote_deadline_monotonic = self._monotonic_seconds() + ZYGOTE_SILENCE_SECONDS_MAX

    def _hear_zygote(self, news: News) -> None:
        if self._zygote is None:
            return
        try:
            messages = self._zygote.receive()
        except (EOFError, OSError) as error:
            self._replace_zygote(news, f"is gone ({type(error).__name__})")
            return
        for message, pidfd in messages:
            match message:
                case Forked(name, pid):
                    if pidfd is None:  # no descriptor was left to take it
                        log.error(
                            "Cannot watch %s: no pidfd came", name, extra={"event": "no-pidfd"}
                        )
                        self._asked.discard(name)
                        news.failed.append(name)
                    else:
                        self._know(Child(name, pid, pidfd))
                        news.forked[name] = pid
                case ForkFailed(name, detail):
                    log.error("Cannot fork %s: %s", name, detail, extra={"event": "fork-failed"})
                    self._asked.discard(name)
                    news.failed.append(name)
                case ZygoteReady():
                    pass  # its imports are over: below, the longer deadline of its start ends
        spoken = self._now_monotonic + ZYGOTE_SILENCE_SECONDS_MAX
        self._zygote_deadline_monotonic = spoken if self._asked else None

    def _judge_zygote(self, news: News) -> None:
        deadline = self._zygote_deadline_monotonic
        if self._asked and deadline is not None and self._now_monotonic > deadline:
            self._replace_zygote(news, "does not answer")

    def _replace_zygote(self, news: News, why: str) -> None:
        """Its workers live on, known by their pidfds; what it was asked for has failed."""
        log.warning("The zygote %s; starting another", why, extra={"event": "zygote-replaced"})
        assert self._zygote is not None
        self._epoll.unregister(self._zygote.fileno())
        self._zygote.kill()
        self._zygote.close()
        self._zygote = None
        self._zygote_deadline_monotonic = None
        self._not_before_monotonic = self._now_monotonic + ZYGOTE_RESTART_SECONDS
        news.failed.extend(self._asked)
        self._asked.clear()

    def _know(self, child: Child) -> None:
        self._asked.discard(child.name)
        self._children[child.name] = child
        self._by_pidfd[child.pidfd] = child.name
        self._epoll.register(child.pidfd, select.EPOLLIN)

    def _forget(self, name: str) -> None:
        child = self._children.pop(name)
        del self._by_pidfd[child.pidfd]
        self._epoll.unregister(child.pidfd)
        os.close(child.pidfd)
