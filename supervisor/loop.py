"""The daemon's loop: gather, decide, commit, perform. Nothing here decides about a status.

What is about to happen is on disk before it happens; all decisions of a turn share one
transaction, and a turn without a change writes nothing (law 4). The poll in `gather` is the
only place where the daemon waits, and it ends at the earliest deadline of its participants.
"""

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import msgspec
from msgspec.structs import replace

from ..ipc.actions import ExecutionStatus
from ..ipc.failpoints import Step, step
from ..ipc.messages.runs import EndCause, RunResult, StopReason
from ..ipc.messages.views import STORE_OK
from .config.sections import Settings
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
from .core.recovery import Recovery, recover
from .core.turn import Turn
from .host.children import Children
from .host.clock import Clock
from .host.news_poller import NewsPoller
from .participant import News, Participant
from .periodic import PeriodicJobs
from .runs.end_batch import EndBatch
from .runs.live_run import LiveRun
from .runs.pool import Pool
from .scheduler.agenda import Agenda
from .scheduler.due import DueEvents, runs_ended
from .scheduler.lookahead import Lookahead
from .scheduler.queue import slots_free
from .store.daemondb import Committed, DaemonDB
from .store.errors import StoreError, StoreErrorKind
from .store.tables.meta import MetaUpdate
from .sync.manager import SyncManager
from .upkeep.backup import Backup
from .upkeep.retention import Retention

log = logging.getLogger(__name__)

#: With nothing ahead the loop still wakes at this interval, to compare the clocks.
IDLE_SECONDS_MAX = 30.0
#: A store that could not be written is tried again at this interval.
STORE_RETRY_SECONDS = 1.0
#: The news of children waits no longer than this for more, so that it shares a turn.
MESSAGES_WAIT_SECONDS_MAX = 0.02
#: Added to the longest grace for a daemon that leaves (S16).
LEAVING_MARGIN_SECONDS = 5.0


class Leaving(msgspec.Struct):
    """Shutdown is a state: nothing is admitted, all runs are asked to stop (law 7)."""

    deadline_monotonic: float
    bound_seconds: float
    told: bool = False  # the service manager knows
    asked: set[str] = msgspec.field(default_factory=set)


class Parts(msgspec.Struct):
    """The parts of the loop: made by `service.py`, closed there in reverse order."""

    db: DaemonDB
    clock: Clock
    children: Children
    pool: Pool
    sync: SyncManager
    retention: Retention
    backup: Backup
    jobs: PeriodicJobs
    agenda: Agenda
    due: DueEvents
    lookahead: Lookahead
    poller: NewsPoller
    wakeup: int
    make_run: Callable[[Record, Instant], LiveRun]
    clock_set: int | None = None  # readable when somebody has set the wall clock


class Loop:
    """The turns of the daemon, and its own state between them.

    `reconfigure` may be called between two turns. A participant that joins takes
    part until the end, during shutdown too.
    """

    def __init__(self, parts: Parts, settings: Settings, rules: Rules) -> None:
        self.parts = parts
        self.settings = settings
        self.rules = rules
        self.now = parts.clock.read()
        self.leaving: Leaving | None = None
        self.degraded: str | None = None
        self.store_state: str = STORE_OK
        self.lost_swaps = 0
        self.output_lost_bytes = 0
        self.reload_wanted = False
        self._stops_asked: list[str] = []
        self._ends = EndBatch(parts.pool)
        # In this order: the first tells the others which processes came and went, and nothing
        # is forgotten in a turn that has just heard of a new snapshot.
        self._participants: tuple[Participant, ...] = (
            *(parts.children, parts.pool, parts.clock),
            *(parts.sync, parts.retention, parts.backup, parts.jobs),
            *(parts.due, parts.lookahead, self._ends),
        )
        self._to_the_end: tuple[Participant, ...] = (parts.children, parts.pool)

    def join(self, participant: Participant) -> None:
        self._participants = (*self._participants, participant)
        self._to_the_end = (*self._to_the_end, participant)

    def reconfigure(self, settings: Settings, rules: Rules) -> None:
        """Decide by these from the next turn on, and look at what waits once more."""
        self.settings = settings
        self.rules = self.parts.agenda.rules = rules
        self._look_again()

    # --- the turn -----------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """The daemon may leave: no run is left, or its time is over."""
        if self.leaving is None:
            return False
        over = self.now.monotonic_seconds >= self.leaving.deadline_monotonic
        return over or not self.parts.pool.runs

    def turn(self) -> None:
        self._gather()
        turn, meta = self._decide()
        committed = self._commit(turn, meta)
        self._perform(turn, committed)
        for participant in self._participants:
            participant.after_turn(self.now)

    def recover(self, kept: Mapping[str, RunResult], alive: Collection[str]) -> Recovery:
        """Settle what an earlier daemon left (S2), in one transaction, before anything else.

        `kept` are results of its workers by run id, `alive` the runs that could not be ended.
        Raises `StoreError`.
        """
        found = recover(self.parts.db.started(), kept, alive, self.now, self.rules)
        turn = Turn(self.now, self.rules, self.parts.db.read, self.started)
        for change in found.changes:
            turn.take(change)
        with step(Step.COMMIT_RECOVERED):
            committed = self._commit(turn, None)
        if committed is None:
            raise StoreError(f"cannot recover: {self.degraded}")
        for record in (*(change.after for change in found.changes), *self.parts.db.started()):
            # Back-offs run from now on, whatever is stepped.
            self.parts.agenda.note(record, self.now)
        self.parts.due.stuck = {_run_id(record): record for record in found.stuck}
        return found

    def write_mark(self) -> None:
        """Write the clock mark once a day, in case nothing else is written (S19)."""
        self.parts.db.commit(
            (), report=False, meta=MetaUpdate(clock_mark_us=self.parts.clock.mark_us)
        )

    def shut_down(self) -> float:
        """Begin to leave; return the seconds it may take. A second call changes nothing."""
        bound = self._longest_grace() + LEAVING_MARGIN_SECONDS
        if self.leaving is None:
            log.info("Stopping: every run is asked to stop", extra={"event": "stopping"})
            self.leaving = Leaving(self.now.monotonic_seconds + bound, bound)
            self.parts.sync.abandon()
            self._participants = self._to_the_end
        return bound

    def ask_stop(self, action_id: str) -> None:
        self._stops_asked.append(action_id)

    # --- gather -------------------------------------------------------------------------

    def _gather(self) -> None:
        parts = self.parts
        parts.poller.wait(self._wait_seconds(), self._together_seconds())
        self._forget_clock_set()
        self.now = now = parts.clock.read()
        if parts.clock.stepped:
            self._look_again()
            parts.lookahead.forget()
        self._take_signals()
        news = News()
        for participant in self._participants:
            participant.gather(news, now)

    def _wait_seconds(self) -> float:
        """Return how long to wait; never 0 because of something that cannot be done now."""
        return 0.0 if self._stops_asked else self._until_next_seconds(self._participants)

    def _together_seconds(self) -> float:
        """Return for how long the news of children wait for more of it; 0 while somebody waits."""
        parts = self.parts
        hurried = parts.pool.hurries or parts.sync.hurries or len(parts.agenda.queue)
        return 0.0 if hurried or self.leaving is not None else MESSAGES_WAIT_SECONDS_MAX

    def _calm_seconds(self) -> float:
        """Return for how long nothing but the sync manager is due; 0 while a run waits for its
        worker."""
        if self.parts.pool.waits:
            return 0.0
        others = [each for each in self._participants if each is not self.parts.sync]
        return self._until_next_seconds(others)

    def _until_next_seconds(self, participants: Iterable[Participant]) -> float:
        now = self.now
        deadlines = [participant.next_deadline(now) for participant in participants]
        deadlines.append(now.monotonic_seconds + IDLE_SECONDS_MAX)
        if self.degraded is not None:
            deadlines.append(now.monotonic_seconds + STORE_RETRY_SECONDS)
        if self.leaving is not None:
            deadlines.append(self.leaving.deadline_monotonic)
        least = min(deadline for deadline in deadlines if deadline is not None)
        return min(max(0.0, least - self.parts.clock.monotonic_seconds()), IDLE_SECONDS_MAX)

    def _forget_clock_set(self) -> None:
        """Take the timer's wake-up; the clocks themselves tell how far one was set."""
        if self.parts.clock_set is not None:
            with contextlib.suppress(OSError):  # ECANCELED: it was set; EAGAIN: it was not
                os.read(self.parts.clock_set, 8)

    def _take_signals(self) -> None:
        """Act on signals: their handlers only record (law 7), each as a byte in a pipe."""
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
        parts, leaving = self.parts, self.leaving is not None
        now = self.now if leaving else parts.lookahead.as_of(self.now)
        turn = Turn(
            now,
            self.rules,
            parts.db.read,
            self.started,
            workers=parts.pool.promise(parts.agenda.queue.lack_workers(self.slots), self.now),
            begun=lambda run_id: parts.pool.begun(run_id, now),
        )
        in_company = bool(parts.pool.ended) and self._ends_have_company(turn)
        ends = self._ends.take(self.now, in_company=in_company)
        runs_ended(turn, ends, parts.pool.runs, leaving=leaving)
        for action_id in self._stops_asked:
            turn.happened(action_id, StopAsked())
        self._stops_asked.clear()
        if leaving:
            return turn, None
        parts.due.stuck_runs(turn)
        meta = parts.sync.decide(turn, self._calm_seconds)
        parts.due.edges(turn, self.settings.daemon.max_running)
        return turn, meta

    def _ends_have_company(self, turn: Turn) -> bool:
        """Something else is due in this turn, or waits for what a run that has ended leaves."""
        parts = self.parts
        asked = self._stops_asked or self.leaving is not None or self.degraded is not None
        most = self.settings.daemon.max_running
        return bool(asked or parts.sync.applying or parts.due.is_due(turn, most))

    # --- commit -------------------------------------------------------------------------

    def _commit(self, turn: Turn, meta: MetaUpdate | None) -> Committed | None:
        """Commit a turn in one transaction; return None where the store failed, and nothing has
        changed."""
        changes = [self._completed(change) for change in turn.changes]
        writes = bool(changes or turn.absences) or meta is not None
        in_company = writes or self.leaving is not None
        verdicts = self.parts.sync.verdicts(self.now, in_company=in_company)
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
                    verdicts=verdicts,
                )
        except StoreError as error:
            if error.fatal:
                raise
            self._store_failed(error)
            return None
        if verdicts is not None:
            self.parts.sync.verdicts_stored()
        # What could not be written may be without effect by now: then nothing is left to write.
        left = self.parts.sync.not_stored or not self.parts.agenda.may_look(self.now)
        if self.degraded is not None and (writes or verdicts is not None or not left):
            log.info("daemonDB has taken all there was", extra={"event": "store-recovered"})
            self.degraded, self.store_state = None, STORE_OK
        if changes:
            self.parts.lookahead.commit_took(self.parts.clock.monotonic_seconds() - begun)
        self.lost_swaps += committed.won.count(False)
        return committed

    def _completed(self, change: Change) -> Change:
        """Return the change with what only the pool knows of its run."""
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
        self._look_again(in_seconds=STORE_RETRY_SECONDS)
        self.parts.sync.not_committed(self.now, str(error))

    def _look_again(self, *, in_seconds: float = 0.0) -> None:
        self.parts.agenda.look_again(self.now, in_seconds=in_seconds)
        for record in self.parts.db.started():
            self.parts.agenda.note(record, self.now)  # a hold that was over is looked at again too

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
                    self._look_again()
            self.parts.pool.hand_out()
            self._log_events(committed)
            self.parts.pool.cleanup.remove_output(committed.runs_forgotten)
            for result in self._ends.taken:
                self.parts.pool.acknowledge(result.run_id)
        if self.leaving is not None:
            self._ask_all_to_stop(self.leaving)

    def _perform_stops_only(self, turn: Turn, at: Instant) -> None:
        """Carry stops out even when they cannot be recorded: law 4's one exception."""
        for change in turn.changes:
            for effect in change.effects:
                if isinstance(effect, StopRun):
                    self._perform_effect(effect, change.after, at)

    def _perform_effects(self, change: Change, at: Instant) -> None:
        self.parts.agenda.note(change.after, at)
        for effect in change.effects:
            self._perform_effect(effect, change.after, at)

    def _perform_effect(self, effect: Effect, record: Record, at: Instant) -> None:
        """Carry out one effect. `at` may be an edge a moment ahead: pool and script wait for it."""
        pool = self.parts.pool
        match effect:
            case StopRun(run_id, reason):
                pool.stop(run_id, reason, at)
            case StartRun():
                run = self.parts.make_run(record, at)
                if run.order is not None:
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

    # --- numbers ------------------------------------------------------------------------

    @property
    def started(self) -> int:
        """Number of STARTED actions."""
        return self.parts.db.counts()[ExecutionStatus.STARTED]

    @property
    def slots(self) -> int:
        """Number of actions that may become STARTED (S14)."""
        return slots_free(self.settings.daemon.max_running, self.started)

    def _longest_grace(self) -> float:
        return max((run.stop_grace_seconds for run in self.parts.pool.runs.values()), default=0.0)


def _run_id(record: Record) -> str:
    assert isinstance(record.state, Running)
    return record.state.run.run_id


def _steps_in(changes: Iterable[Change]) -> Iterator[Step]:
    """Yield the durable steps of runs that committing these changes is."""
    for change in changes:
        if change.run is not None and change.run.ended_us is not None:
            yield Step.COMMIT_ENDED
        for effect in change.effects:
            yield Step.COMMIT_STARTED if isinstance(effect, StartRun) else Step.COMMIT_STOP
