"""The loop: gather, decide, commit, perform. Nothing here decides about a status.

What is about to happen is on disk before it happens; all decisions of a turn share one
transaction, and a turn without a change writes nothing (law 4). The poll in `gather` is
the only place where the daemon waits, and it ends at the next edge or deadline.
"""

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from ..ipc.actions import ExecutionStatus
from ..ipc.failpoints import Step, step
from ..ipc.messages.runs import EndCause, RunResult, StopReason
from ..ipc.sockets import Poller
from .config.settings import Settings
from .control.server import Control
from .core.lifecycle import Rules
from .core.model import (
    Change,
    Effect,
    Instant,
    Record,
    Running,
    StartRun,
    StopAsked,
    StopRun,
)
from .core.turn import Turn
from .host.children import Children
from .host.clock import Clock
from .periodic import Duties
from .runs.live_run import LiveRun
from .runs.pool import Pool
from .scheduler.due import Decider
from .scheduler.lookahead import Foresight
from .scheduler.queue import slots_free
from .store.daemondb import Committed, DaemonDB, MetaUpdate
from .store.errors import StoreError, StoreErrorKind
from .sync.manager import Backend
from .upkeep.backup import Backup
from .upkeep.retention import Retention

log = logging.getLogger(__name__)

STORE_OK = "ok"
#: With nothing ahead the loop still wakes so often, to compare the clocks.
IDLE_SECONDS_MAX = 30.0
#: A store that could not be written is tried again so often.
STORE_RETRY_SECONDS = 1.0
#: What a daemon that leaves grants beyond the longest grace (S16).
LEAVING_MARGIN_SECONDS = 5.0


class Leaving(msgspec.Struct):
    """Shutdown is a state: nothing is admitted, all runs are asked to stop (law 7)."""

    deadline: float
    bound_seconds: float
    told: bool = False  # the service manager knows
    asked: set[str] = msgspec.field(default_factory=set)


class Parts(msgspec.Struct):
    """What the loop turns: made by `service.py`, closed there in reverse order."""

    db: DaemonDB
    clock: Clock
    children: Children
    pool: Pool
    backend: Backend
    retention: Retention
    backup: Backup
    duties: Duties
    poller: Poller
    wakeup: int
    make_run: Callable[[Record, Instant], LiveRun]
    run_is_gone: Callable[[str], bool]
    clock_set: int | None = None  # readable when somebody has set the wall clock


class Loop:
    def __init__(self, parts: Parts, settings: Settings, rules: Rules) -> None:
        self.parts = parts
        self.settings = settings
        self.rules = rules
        self.decider = Decider(parts.db, parts.pool)
        self.agenda = self.decider.agenda
        self.foresight = Foresight(parts.db, parts.pool, self.agenda)
        self.now = parts.clock.read()
        self.control: Control | None = None
        self.leaving: Leaving | None = None
        self.degraded: str | None = None
        self.store_state: str = STORE_OK
        self.lost_swaps = 0
        self.output_lost_bytes = 0
        self.reload_wanted = False
        self._stops_asked: list[str] = []
        self._ended: list[RunResult] = []

    # --- the turn -----------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether the daemon may leave: no run is left, or its time is over."""
        if self.leaving is None:
            return False
        return not self.parts.pool.runs or self.now.monotonic_seconds >= self.leaving.deadline

    def turn(self) -> None:
        self._gather()
        turn, meta = self._decide()
        committed = self._commit(turn, meta)
        self._perform(turn, committed)

    def begin(self, changes: Sequence[Change], stuck: Sequence[Record]) -> None:
        """S2, decided and to be committed before anything else happens."""
        turn = Turn(self.now, self.rules, self.parts.db.read, self._started())
        for change in changes:
            turn.take(change)
        with step(Step.COMMIT_RECOVERED):
            committed = self._commit(turn, None)
        if committed is None:
            raise StoreError(f"cannot recover: {self.degraded}")
        for record in (*(change.after for change in changes), *self.parts.db.started()):
            self.agenda.note(record, self.now)  # back-offs run from now on, whatever is stepped
        self.decider.stuck = {_run_id(record): record for record in stuck}

    def write_mark(self) -> None:
        """Once a day, in case nothing else is written (S19)."""
        self.parts.db.commit(
            (), report=False, meta=MetaUpdate(clock_mark_us=self.parts.clock.mark_us)
        )

    def shut_down(self) -> float:
        """Begin to leave; the seconds it may take. A second call changes nothing."""
        bound = self._longest_grace() + LEAVING_MARGIN_SECONDS
        if self.leaving is None:
            log.info("Stopping: every run is asked to stop", extra={"event": "stopping"})
            self.leaving = Leaving(self.now.monotonic_seconds + bound, bound)
            self.parts.backend.abandon()
        return bound

    def ask_stop(self, action_id: str) -> None:
        self._stops_asked.append(action_id)

    # --- gather -------------------------------------------------------------------------

    def _gather(self) -> None:
        parts = self.parts
        parts.poller.wait(self._wait_seconds())
        self._forget_clock_set()
        self.now = now = parts.clock.read()
        if parts.clock.stepped:
            self.agenda.look_again(now)
            self.foresight.forget()
        self._take_signals()
        news = parts.children.gather(now.monotonic_seconds)
        self._ended = parts.pool.gather(news, now)
        if self.leaving is None:
            parts.backend.gather(news, now)
            parts.backup.gather(news, now)
            parts.retention.gather(news, now)
            parts.duties.run_due(now.boot_seconds)
        if self.control is not None:
            self.control.gather(now)

    def _wait_seconds(self) -> float:
        """Until the next thing anybody waits for; never 0 because of what cannot be done."""
        busy = self._stops_asked or self._unheard() or self._more_to_decide()
        return 0.0 if busy else self._until_due_seconds()

    def _calm_seconds(self) -> float:
        """For how long nothing is near: not at all while a run waits for its worker."""
        return 0.0 if self.parts.pool.waits else self._until_due_seconds()

    def _until_due_seconds(self) -> float:
        parts, now = self.parts, self.now
        deadlines = [parts.children.next_deadline(), parts.pool.next_deadline(now)]
        deadlines.append(None if self.control is None else self.control.next_deadline())
        if self.degraded is not None:
            deadlines.append(now.monotonic_seconds + STORE_RETRY_SECONDS)
        if self.leaving is not None:
            deadlines.append(self.leaving.deadline)
        else:
            deadlines += [parts.backend.next_deadline(now), self.decider.next_leftover_check]
            deadlines += [parts.retention.next_deadline(now), parts.backup.next_deadline(now)]
            deadlines += [*self.foresight.deadlines(now), *self._others()]
        wanted = (deadline for deadline in deadlines if deadline is not None)
        ahead = min(wanted, default=now.monotonic_seconds + IDLE_SECONDS_MAX)
        return min(max(0.0, ahead - parts.clock.monotonic_seconds()), IDLE_SECONDS_MAX)

    def _more_to_decide(self) -> bool:
        """A slice of a snapshot, or more edges than one turn looks at."""
        more = self.parts.backend.applying or self.decider.more_edges
        return more and self.leaving is None

    def _unheard(self) -> bool:
        """Runs that ended without any worker, this turn: the next has to hear of them."""
        return self.degraded is None and self.parts.pool.has_unheard

    def _others(self) -> list[float | None]:
        now = self.now
        duty = self.parts.duties.next_in_seconds(now.boot_seconds)
        trust = self.parts.clock.wait_ends_in(now)
        return [None if wait is None else now.monotonic_seconds + wait for wait in (duty, trust)]

    def _forget_clock_set(self) -> None:
        """It has woken us; how far the clock was set is told by the clocks."""
        if self.parts.clock_set is not None:
            with contextlib.suppress(OSError):  # ECANCELED: it was set; EAGAIN: it was not
                os.read(self.parts.clock_set, 8)

    def _take_signals(self) -> None:
        """Handlers only record (law 7): each signal is a byte in the wake-up pipe."""
        try:
            numbers = os.read(self.parts.wakeup, 512)
        except BlockingIOError:
            return
        if signal.SIGCHLD in numbers:
            self.parts.children.reap()
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self.shut_down()
        if signal.SIGHUP in numbers:
            self.reload_wanted = True

    # --- decide -------------------------------------------------------------------------

    def _decide(self) -> tuple[Turn, MetaUpdate | None]:
        decider, leaving = self.decider, self.leaving is not None
        now = self.now if leaving else self.foresight.as_of(self.now)
        turn = Turn(now, self.rules, self.parts.db.read, self._started())
        decider.runs_ended(turn, self._ended, leaving=leaving)
        for action_id in self._stops_asked:
            turn.happened(action_id, StopAsked())
        self._stops_asked.clear()
        if leaving:
            return turn, None
        decider.leftovers(turn, self.parts.run_is_gone, self.parts.pool.around.kept_result)
        meta = self.parts.backend.decide(turn, self._calm_seconds)
        decider.edges(turn, self.settings.daemon.max_running)
        return turn, meta

    # --- commit -------------------------------------------------------------------------

    def _commit(self, turn: Turn, meta: MetaUpdate | None) -> Committed | None:
        """One transaction; None where the store failed, and then nothing has changed."""
        changes = [self._completed(change) for change in turn.changes]
        writes = bool(changes or turn.absences) or meta is not None
        if writes:
            # With what is written anyway: a write of its own would wear the flash.
            meta = replace(meta or MetaUpdate(), clock_mark_us=self.parts.clock.mark_us)
        begun = self.parts.clock.monotonic_seconds()
        try:
            with step(*_steps_in(changes)):
                committed = self.parts.db.commit(
                    changes,
                    report=self.settings.backend.report,
                    meta=meta,
                    absences=turn.absences,
                )
        except StoreError as error:
            if error.fatal:
                raise
            self._store_failed(error)
            return None
        # What it did not take may have come to nothing since: then nothing is left to write.
        left = self.parts.backend.not_stored or not self.agenda.may_look(self.now)
        if self.degraded is not None and (writes or not left):
            log.info("daemonDB has taken all there was", extra={"event": "store-recovered"})
            self.degraded, self.store_state = None, STORE_OK
        if changes:
            self.foresight.commit_took(self.parts.clock.monotonic_seconds() - begun)
        self.lost_swaps += committed.won.count(False)
        return committed

    def _completed(self, change: Change) -> Change:
        """Add to a run's row what only the pool knows."""
        row = change.run
        live = self.parts.pool.runs.get(row.run_id) if row is not None else None
        if row is None or live is None or row.ended_us is None:
            return change
        self.output_lost_bytes += live.result.output_lost_bytes if live.result else 0
        return replace(change, run=live.completed(row))

    def _store_failed(self, error: StoreError) -> None:
        if self.degraded != str(error):
            log.error("Cannot write daemonDB: %s", error, extra={"event": "store-failed"})
        self.degraded, self.store_state = str(error), error.kind.value
        if error.kind is StoreErrorKind.MAP_FULL:
            self.parts.retention.look_for_old()
        self.agenda.look_again(self.now, in_seconds=STORE_RETRY_SECONDS)
        for record in self.parts.db.started():
            self.agenda.note(record, self.now)  # a hold that was over is looked at again too
        self.parts.backend.not_committed(self.now, str(error))

    # --- perform ------------------------------------------------------------------------

    def _perform(self, turn: Turn, committed: Committed | None) -> None:
        at = self.parts.clock.later(turn.now)
        self.parts.pool.committed(self.parts.clock.later(self.now))
        if committed is None:
            self._perform_stops_only(turn, at)
        else:
            for change, won in zip(turn.changes, committed.won, strict=True):
                if won:
                    self._perform_effects(change, at)
                else:
                    self.agenda.look_again(self.now)
            self.parts.pool.hand_out()
            self._log_events(committed)
            self.parts.retention.remove_output(committed.runs_forgotten)
            for result in self._ended:
                self.parts.pool.acknowledge(result.run_id)
            self.decider.forget_settled()
            quiet_seconds = self.foresight.quiet_seconds(self.now)
            self.parts.backend.committed(self.now, quiet_seconds=quiet_seconds)
        if self.leaving is not None:
            self._ask_all_to_stop(self.leaving)
        else:
            daemon = self.settings.daemon
            free = slots_free(daemon.max_running, self._started())
            self.foresight.arm(
                self.now, free, ahead_seconds=daemon.arm_ahead_seconds, spare=daemon.spare_workers
            )
        if self.control is not None:
            self.control.answer_waiting(self.now)

    def _perform_stops_only(self, turn: Turn, at: Instant) -> None:
        """Law 4's one exception: a stop is carried out even when it cannot be recorded."""
        for change in turn.changes:
            for effect in change.effects:
                if isinstance(effect, StopRun):
                    self._perform_effect(effect, change.after, at)

    def _perform_effects(self, change: Change, at: Instant) -> None:
        self.agenda.note(change.after, at)
        for effect in change.effects:
            self._perform_effect(effect, change.after, at)

    def _perform_effect(self, effect: Effect, record: Record, at: Instant) -> None:
        """`at` is a moment ahead where an edge is; pool and script wait for it."""
        pool = self.parts.pool
        match effect:
            case StopRun(run_id, reason):
                pool.stop(run_id, reason, at)
            case StartRun():
                run = self.parts.make_run(record, at)
                if run.order.command:
                    pool.start(run)
                else:
                    detail = f"no script is configured for the type {record.action.type!r}"
                    pool.fail(run, EndCause.NO_SCRIPT, detail, at)

    def _ask_all_to_stop(self, leaving: Leaving) -> None:
        now = self.parts.clock.later(self.now)
        for run_id, run in list(self.parts.pool.runs.items()):
            if run_id not in leaving.asked:
                leaving.asked.add(run_id)
                if run.stop is None:
                    self.parts.pool.stop(run_id, StopReason.SHUTDOWN, now)

    def _log_events(self, committed: Committed) -> None:
        for sequence, change in committed.events:
            log.info(
                "Action %s: %s -> %s (%s)",
                change.action_id,
                change.old.value,
                change.new.value,
                change.reason,
                extra={
                    "event": "status",
                    "id": change.action_id,
                    "from": change.old.value,
                    "to": change.new.value,
                    "reason": change.reason,
                    "seq": sequence,
                    "runId": change.run_id,
                },
            )

    # --- words --------------------------------------------------------------------------

    def _started(self) -> int:
        return self.parts.db.counts()[ExecutionStatus.STARTED]

    def _longest_grace(self) -> float:
        return max(
            (run.order.stop_grace_seconds for run in self.parts.pool.runs.values()), default=0.0
        )


def _run_id(record: Record) -> str:
    assert isinstance(record.state, Running)
    return record.state.run.run_id


def _steps_in(changes: Iterable[Change]) -> Iterator[Step]:
    """The durable steps of runs that committing these changes is."""
    for change in changes:
        if change.run is not None and change.run.ended_us is not None:
            yield Step.COMMIT_ENDED
        for effect in change.effects:
            yield Step.COMMIT_STARTED if isinstance(effect, StartRun) else Step.COMMIT_STOP
