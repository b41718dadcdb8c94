"""The worker process: identifies itself, is ready, carries out one run, reports its end, leaves.

It talks to the supervisor, holds the run's lock and keeps its result; `run.py` carries out the
run. A worker starts nothing without an order of a living supervisor (law 11).
"""

import logging
import os
import select
import time
from collections.abc import Callable

import msgspec
from setproctitle import setproctitle

from ...ipc.dealer import Dealer
from ...ipc.failpoints import Step, step
from ...ipc.foreign_text import visible
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
from ...ipc.wire import ENDPOINT_SCHEME, ProtocolError
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
#: An order has the apps of its action up to three times: a thousand of a thousand bytes.
RUN_FRAME_BYTES_MAX = 16 * 1024 * 1024
ENDED_AGAIN_SECONDS = 1.0
#: A worker with nothing to do takes a turn this often all the same.
WAIT_SECONDS_MAX = 60.0

decode: Callable[[bytes | memoryview], ToWorker] = msgspec.msgpack.Decoder(ToWorker).decode


def main(name: str, endpoint: str, world: World, *, forks_ahead: bool = False) -> int:
    """Act as the worker `name`, in the calling process. Returns its exit status."""
    become_subreaper()
    group = _join(world.containment.group(name))
    # As early as possible: each page written to before is copied twice.
    preforked = _prefork() if forks_ahead else None
    setproctitle("geosched: worker")
    declare(world.runtime, Kind.WORKER, name)
    poll = select.poll()
    connection: Dealer[ToWorker, FromWorker] = Dealer(
        endpoint.removeprefix(ENDPOINT_SCHEME),
        poll,
        decode=decode,
        name=name,
        frame_bytes_max=RUN_FRAME_BYTES_MAX,
    )
    Worker(connection, poll, world, group, preforked).live()
    connection.close()
    forget_identity(world.runtime, os.getpid())
    return 0


class Worker:
    """A worker, which carries out at most one run. `now` is in monotonic seconds."""

    def __init__(
        self,
        connection: Dealer[ToWorker, FromWorker],
        poll: select.poll,
        world: World,
        group: Group | None = None,
        preforked: Preforked | None = None,
    ) -> None:
        self._connection = connection
        self._world = world
        self._group = group
        self._preforked = preforked
        self._poll = poll
        self._order: Run | None = None
        self._lock: int | None = None
        self._run: ActiveRun | None = None
        self._result: RunResult | None = None
        self._say_again_at_monotonic = 0.0
        self._told_begun = False
        self._orphaned = False
        self._leaving = False

    def live(self) -> None:
        """Send READY, then take turns until it may leave."""
        self._poll.register(self._world.lifeline, select.POLLIN)
        with step(Step.SEND_READY):
            self._say(Ready())
        while not self._leaving:
            ready = self._poll.poll(1000 * self._wait_seconds(time.monotonic()))
            now = time.monotonic()
            # Messages before the lifeline: a stop that was still sent has the better reason.
            self._hear_supervisor(now)
            if not self._orphaned and self._world.lifeline in dict(ready):
                self._lose_supervisor(now)
            self._turn(now)
        if self._preforked is not None:
            self._preforked.discard()  # so that it has left the group when the worker does
        if self._order is not None and self._lock is not None:
            with step(Step.UNLOCK_RUN):
                release_run_lock(self._world.runtime, self._order.run_id, self._lock)

    def _wait_seconds(self, now: float) -> float:
        deadlines = [now + WAIT_SECONDS_MAX]
        if (due := self._connection.next_deadline()) is not None:
            deadlines.append(due)
        if self._order is not None:
            deadlines.append(self._say_again_at_monotonic)
        if self._run is not None:
            due = self._run.next_deadline(now)
            deadlines += [] if due is None else [due]
        return max(0.0, min(deadlines) - now)

    def _say(self, message: FromWorker) -> bool:
        """Send a message. One that does not get through is repeated, or can be done without."""
        if self._orphaned:
            return False
        sent = self._connection.send(message)
        if not sent:
            log.debug("Cannot send %s: the supervisor does not read", type(message).__name__)
        return sent

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
        """Without a supervisor: stop the script, keep the result, leave (law 11)."""
        self._poll.unregister(self._world.lifeline)
        self._orphaned = True
        if self._run is None:
            self._leaving = True
        else:
            self._run.stop(StopReason.ORPHANED, now)

    def _begin(self, order: Run, now: float) -> None:
        """Lock, check the lifeline, start: in this order no run is started twice (fact T6)."""
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
                    self._poll,
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
        setproctitle(visible(order.title))
        _merge_pages()

    def _tell_begun(self) -> None:
        """Send STARTED, once, when the script has begun; a held one has not."""
        assert self._order is not None
        began_us = None if self._run is None else self._run.began_us
        if self._run is None or began_us is None or self._told_begun:
            return
        self._told_begun = self._say(Started(self._order.run_id, self._run.script_pid, began_us))

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
        """Keep the result, then have it sent; one that cannot be kept is sent all the same."""
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
    """Make the group and move this process into it. None where that fails: then only its tree
    holds the run together.

    Call it before any thread is started: in a cgroup1 hierarchy only one thread would move.
    """
    if group is None:
        return None
    try:
        group.make()
        group.join()
    except OSError as error:
        log.warning(
            "Cannot use the cgroup %s, going on without: %s",
            group.directory,
            error,
            extra={"event": "no-cgroup"},
        )
        return None
    return group


def _prefork() -> Preforked | None:
    """Fork the process of the script, while there is time and before there are threads."""
    try:
        return Preforked()
    except OSError as error:
        log.warning("Cannot fork ahead: %s", error, extra={"event": "not-preforked"})
        return None


def _merge_pages() -> None:
    """Have the kernel merge pages that are alike in many workers: each has its own copy of those
    in which it counts references (fact P26). Not earlier: forks inherit it, scripts too."""
    try:
        merge_pages()
    except OSError as error:
        log.debug("Alike pages of workers are not merged: %s", error)


def _at_end(pipe: int) -> bool:
    """The writing end of a pipe is closed."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(0))
