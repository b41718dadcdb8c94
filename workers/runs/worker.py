"""A worker's life: tell who it is, be ready, carry out one run, report its end, leave.

It speaks with the supervisor and keeps the run's lock and its result; the run itself is
`run.py`'s. A worker starts nothing unless a living supervisor told it to (law 11).
"""

import logging
import os
import select
import time

from setproctitle import setproctitle

from ...ipc.failpoints import Step, step
from ...ipc.messages.runs import (
    Ack,
    EndCause,
    Ended,
    FromWorker,
    Ready,
    Release,
    Run,
    RunResult,
    Started,
    Stop,
    StopReason,
    ToWorker,
)
from ...ipc.sockets import Connection, Poller, ProtocolError, new_context
from ..host.cgroups import Group
from ..host.linux import become_subreaper, merge_pages
from ..runfiles import results
from ..runfiles.processes import Kind, declare, forget_identity
from ..runfiles.run_lock import (
    RunLockedError,
    release_run_lock,
    take_run_lock,
)
from .launch import CannotStartError
from .prefork import Preforked
from .run import ActiveRun, World, wall_us

log = logging.getLogger(__name__)

MESSAGES_PER_TURN_MAX = 16
#: The order of a run holds its apps up to three times, a thousand of a thousand bytes.
RUN_FRAME_BYTES_MAX = 16 * 1024 * 1024
ENDED_AGAIN_SECONDS = 1.0
#: A worker that has nothing to do looks around so often all the same.
WAIT_SECONDS_MAX = 60.0


def main(name: str, endpoint: str, world: World, *, forks_ahead: bool = False) -> int:
    """Be the worker `name`, in a process of its own; its exit status."""
    become_subreaper()
    group = _join(world.containment.group(name))
    # As early as can be: what is written to until then is copied twice.
    preforked = _prefork() if forks_ahead else None
    setproctitle("geosched: worker")
    declare(world.runtime, Kind.WORKER, name)
    context = new_context()
    connection: Connection[ToWorker, FromWorker] = Connection(
        context,
        endpoint,
        receives=ToWorker,
        name=name,
        frame_bytes_max=RUN_FRAME_BYTES_MAX,
    )
    Worker(connection, world, group, preforked).live()
    connection.close(linger_milliseconds=0)
    context.term()
    forget_identity(world.runtime, os.getpid())
    return 0


class Worker:
    """At most one run, ever."""

    def __init__(
        self,
        connection: Connection[ToWorker, FromWorker],
        world: World,
        group: Group | None = None,
        preforked: Preforked | None = None,
    ) -> None:
        self._connection = connection
        self._world = world
        self._group = group
        self._preforked = preforked
        self._poller = Poller()
        self._order: Run | None = None
        self._lock: int | None = None
        self._run: ActiveRun | None = None
        self._result: RunResult | None = None
        self._say_again_at_monotonic = 0.0
        self._told_begun = False
        self._orphaned = False
        self._leaving = False

    def live(self) -> None:
        self._poller.watch(self._connection)
        self._poller.watch(self._world.lifeline)
        with step(Step.SEND_READY):
            self._say(Ready())
        while not self._leaving:
            readable = self._poller.wait(self._wait_seconds(time.monotonic()))
            now = time.monotonic()
            # Its last words first: a stop that it still sent has the better reason.
            self._hear_supervisor(now)
            if self._world.lifeline in readable and not self._orphaned:
                self._lose_supervisor(now)
            self._turn(now)
        if self._preforked is not None:
            self._preforked.discard()  # by us, so that it is out of our group when we are
        if self._order is not None and self._lock is not None:
            with step(Step.UNLOCK_RUN):
                release_run_lock(self._world.runtime, self._order.run_id, self._lock)

    def _wait_seconds(self, now: float) -> float:
        deadlines = [now + WAIT_SECONDS_MAX]
        if self._order is not None:
            deadlines.append(self._say_again_at_monotonic)
        if self._run is not None:
            due = self._run.next_deadline(now)
            deadlines += [] if due is None else [due]
        return max(0.0, min(deadlines) - now)

    def _say(self, message: FromWorker) -> None:
        """What does not get through is said again, or was not that important."""
        if not self._orphaned and not self._connection.send(message):
            log.debug("Cannot send %s: the supervisor does not read", type(message).__name__)

    def _hear_supervisor(self, now: float) -> None:
        for _ in range(MESSAGES_PER_TURN_MAX):
            try:
                message = self._connection.receive()
            except ProtocolError as error:
                log.error("Ignored a message: %s", error, extra={"event": "bad-message"})
                continue
            if message is None:
                return
            self._obey(message, now)

    def _obey(self, message: ToWorker, now: float) -> None:
        match message:
            case Run() if self._order is None and not self._orphaned:
                self._begin(message, now)
            case Stop(run_id, reason) if self._run and self._is_ours(run_id):
                self._run.stop(reason, now)
            case Ack(run_id) if self._result and self._is_ours(run_id):
                if self._lock is not None:
                    with step(Step.FORGET_RESULT):
                        results.remove(self._world.runtime, run_id)
                self._leaving = True
            case Release() if self._order is None:
                self._leaving = True
            case _:
                log.debug("Ignored %s: it does not fit", type(message).__name__)

    def _is_ours(self, run_id: str) -> bool:
        return self._order is not None and self._order.run_id == run_id

    def _lose_supervisor(self, now: float) -> None:
        """Nobody is left to hear us: stop the script, keep the result, leave (law 11)."""
        self._poller.forget(self._world.lifeline)
        self._orphaned = True
        if self._run is None:
            self._leaving = True
        else:
            self._run.stop(StopReason.ORPHANED, now)

    def _begin(self, order: Run, now: float) -> None:
        """Lock, look at the lifeline, start: in this order, so that no run is doubled."""
        self._order = order
        try:
            with step(Step.LOCK_RUN):
                self._lock = take_run_lock(self._world.runtime, order.run_id)
        except RunLockedError as error:
            self._refuse(str(error), now)
            return
        except OSError as error:
            self._refuse(f"cannot lock run {order.run_id}: {error.strerror}", now)
            return
        if _at_end(self._world.lifeline):
            self._lose_supervisor(now)
            return
        try:
            with step(Step.START_SCRIPT):
                self._run = ActiveRun(
                    order,
                    self._world,
                    self._poller,
                    self._group,
                    preforked=self._preforked,
                    lock=self._lock,
                )
        except CannotStartError as error:
            self._refuse(str(error), now)
            return
        self._tell_begun()
        self._say_again_at_monotonic = now + order.heartbeat_seconds
        # Not earlier: it costs a moment, and wipes the environment that marks us (fact P16).
        setproctitle(order.title)
        _merge_pages()

    def _tell_begun(self) -> None:
        assert self._order is not None
        began_us = None if self._run is None else self._run.began_us
        if self._run is None or began_us is None or self._told_begun:
            return
        self._told_begun = True
        self._say(Started(self._order.run_id, self._run.script_pid, began_us))

    def _refuse(self, detail: str, now: float) -> None:
        assert self._order is not None
        cause = EndCause.CANNOT_START
        self._end(RunResult(self._order.run_id, cause, wall_us(), detail=detail), now)

    def _turn(self, now: float) -> None:
        if self._order is None:
            return
        if self._run is not None:
            result = self._run.turn(now)
            self._tell_begun()
            if result is not None:
                self._run = None
                self._end(result, now)
        if now < self._say_again_at_monotonic:
            return
        if self._run is not None:
            self._say(self._run.heartbeat())
            self._say_again_at_monotonic = now + self._order.heartbeat_seconds
        elif self._result is not None:
            with step(Step.SEND_ENDED):
                self._say(Ended(self._result))
            self._say_again_at_monotonic = now + ENDED_AGAIN_SECONDS

    def _end(self, result: RunResult, now: float) -> None:
        """On disk first, then told; a result that cannot be kept is still told."""
        self._result = result
        self._say_again_at_monotonic = now
        if self._lock is not None:  # without it the run is another's, and so is its result
            self._keep(result)
        if self._orphaned:
            self._leaving = True

    def _keep(self, result: RunResult) -> None:
        try:
            with step(Step.KEEP_RESULT):
                results.keep(self._world.runtime, result)
        except OSError as error:
            log.error(
                "Cannot keep the result of run %s: %s",
                result.run_id,
                error,
                extra={"event": "result-not-kept", "runId": result.run_id},
            )


def _join(group: Group | None) -> Group | None:
    """The group, with this process in it; or None: then the run is held by its tree alone.

    Before any thread is started: in the first hierarchy only one thread would move.
    """
    if group is None:
        return None
    try:
        group.make()
        group.join()
    except OSError as error:
        log.warning(
            "Cannot use the cgroup %s, going on without: %s",
            group.path,
            error,
            extra={"event": "no-cgroup"},
        )
        return None
    return group


def _prefork() -> Preforked | None:
    """What will be the script, forked while there is time, and before there are threads."""
    try:
        return Preforked()
    except OSError as error:
        log.warning("Cannot fork ahead: %s", error, extra={"event": "not-preforked"})
        return None


def _merge_pages() -> None:
    """Workers that have a run count references in the same pages, each in its own copy, which
    are alike. Not earlier: what is forked would have its pages merged, too."""
    try:
        merge_pages()
    except OSError as error:
        log.debug("Alike pages of workers are not merged: %s", error)


def _at_end(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(0))
