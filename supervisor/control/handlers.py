"""Handlers of the requests of `geosched-ctl`: each carries out one and returns its answer.

They run in the loop's thread, between its turns, and leave every change of a status to the
loop. A handler whose answer takes time returns `Later`. Permissions, and the clients that wait,
are in `server.py`.
"""

import os
from collections.abc import Callable, Iterator
from typing import TypeAlias, assert_never

import msgspec

from ... import __version__
from ...ipc.actions import ExecutionStatus
from ...ipc.instants import format_instant, format_optional
from ...ipc.messages.control import (
    EVENTS_WAIT_SECONDS,
    LIST_PAGE_MAX,
    REPORTS_PAGE_MAX,
    RUNS_SHOWN_MAX,
    Acknowledged,
    AcknowledgeIncidents,
    Acting,
    ActionIs,
    ActionsAre,
    Answer,
    Compare,
    Compared,
    DifferencesAre,
    Dropped,
    DropReports,
    EventsAre,
    Flushed,
    FlushReports,
    GetStatus,
    ListActions,
    ListDifferences,
    ListReports,
    Looking,
    Ping,
    Pong,
    Progress,
    ReadEvents,
    ReadLog,
    RefusalKind,
    Refused,
    ReportsAre,
    ShowAction,
    Shutdown,
    ShuttingDown,
    StatusIs,
    StopAction,
    Stopped,
    Sync,
    Synced,
)
from ...ipc.messages.views import (
    REASONS_JOINED_BY,
    STORE_REMOVED,
    STORE_REMOVED_WORDS,
    ActionView,
    ClockView,
    DaemonView,
    LimitsView,
    OperatorsView,
    OutboxView,
    StatusView,
    StoreView,
)
from ..core.model import Instant, Null, Over, Record, RunRow, Waiting
from ..host.helpers import JOB_SECONDS_MAX, Helpers
from ..loop import Loop
from ..store.errors import StoreError
from ..store.files import file_system
from ..store.repair import incidents
from ..sync.report_sender import sequence_of
from .run_output import read_run_output
from .views import action_view, event_view, incident_view, phase, report_view, run_view

#: Added to the grace of a `stop` and to the time-out of a `sync`; half of it to the bound of
#: a `shutdown`, which has a margin already (INTERFACE, "Commands").
BOUND_MARGIN_SECONDS = 10.0

#: One poll after each turn of the loop: None or `Progress` while there is no answer, then the
#: answer. Nothing is done before the first poll.
Polls: TypeAlias = Iterator[Answer | None]


class Later(msgspec.Struct):
    """An answer that takes up to `bound_seconds`.

    The client is sent `Accepted` first, unless `accepted` is false. Where too many clients
    wait already, nothing is begun, and `crowded` is the answer.
    """

    polls: Polls
    bound_seconds: float
    accepted: bool = True
    crowded: Answer = Refused(RefusalKind.FAILED, "too many clients wait already")


class Handlers:
    """All handlers, over one loop.

    `containment` is the kind of containment of process trees on this host, `limits` returns the
    bounds of this process, `operators` the names of those that count for nobody; `bad_messages`
    counts the requests that could not be read.
    """

    def __init__(
        self,
        loop: Loop,
        helpers: Helpers,
        *,
        containment: str,
        limits: Callable[[], LimitsView] = LimitsView,
        operators: Callable[[], OperatorsView] = OperatorsView,
    ) -> None:
        self.bad_messages = 0
        self._loop = loop
        self._helpers = helpers
        self._containment = containment
        self._limits = limits
        self._operators = operators
        self._started: Instant = loop.now
        self._file_system = file_system(loop.parts.db.store_dir)

    def look(self, request: Looking) -> Answer | Later:
        """Answer a request that changes nothing."""
        match request:
            case Ping():
                return Pong(os.getpid(), __version__)
            case GetStatus():
                return StatusIs(self._status())
            case ListActions():
                return self._actions(request)
            case ShowAction(action_id):
                return self._action(action_id) or _no_such(action_id)
            case ReadLog():
                return self._log(request)
            case ReadEvents():
                return self._events(request)
            case ListReports():
                return self._reports(request)
            case ListDifferences():
                return self._differences(request)
        assert_never(request)

    def act(self, request: Acting) -> Answer | Later:
        """Carry out a request of a client that may act."""
        match request:
            case Sync():
                return self._sync(request)
            case Compare():
                return Later(self._compared(), self._exchange_bound_seconds)
            case StopAction(action_id):
                return self._stop(action_id)
            case FlushReports():
                return Later(self._flushed(), self._exchange_bound_seconds)
            case DropReports():
                return self._drop_reports(request)
            case AcknowledgeIncidents():
                return self._acknowledge()
            case Shutdown():
                bound_seconds = self._loop.shut_down() + BOUND_MARGIN_SECONDS / 2
                return ShuttingDown(os.getpid(), bound_seconds)
        assert_never(request)

    # --- status -------------------------------------------------------------------------

    def _status(self) -> StatusView:
        loop = self._loop
        parts, now = loop.parts, loop.now
        counts = parts.db.counts()
        bad = parts.pool.bad_messages + parts.sync.bad_messages + self.bad_messages
        return StatusView(
            daemon=self._daemon(),
            counts={status.value: counts[status] for status in ExecutionStatus},
            running=counts[ExecutionStatus.STARTED],
            queued=loop.parts.agenda.queue.without_slot,
            next_edge=self._next_edge(),
            backend=parts.sync.view(parts.jobs.next_in_seconds(now.boot_seconds, "pull"), now),
            outbox=OutboxView(
                depth=parts.db.outbox_depth,
                oldest_at=format_optional(parts.db.outbox_oldest_us),
                dropped=parts.db.outbox_dropped,
                refused=parts.db.reports.refused,
            ),
            clock=ClockView(parts.clock.trusted, parts.clock.detail),
            containment=self._containment,
            immortal_heap=parts.children.immortal_heap,
            store=self._store(),
            stuck=sum(run.stuck for run in parts.pool.runs.values()) + len(parts.due.stuck),
            output_lost_bytes=loop.output_lost_bytes + parts.pool.output_lost_bytes,
            lost_swaps=loop.lost_swaps,
            bad_messages=bad,
            limits=self._limits(),
            operators=self._operators(),
        )

    def _daemon(self) -> DaemonView:
        loop = self._loop
        uptime = loop.now.boot_seconds - self._started.boot_seconds
        removed = STORE_REMOVED_WORDS if loop.parts.db.removed else None
        reasons = (loop.degraded, removed, loop.parts.children.trouble)
        return DaemonView(
            pid=os.getpid(),
            version=__version__,
            started_at=format_instant(self._started.wall_us),
            uptime_seconds=round(uptime, 3),
            shutting_down=loop.leaving is not None,
            degraded=REASONS_JOINED_BY.join(reason for reason in reasons if reason) or None,
        )

    def _store(self) -> StoreView:
        loop = self._loop
        db, backup = loop.parts.db, loop.parts.backup
        room = db.room()
        return StoreView(
            state=STORE_REMOVED if db.removed else loop.store_state,
            used_bytes=room.used_bytes,
            map_bytes=room.map_bytes,
            file_system=self._file_system,
            preallocated=db.full_size,
            damaged_values=db.damaged,
            last_backup_at=format_optional(backup.last_us),
            backup_error=backup.error,
            incidents=tuple(map(incident_view, incidents.read(db.store_dir))),
        )

    def _next_edge(self) -> str | None:
        """Return the first instant ahead at which the window of an action begins or ends; of a
        queued or held action the end, which is not in the index."""
        loop = self._loop
        ahead = (
            loop.parts.db.next_edge_after(loop.now.wall_us),
            loop.parts.agenda.next_end_us(),
        )
        return format_optional(min((edge for edge in ahead if edge is not None), default=None))

    # --- actions, runs, events ----------------------------------------------------------

    def _actions(self, request: ListActions) -> ActionsAre | Refused:
        try:
            statuses = frozenset(ExecutionStatus(status) for status in request.statuses)
            records, cursor = self._loop.parts.db.page(
                request.cursor, LIST_PAGE_MAX, statuses or frozenset(ExecutionStatus)
            )
        except ValueError as error:
            return Refused(RefusalKind.BAD_REQUEST, str(error))
        return ActionsAre(tuple(self._view(record) for record in records), cursor)

    def _action(self, action_id: str) -> ActionIs | None:
        record = self._loop.parts.db.read(action_id)
        if record is None:
            return None
        rows = self._loop.parts.db.runs(action_id, RUNS_SHOWN_MAX)
        live, now = self._loop.parts.pool.runs, self._loop.now
        runs = tuple(run_view(row, now, live.get(row.run_id)) for row in rows)
        return ActionIs(self._view(record), runs)

    def _view(self, record: Record) -> ActionView:
        loop = self._loop
        row = self._newest_run(record)
        live = loop.parts.pool.runs.get(row.run_id) if row else None
        action_id = record.action.id
        held = isinstance(record.state, Null | Waiting) and not loop.parts.agenda.hold_over(
            action_id, loop.now
        )
        queued = action_id in loop.parts.agenda.queue
        shown = phase(record, live, queued=queued, held=held)
        view = action_view(record, shown, run_view(row, loop.now, live) if row else None)
        return msgspec.structs.replace(view, detail=self._waits_for(record)) if queued else view

    def _waits_for(self, record: Record) -> str:
        """Return the detail of an action that is queued, with what it waits for."""
        for_slot = isinstance(record.state, Null) and self._loop.slots == 0
        waits = "waits for a slot" if for_slot else "waits for a worker"
        return f"{record.detail}; {waits}" if record.detail else waits

    def _newest_run(self, record: Record) -> RunRow | None:
        if record.attempt == 0:
            return None
        return self._loop.parts.db.run(record.action.id, record.attempt)

    def _log(self, request: ReadLog) -> Refused | Later:
        record = self._loop.parts.db.read(request.id)
        if record is None:
            return _no_such(request.id)
        row = self._loop.parts.db.run(request.id, request.attempt or record.attempt)
        if row is None:
            which = f"run {request.attempt}" if request.attempt else "run"
            return Refused(RefusalKind.FAILED, f"action {request.id!r} has no {which}")
        polls = read_run_output(self._loop, self._helpers, row, request.offset)
        return Later(polls, 2 * JOB_SECONDS_MAX, accepted=False)

    def _events(self, request: ReadEvents) -> EventsAre | Later:
        found = self._events_after(request.after)
        if found.events or not request.wait:
            return found
        polls = self._awaited_events(request.after)
        return Later(polls, EVENTS_WAIT_SECONDS, accepted=False, crowded=found)

    def _awaited_events(self, after: int) -> Polls:
        until_monotonic = self._loop.now.monotonic_seconds + EVENTS_WAIT_SECONDS
        found = self._events_after(after)
        while not found.events and self._loop.now.monotonic_seconds < until_monotonic:
            yield None
            found = self._events_after(after)
        yield found

    def _events_after(self, after: int) -> EventsAre:
        events = self._loop.parts.db.events(after)
        return EventsAre(tuple(event_view(sequence, change) for sequence, change in events))

    def _stop(self, action_id: str) -> Refused | Later:
        record = self._loop.parts.db.read(action_id)
        if record is None:
            return _no_such(action_id)
        match record.state:
            case Null():
                detail = f"action {action_id!r} has not started: there is nothing to stop"
                return Refused(RefusalKind.CONFLICT, detail)
            case Over(status):
                detail = f"action {action_id!r} is over already: {status.value}"
                return Refused(RefusalKind.CONFLICT, detail)
            case _:
                script = self._loop.settings.scripts.get(record.action.type)
                grace_seconds = script.stop_grace_seconds if script else 0.0
                return Later(self._stopped(action_id), grace_seconds + BOUND_MARGIN_SECONDS)

    def _stopped(self, action_id: str) -> Polls:
        self._loop.ask_stop(action_id)
        while (found := self._action(action_id)) is None or found.action.phase != "done":
            yield None
        yield Stopped(found.action)

    # --- the backend --------------------------------------------------------------------

    @property
    def _exchange_bound_seconds(self) -> float:
        return self._loop.settings.backend.timeout_seconds + BOUND_MARGIN_SECONDS

    def _sync(self, request: Sync) -> Synced | Later:
        if request.wait:
            return Later(self._synced(request), self._exchange_bound_seconds)
        return Synced(self._loop.parts.sync.ask().counts)

    def _synced(self, request: Sync) -> Polls:
        asked = self._loop.parts.sync.ask()
        while not asked.done:
            yield self._progress() if request.progress else None
        yield Synced(asked.counts, asked.error)

    def _progress(self) -> Progress | None:
        share = self._loop.parts.sync.share_applied()
        return None if share is None else Progress(*share)

    def _compared(self) -> Polls:
        made = self._loop.parts.sync.ask_comparison()
        while not made.done:
            yield None
        yield Compared(made.number, len(made.different), made.set_aside, made.error)

    def _differences(self, request: ListDifferences) -> DifferencesAre | Refused:
        made = self._loop.parts.sync.comparison
        if made is None or not made.done or made.number != request.number:
            detail = "cannot go on with the differences: what was compared is not held any more"
            return Refused(RefusalKind.CONFLICT, detail)
        views, cursor = made.page(request.cursor, self._loop.parts.db.read)
        return DifferencesAre(tuple(views), cursor)

    def _reports(self, request: ListReports) -> ReportsAre:
        db, aside = self._loop.parts.db, request.set_aside
        rows, cursor = db.reports.page(
            set_aside=aside, after=request.cursor, limit=REPORTS_PAGE_MAX
        )
        views = [report_view(db.meta.generation, n, row, set_aside=aside) for n, row in rows]
        return ReportsAre(tuple(views), cursor)

    def _flushed(self) -> Polls:
        try:
            flushed = self._loop.parts.db.reports.put_back()
        except StoreError as error:
            yield _not_written(error)
            return
        asked = self._loop.parts.sync.ask_report()
        while not asked.done:
            yield None
        yield Flushed(flushed, asked.counts.reported, asked.error)

    def _drop_reports(self, request: DropReports) -> Dropped | Refused:
        db = self._loop.parts.db
        numbers = {key: sequence_of(key, db.meta.generation) for key in request.keys}
        known = {number: key for key, number in numbers.items() if number is not None}
        try:
            if not request.keys:
                return Dropped(db.reports.drop_all())
            strangers = [key for key in numbers if key not in known.values()]
            missing = strangers or [known[number] for number in db.reports.drop(known)]
        except StoreError as error:
            return _not_written(error)
        if missing:
            detail = f"cannot drop the report {missing[0]!r}: none of that key is set aside"
            return Refused(RefusalKind.FAILED, detail)
        return Dropped(len(known))

    # --- the database -------------------------------------------------------------------

    def _acknowledge(self) -> Acknowledged | Refused:
        place = self._loop.parts.db.store_dir
        seen = incidents.read(place)
        try:
            incidents.acknowledge(place)
        except OSError as error:
            return Refused(RefusalKind.FAILED, f"cannot remove what is kept of them: {error}")
        return Acknowledged(tuple(map(incident_view, seen)))


def _no_such(action_id: str) -> Refused:
    return Refused(RefusalKind.NO_SUCH_ACTION, f"there is no action {action_id!r}")


def _not_written(error: StoreError) -> Refused:
    """Return the refusal for a write that failed; raise an error that ends the daemon."""
    if error.fatal:
        raise error
    return Refused(RefusalKind.FAILED, str(error))
