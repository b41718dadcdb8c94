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

from ...ipc.messages.sync import BackendAddress
from ...ipc.messages.zygote import (
    Forked,
    ForkFailed,
    ForkHelper,
    ForkLogRelay,
    ForkSynchroniser,
    ForkWorker,
    ToZygote,
    ZygoteReady,
)
from ...ipc.wire import ProtocolError
from ...workers.host import procfs
from ...workers.host.liveness import Activity, AnswerWait, patience_seconds
from ...workers.zygote_client import ZygoteClient
from ..core.model import Instant
from ..participant import News, Participant

log = logging.getLogger(__name__)

#: A zygote that owes an answer is replaced when it did nothing for this long, or has used so
#: much processor time (DESIGN 1). Its imports take a while: until it is ready it has longer.
#: What is too short for a host doubles with each zygote that is given up, until one answers.
ZYGOTE_SILENCE_SECONDS_MAX = 2.0
ZYGOTE_START_SECONDS_MAX = 10.0
ZYGOTE_CPU_SECONDS_MAX = 10.0
ZYGOTE_PATIENCE_SECONDS_MAX = 600.0
#: A daemon that stops waits this long for its zygote, and for its other children, so that
#: nothing of it is left.
ZYGOTE_LEAVES_SECONDS_MAX = 1.0
CHILDREN_LEAVE_SECONDS_MAX = 0.5
#: A zygote that dies at once is started again no more often than this; doubled in the same way.
ZYGOTE_RESTART_SECONDS = 1.0
ZYGOTE_RESTART_SECONDS_MAX = 60.0
#: Nobody misses an answer any more when nothing was asked for this long after a zygote was given
#: up: those who still want something ask again within seconds.
UNASKED_SECONDS_MAX = 10.0
#: A request that the zygote's full socket did not take is sent again after this time.
REQUEST_AGAIN_SECONDS = 0.02
#: More children than any turn can find ended.
REAPED_PER_TURN_MAX = 100_000
EVENTS_PER_TURN_MAX = 256
#: Children at once, where nothing less is asked for; and the fewest that are of any use: a worker,
#: one that leaves, the synchroniser, the relay of the log.
CHILDREN_MAX = 100_000
CHILDREN_MIN = 4


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
        activity: Callable[[int], Activity | None] = procfs.activity,
    ) -> None:
        self._start_zygote = start_zygote
        self._children_max = self._children_max_at_first = children_max
        self._monotonic_seconds = monotonic_seconds
        self._activity = activity
        self._epoll = select.epoll()
        self._children: dict[str, Child] = {}
        self._by_pidfd: dict[int, str] = {}
        self._asked: set[str] = set()
        self._waiting: list[ToZygote] = []
        self._descriptors: dict[str, tuple[int, ...]] = {}  # that go with a request, by its name
        self._held: list[ForkWorker] = []  # until others are gone
        self._now_monotonic = 0.0
        self._not_before_monotonic = 0.0
        self._zygote: ZygoteClient | None = None
        self._zygote_ready = False
        #: What the last zygote said of it: `on`, or a reason; "" before that.
        self.immortal_heap = ""
        self._zygotes_given_up = 0  # since one last answered
        self._answer: AnswerWait | None = None  # the one that the zygote owes
        self._unanswered_since_monotonic: float | None = None
        self._given_up_at_monotonic = 0.0

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is news."""
        return self._epoll.fileno()

    def start(self) -> None:
        """Start the zygote. Raises `OSError`."""
        self._zygote = self._start_zygote()
        self._zygote_ready = False
        self._epoll.register(self._zygote.fileno(), select.EPOLLIN)

    @property
    def trouble(self) -> str | None:
        """The reason why no process can be started, while no zygote answers."""
        if self._unanswered_since_monotonic is None:
            return None
        seconds = self._monotonic_seconds() - self._unanswered_since_monotonic
        if seconds <= ZYGOTE_SILENCE_SECONDS_MAX and not self._zygotes_given_up:
            return None
        given_up = f", {self._zygotes_given_up} given up" if self._zygotes_given_up else ""
        return f"cannot start processes: no answer of the zygote for {seconds:.0f} s{given_up}"

    def fork_worker(self, name: str, endpoint: str, *, forks_ahead: bool) -> None:
        self._held.append(ForkWorker(name, endpoint, forks_ahead))
        self._ask_for_held()

    def have_room_for_fewer(self, fewer: int) -> bool:
        """Fork no more workers than the bound of the start less so many. False, and nothing has
        changed, where that would be less than `CHILDREN_MIN`."""
        if self._children_max_at_first - fewer < CHILDREN_MIN:
            return False
        self._children_max = self._children_max_at_first - fewer
        return True

    def drop_held(self) -> None:
        """Ask for no workers that wait until others are gone: the daemon leaves."""
        self._held.clear()

    def fork_synchroniser(self, name: str, served: int, backend: BackendAddress) -> None:
        """Fork a synchroniser that serves a socket; the caller keeps that open until it is told."""
        self._descriptors[name] = (served,)
        self._ask(ForkSynchroniser(name, backend))

    def fork_log_relay(self, name: str, source: int, target: int) -> None:
        self._descriptors[name] = (source, target)
        self._ask(ForkLogRelay(name))

    def fork_helper(self, name: str, served: int) -> None:
        """Fork a helper that serves a socket; the caller keeps that open until it is told."""
        self._descriptors[name] = (served,)
        self._ask(ForkHelper(name))

    def adopt(self, child: Child) -> None:
        """Watch for the end of a process that was started elsewhere; take over its pidfd."""
        self._know(child)

    def give_up(self, name: str) -> Child:
        """Watch a process no longer; its pidfd is the caller's from now on."""
        child = self._children.pop(name)
        del self._by_pidfd[child.pidfd]
        self._epoll.unregister(child.pidfd)
        return child

    def get(self, name: str) -> Child | None:
        return self._children.get(name)

    def activity(self, name: str) -> Activity | None:
        """Return what a child has done so far; None for one that is not there, or not yet."""
        child = self._children.get(name)
        return None if child is None else self._activity(child.pid)

    def kill(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None:
            child.signal(signal.SIGKILL)

    def next_deadline(self, _now: Instant) -> float | None:
        """Return the instant at which to look at a silent zygote, or the next one may start."""
        if self._waiting:
            return self._not_before_monotonic
        return None if self._answer is None else self._answer.next_look()

    def gather(self, news: News, now: Instant) -> None:
        """Fill in the news of this turn."""
        self._now_monotonic = now.monotonic_seconds
        unasked_seconds = now.monotonic_seconds - self._given_up_at_monotonic
        if not self._asked and not self._waiting and unasked_seconds > UNASKED_SECONDS_MAX:
            self._unanswered_since_monotonic = None
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
        if self._unanswered_since_monotonic is None:
            self._unanswered_since_monotonic = self._monotonic_seconds()
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
                self.start()
            except OSError as error:
                log.error("Cannot start a zygote: %s", error, extra={"event": "no-zygote"})
                self._give_up_zygote()
                return
        assert self._zygote is not None
        while self._waiting:
            request = self._waiting[0]
            if not self._zygote.ask(request, *self._descriptors.get(request.name, ())):
                # Its socket is full.
                self._not_before_monotonic = self._now_monotonic + REQUEST_AGAIN_SECONDS
                break
            self._asked.add(request.name)
            self._descriptors.pop(request.name, None)
            self._waiting.pop(0)
        if self._answer is None:
            self._await_answer()

    def _await_answer(self) -> None:
        """Wait from now on: since the turn began, a commit may have stalled for longer."""
        assert self._zygote is not None
        idle = ZYGOTE_SILENCE_SECONDS_MAX if self._zygote_ready else ZYGOTE_START_SECONDS_MAX
        self._answer = AnswerWait(
            self._monotonic_seconds(),
            self._activity(self._zygote.pid),
            idle_seconds_max=self._patience_seconds(idle),
            cpu_seconds_max=self._patience_seconds(ZYGOTE_CPU_SECONDS_MAX),
        )

    def _patience_seconds(self, first: float) -> float:
        return patience_seconds(
            first, tries_failed=self._zygotes_given_up, longest=ZYGOTE_PATIENCE_SECONDS_MAX
        )

    def _hear_zygote(self, news: News) -> None:
        if self._zygote is None:
            return
        try:
            messages = self._zygote.receive()
        except (EOFError, OSError, ProtocolError) as error:
            self._replace_zygote(news, f"is gone ({type(error).__name__})")
            return
        before = (self._zygote_ready, self._zygotes_given_up)
        for message, pidfd in messages:
            match message:
                case Forked(name, pid):
                    self._answered()
                    if pidfd is None:  # no descriptor was left to take it
                        log.error(
                            "Cannot watch %s: no pidfd came", name, extra={"event": "no-pidfd"}
                        )
                        self._asked.discard(name)
                        news.failed[name] = "no descriptor is left to watch it by"
                    else:
                        self._know(Child(name, pid, pidfd))
                        news.forked[name] = pid
                case ForkFailed(name, detail):
                    self._answered()
                    log.error("Cannot fork %s: %s", name, detail, extra={"event": "fork-failed"})
                    self._asked.discard(name)
                    news.failed[name] = detail
                case ZygoteReady(immortal_heap):
                    self._zygote_ready = True  # which is no answer to a request yet
                    self.immortal_heap = immortal_heap
        if not self._asked:
            self._answer = self._unanswered_since_monotonic = None
        elif self._answer is None or before != (self._zygote_ready, self._zygotes_given_up):
            self._await_answer()
        else:
            self._answer.heard(self._now_monotonic)

    def _answered(self) -> None:
        if self.trouble is not None:
            log.info("The zygote answers", extra={"event": "zygote-answers"})
        self._zygotes_given_up = 0
        self._unanswered_since_monotonic = self._monotonic_seconds()

    def _judge_zygote(self, news: News) -> None:
        """A slow host is no reason to replace it: the next one would only begin anew."""
        if self._zygote is None or self._answer is None:
            return
        if self._answer.hangs(self._now_monotonic, self._activity(self._zygote.pid)):
            self._replace_zygote(news, "does not answer")

    def _replace_zygote(self, news: News, why: str) -> None:
        """Its workers live on, known by their pidfds; what it was asked for has failed."""
        log.warning("The zygote %s; starting another", why, extra={"event": "zygote-replaced"})
        assert self._zygote is not None
        self._epoll.unregister(self._zygote.fileno())
        self._zygote.kill()
        self._zygote.close()
        self._zygote = self._answer = None
        self._give_up_zygote()
        news.failed |= dict.fromkeys(self._asked, f"the zygote {why}")
        self._asked.clear()

    def _give_up_zygote(self) -> None:
        pause_seconds = patience_seconds(
            ZYGOTE_RESTART_SECONDS,
            tries_failed=self._zygotes_given_up,
            longest=ZYGOTE_RESTART_SECONDS_MAX,
        )
        self._not_before_monotonic = self._now_monotonic + pause_seconds
        self._given_up_at_monotonic = self._now_monotonic
        self._zygotes_given_up += 1

    def _know(self, child: Child) -> None:
        self._asked.discard(child.name)
        self._children[child.name] = child
        self._by_pidfd[child.pidfd] = child.name
        self._epoll.register(child.pidfd, select.EPOLLIN)

    def _forget(self, name: str) -> None:
        os.close(self.give_up(name).pidfd)
