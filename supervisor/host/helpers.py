"""Calls that may wait for a disk, made by helper processes: the supervisor itself never waits.

A disk that hangs holds whoever asks it, and no signal ends that; so each call is made by a child,
which is given up when it takes too long. A thread would not do: one that the kernel holds keeps
the whole process from ending, and its locks with it.
"""

import itertools
import logging
import select
import socket
from collections.abc import Callable

import msgspec

from ...ipc.messages.helper import FromHelper, ToHelper
from ...ipc.wire import ProtocolError, decoded
from ...workers.host.liveness import AnswerWait
from ..core.model import Instant
from ..participant import News, Participant
from .children import Children

log = logging.getLogger(__name__)

#: Shorter than the silence after which a client gives up (5 s): it is told the reason.
JOB_SECONDS_MAX = 3.0
#: Of a job that no client waits for: its helper hangs when it did nothing for so long since it was
#: forked, or used so much processor time (law 17). A host that is slow is no disk that hangs.
JOB_UNWAITED_SECONDS_MAX = 60.0
#: Of each kind of job: one that hangs takes no helper from another kind.
HELPERS_OF_A_KIND_MAX = 2
JOBS_WAITING_OF_A_KIND_MAX = 32
#: A helper with nothing to do leaves after this time.
IDLE_SECONDS_MAX = 10.0
#: One that is kept ready and is not there is forked no more often than this.
KEPT_AGAIN_SECONDS = 10.0
_ANSWER_BYTES_MAX = 192 * 1024

_decode: Callable[[bytes | memoryview], FromHelper] = msgspec.msgpack.Decoder(FromHelper).decode


class Job(msgspec.Struct):
    """A request to a helper; in the end it has an `answer`, or `why_not`. Where no client has
    `waited` for it, a helper that is at work has it beyond its deadline."""

    request: ToHelper
    deadline_monotonic: float
    waited: bool = True
    answer: FromHelper | None = None
    why_not: str = ""

    @property
    def done(self) -> bool:
        return self.answer is not None or bool(self.why_not)


class _Helper(msgspec.Struct):
    """A process for one kind of job. `ours` is None once it was given up, until it is gone."""

    name: str
    kind: type[ToHelper]
    ours: socket.socket | None
    theirs: socket.socket | None  # until it is forked
    job: Job | None = None
    idle_since_monotonic: float = 0.0
    judge: AnswerWait | None = None  # of a job that nobody waits for, from the fork on


class Helpers(Participant):
    """Hands out jobs, each to a helper that is free or is forked for it."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._epoll = select.epoll()
        self._numbers = itertools.count(1)
        self._helpers: dict[str, _Helper] = {}
        self._waiting: list[Job] = []
        self._kept: set[type[ToHelper]] = set()
        self._keep_at_monotonic = 0.0
        self._now_monotonic = 0.0

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is an answer."""
        return self._epoll.fileno()

    def submit(self, request: ToHelper, now: Instant, *, waited: bool = True) -> Job:
        """Begin a job, which a later turn finds done. It is done at once where none can begin."""
        seconds_max = JOB_SECONDS_MAX if waited else JOB_UNWAITED_SECONDS_MAX
        job = Job(request, now.monotonic_seconds + seconds_max, waited)
        self._now_monotonic = now.monotonic_seconds
        alike = [each for each in self._waiting if type(each.request) is type(request)]
        if len(alike) >= JOBS_WAITING_OF_A_KIND_MAX:
            job.why_not = f"{len(alike)} others wait already"
        else:
            self._waiting.append(job)
            self._hand_out()
        return job

    def keep(self, kind: type[ToHelper], *, ready: bool) -> None:
        """Keep a helper ready for jobs of a kind, or no longer: what forks one only when there is a
        job cannot do it while nothing can be forked."""
        (self._kept.add if ready else self._kept.discard)(kind)

    def gather(self, news: News, now: Instant) -> None:
        """Take answers; give up what takes too long."""
        self._now_monotonic = now.monotonic_seconds
        for helper in list(self._helpers.values()):
            if helper.name in news.forked and helper.theirs is not None:
                helper.theirs.close()
                helper.theirs = None
                self._await_answer(helper)
            if helper.ours is not None:
                self._hear(helper)
            elif helper.name in news.forked:
                self._children.kill(helper.name)  # too late: it was given up meanwhile
            if helper.name in news.gone:
                self._forget(helper, "its helper was killed")
            elif helper.name in news.failed:
                why = news.failed[helper.name]
                self._forget(helper, f"its helper could not be forked: {why}")
        self._give_up_late()
        self._hand_out()
        self._fork_kept()

    def next_deadline(self, _now: Instant) -> float | None:
        """Return when the next job, or an idle helper, is given up, or a helper is looked at."""
        deadlines = [
            job.deadline_monotonic for job in self._waiting if job.waited or self._no_hope(job)
        ]
        if self._kept_lacking():
            deadlines.append(self._keep_at_monotonic)
        for helper in self._helpers.values():
            if helper.judge is not None:
                deadlines.append(helper.judge.next_look())
            elif helper.job is not None and helper.job.waited:
                deadlines.append(helper.job.deadline_monotonic)
            elif helper.job is None and helper.ours is not None and helper.kind not in self._kept:
                deadlines.append(helper.idle_since_monotonic + IDLE_SECONDS_MAX)
        return min(deadlines, default=None)

    def close(self) -> None:
        """Have all helpers leave."""
        for helper in self._helpers.values():
            _close(helper)
            if helper.theirs is not None:
                helper.theirs.close()
        self._epoll.close()

    def _hand_out(self) -> None:
        for job in list(self._waiting):
            helper = self._free(type(job.request))
            if helper is None:
                continue
            self._waiting.remove(job)
            helper.job = job
            self._await_answer(helper)
            assert helper.ours is not None
            try:
                # Before it is forked, too: the socket holds the request meanwhile.
                helper.ours.send(msgspec.msgpack.encode(job.request))
            except OSError as error:
                self._give_up(helper, f"cannot ask a helper: {error.strerror}")

    def _free(self, kind: type[ToHelper]) -> _Helper | None:
        """Return an idle helper or a new one. None where as many as there may be are at work."""
        alike = [helper for helper in self._helpers.values() if helper.kind is kind]
        for helper in alike:
            if helper.ours is not None and helper.job is None:
                return helper
        return self._fork(kind) if len(alike) < HELPERS_OF_A_KIND_MAX else None

    def _fork(self, kind: type[ToHelper]) -> _Helper | None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:  # no descriptor is left; the job waits, or is failed in time
            log.warning("Cannot have a helper: %s", error, extra={"event": "no-helper"})
            return None
        ours.setblocking(False)
        helper = _Helper(f"helper-{next(self._numbers)}", kind, ours, theirs)
        helper.idle_since_monotonic = self._now_monotonic
        self._helpers[helper.name] = helper
        self._epoll.register(ours, select.EPOLLIN)
        self._children.fork_helper(helper.name, theirs.fileno())
        return helper

    def _kept_lacking(self) -> list[type[ToHelper]]:
        """Return the kinds of which one helper is to be ready and none is there, hung or not."""
        return [kind for kind in self._kept if kind not in {h.kind for h in self._helpers.values()}]

    def _fork_kept(self) -> None:
        lacking = self._kept_lacking()
        if lacking and self._now_monotonic >= self._keep_at_monotonic:
            self._keep_at_monotonic = self._now_monotonic + KEPT_AGAIN_SECONDS
            for kind in lacking:
                self._fork(kind)

    def _hear(self, helper: _Helper) -> None:
        assert helper.ours is not None
        try:
            data = helper.ours.recv(_ANSWER_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        helper.judge = None
        answer = decoded([data], _decode) if data else None
        if helper.job is None or answer is None:
            self._give_up(helper, "its helper was killed")
        elif isinstance(answer, ProtocolError):
            self._give_up(helper, f"{answer} of its helper")
        else:
            helper.job.answer, helper.job = answer, None
            helper.idle_since_monotonic = self._now_monotonic

    def _give_up_late(self) -> None:
        now = self._now_monotonic
        late = [job for job in self._waiting if now >= job.deadline_monotonic]
        for job in [job for job in late if job.waited or self._no_hope(job)]:
            self._waiting.remove(job)
            hung = [helper for helper in self._helpers.values() if helper.ours is None]
            _fail(job, f"no helper was free in time, {len(hung)} hang")
        for helper in list(self._helpers.values()):
            if helper.job is not None and self._is_late(helper, helper.job):
                self._give_up(helper, "what it asked did not answer in time")
            elif (
                helper.job is None
                and helper.kind not in self._kept
                and now >= helper.idle_since_monotonic + IDLE_SECONDS_MAX
            ):
                _close(helper)

    def _no_hope(self, job: Job) -> bool:
        """No helper of the kind is at work or being forked that could be free for it in the end."""
        kind = type(job.request)
        return not any(
            helper.kind is kind and helper.ours is not None for helper in self._helpers.values()
        )

    def _await_answer(self, helper: _Helper) -> None:
        """Have a helper judged from now on, where it is there and nobody waits for its answer."""
        if helper.job is None or helper.job.waited or helper.theirs is not None:
            return
        helper.judge = AnswerWait(
            self._now_monotonic,
            self._children.activity(helper.name),
            idle_seconds_max=JOB_UNWAITED_SECONDS_MAX,
            cpu_seconds_max=JOB_UNWAITED_SECONDS_MAX,
        )

    def _is_late(self, helper: _Helper, job: Job) -> bool:
        if job.waited:
            return self._now_monotonic >= job.deadline_monotonic
        if helper.judge is None:
            return False  # it is being forked, which `children` judges
        return helper.judge.hangs(self._now_monotonic, self._children.activity(helper.name))

    def _give_up(self, helper: _Helper, why: str) -> None:
        """Kill a helper. Until the kernel lets go of it, it counts."""
        if helper.job is not None:
            _fail(helper.job, why)
        helper.job = helper.judge = None
        _close(helper)
        self._children.kill(helper.name)

    def _forget(self, helper: _Helper, why: str) -> None:
        if helper.job is not None:
            _fail(helper.job, why)
        _close(helper)
        if helper.theirs is not None:
            helper.theirs.close()
        del self._helpers[helper.name]


def _close(helper: _Helper) -> None:
    if helper.ours is not None:
        helper.ours.close()
        helper.ours = None


def _fail(job: Job, why: str) -> None:
    job.why_not = why
    log.warning(
        "Gave up %s: %s", type(job.request).__name__, why, extra={"event": "helper-gave-up"}
    )
