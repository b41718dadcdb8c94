"""What the daemon can tell and do for `geosched-ctl`: reads, and wishes put to the loop."""

import os
from pathlib import Path

from ... import __version__
from ...ipc.actions import ExecutionStatus
from ...ipc.instants import format_instant, format_optional
from ...ipc.messages.control import (
    LIST_PAGE_MAX,
    LOG_CHUNK_BYTES_MAX,
    REPORTS_PAGE_MAX,
    RUNS_SHOWN_MAX,
    Acknowledged,
    ActionIs,
    ActionsAre,
    DifferencesAre,
    Dropped,
    DropReports,
    EventsAre,
    ListActions,
    ListDifferences,
    ListReports,
    LogChunk,
    Progress,
    ReadLog,
    RefusalKind,
    Refused,
    ReportsAre,
    StatusIs,
)
from ...ipc.messages.views import (
    ActionView,
    ClockView,
    DaemonView,
    OutboxView,
    StatusView,
    StoreView,
)
from ...workers.runfiles.output import read_output
from ..core.model import Instant, Null, Over, Record, RunRow, Waiting
from ..loop import Loop
from ..runs.run_order import output_path
from ..store.errors import StoreError
from ..store.files import file_system
from ..store.repair import incidents
from ..sync.compare import Comparison
from ..sync.report_sender import sequence_of
from ..sync.syncs import SyncAsked
from .views import action_view, event_view, incident_view, phase, report_view, run_view

STOP_MARGIN_SECONDS = 10.0
#: Of app names in one page of `list`; with one more action it still fits its frame.
LIST_PAGE_CHARS_MAX = 64 * 1024


class LoopDesk:
    """`containment` is how whole process trees are held on this host."""

    def __init__(self, loop: Loop, *, containment: str) -> None:
        self._loop = loop
        self._containment = containment
        self._started: Instant = loop.now
        self._file_system = file_system(loop.parts.db.store_dir)

    # --- looking ------------------------------------------------------------------------

    def status(self, bad_requests: int) -> StatusIs:
        loop = self._loop
        parts, now = loop.parts, loop.now
        counts = parts.db.counts()
        sync_bad = parts.sync.bad_messages
        bad = parts.pool.bad_messages + sync_bad + bad_requests
        return StatusIs(
            StatusView(
                daemon=self._daemon(),
                counts={status.value: counts[status] for status in ExecutionStatus},
                running=counts[ExecutionStatus.STARTED],
                queued=len(loop.parts.agenda.queue),
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
                store=self._store(),
                stuck=sum(run.stuck for run in parts.pool.runs.values()) + len(parts.due.stuck),
                output_lost_bytes=loop.output_lost_bytes + parts.pool.output_lost_bytes,
                lost_swaps=loop.lost_swaps,
                bad_messages=bad,
            )
        )

    def _daemon(self) -> DaemonView:
        loop = self._loop
        uptime = loop.now.boot_seconds - self._started.boot_seconds
        return DaemonView(
            pid=os.getpid(),
            version=__version__,
            started_at=format_instant(self._started.wall_us),
            uptime_seconds=round(uptime, 3),
            shutting_down=loop.leaving is not None,
            degraded=loop.degraded,
        )

    def _store(self) -> StoreView:
        loop = self._loop
        db, backup = loop.parts.db, loop.parts.backup
        room = db.room()
        return StoreView(
            state=loop.store_state,
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
        """The first edge ahead: of the index, or the end of a queued action's window."""
        loop = self._loop
        ahead = (
            loop.parts.db.next_edge_after(loop.now.wall_us),
            loop.parts.agenda.queue.next_end_us(),
        )
        return format_optional(min((edge for edge in ahead if edge is not None), default=None))

    def actions(self, request: ListActions) -> ActionsAre | Refused:
        try:
            statuses = frozenset(ExecutionStatus(status) for status in request.statuses)
            records, cursor = self._page(request.cursor, statuses or frozenset(ExecutionStatus))
        except ValueError as error:
            return Refused(RefusalKind.BAD_REQUEST, str(error))
        return ActionsAre(tuple(self._view(record) for record in records), cursor)

    def _page(self, cursor: str, statuses: frozenset[ExecutionStatus]) -> tuple[list[Record], str]:
        """As many records as a frame holds: one with a thousand apps is a megabyte."""
        page: list[Record] = []
        size = 0
        for _ in range(LIST_PAGE_MAX):
            records, cursor = self._loop.parts.db.page(cursor, 1, statuses)
            page += records
            size += sum(len(name) for r in records for name in r.action.app_names)
            if not cursor or size > LIST_PAGE_CHARS_MAX:
                break
        return page, cursor

    def action(self, action_id: str) -> ActionIs | None:
        record = self._loop.parts.db.read(action_id)
        if record is None:
            return None
        rows = self._loop.parts.db.runs(action_id, RUNS_SHOWN_MAX)
        runs = tuple(run_view(row, self._loop.parts.pool.runs.get(row.run_id)) for row in rows)
        return ActionIs(self._view(record), runs)

    def _view(self, record: Record) -> ActionView:
        loop = self._loop
        row = self._newest_run(record)
        live = loop.parts.pool.runs.get(row.run_id) if row else None
        action_id = record.action.id
        held = isinstance(record.state, Null | Waiting) and not loop.parts.agenda.hold_over(
            action_id, loop.now
        )
        shown = phase(record, live, queued=action_id in loop.parts.agenda.queue, held=held)
        return action_view(record, shown, run_view(row, live) if row else None)

    def _newest_run(self, record: Record) -> RunRow | None:
        if record.attempt == 0:
            return None
        return self._loop.parts.db.run(record.action.id, record.attempt)

    def log(self, request: ReadLog) -> LogChunk | Refused:
        record = self._loop.parts.db.read(request.id)
        if record is None:
            return Refused(RefusalKind.NO_SUCH_ACTION, f"there is no action {request.id!r}")
        row = self._loop.parts.db.run(request.id, request.attempt or record.attempt)
        if row is None:
            which = f"run {request.attempt}" if request.attempt else "run"
            return Refused(RefusalKind.FAILED, f"action {request.id!r} has no {which}")
        path = output_path(self._log_dir, row.run_id)
        # First the state, then the bytes: whatever is written in between is read next time.
        ended = row.ended_us is not None
        try:
            chunk = read_output(path, request.offset, LOG_CHUNK_BYTES_MAX)
        except OSError as error:
            if not ended:
                return LogChunk(row.run_id, row.attempt, 0, b"", ended=False)
            return Refused(RefusalKind.FAILED, f"no output of run {row.attempt} is left: {error}")
        at_end = len(chunk.data) < LOG_CHUNK_BYTES_MAX
        return LogChunk(row.run_id, row.attempt, chunk.offset, chunk.data, ended and at_end)

    @property
    def _log_dir(self) -> Path:
        return self._loop.settings.daemon.log_dir

    def events(self, after: int) -> EventsAre:
        events = self._loop.parts.db.events(after)
        return EventsAre(tuple(event_view(sequence, change) for sequence, change in events))

    def reports(self, request: ListReports) -> ReportsAre:
        db, aside = self._loop.parts.db, request.set_aside
        rows, cursor = db.reports.page(
            set_aside=aside, after=request.cursor, limit=REPORTS_PAGE_MAX
        )
        views = [report_view(db.meta.generation, n, row, set_aside=aside) for n, row in rows]
        return ReportsAre(tuple(views), cursor)

    def differences(self, request: ListDifferences) -> DifferencesAre | Refused:
        made = self._loop.parts.sync.comparison
        if made is None or not made.done or made.number != request.number:
            detail = "cannot go on with the differences: what was compared is not held any more"
            return Refused(RefusalKind.CONFLICT, detail)
        views, cursor = made.page(request.cursor, self._loop.parts.db.read)
        return DifferencesAre(tuple(views), cursor)

    def progress(self) -> Progress | None:
        share = self._loop.parts.sync.share_applied()
        return None if share is None else Progress(*share)

    # --- acting -------------------------------------------------------------------------

    def stop_bound_seconds(self, action_id: str) -> float | Refused:
        record = self._loop.parts.db.read(action_id)
        if record is None:
            return Refused(RefusalKind.NO_SUCH_ACTION, f"there is no action {action_id!r}")
        match record.state:
            case Null():
                detail = f"action {action_id!r} has not started: there is nothing to stop"
                return Refused(RefusalKind.CONFLICT, detail)
            case Over(status):
                detail = f"action {action_id!r} is over already: {status.value}"
                return Refused(RefusalKind.CONFLICT, detail)
            case _:
                script = self._loop.settings.scripts.get(record.action.type)
                return (script.stop_grace_seconds if script else 0.0) + STOP_MARGIN_SECONDS

    def ask_stop(self, action_id: str) -> None:
        self._loop.ask_stop(action_id)

    def ask_sync(self) -> SyncAsked:
        return self._loop.parts.sync.ask()

    def sync_bound_seconds(self) -> float:
        return self._loop.settings.backend.timeout_seconds + STOP_MARGIN_SECONDS

    def ask_comparison(self) -> Comparison:
        return self._loop.parts.sync.ask_comparison()

    def ask_report(self) -> SyncAsked:
        return self._loop.parts.sync.ask_report()

    def flush_reports(self) -> int | Refused:
        try:
            return self._loop.parts.db.reports.put_back()
        except StoreError as error:
            return _not_written(error)

    def drop_reports(self, request: DropReports) -> Dropped | Refused:
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

    def acknowledge(self) -> Acknowledged | Refused:
        place = self._loop.parts.db.store_dir
        seen = incidents.read(place)
        try:
            incidents.acknowledge(place)
        except OSError as error:
            return Refused(RefusalKind.FAILED, f"cannot remove what is kept of them: {error}")
        return Acknowledged(tuple(map(incident_view, seen)))

    def ask_shutdown(self) -> float:
        return self._loop.shut_down()


def _not_written(error: StoreError) -> Refused:
    if error.fatal:
        raise error
    return Refused(RefusalKind.FAILED, str(error))
