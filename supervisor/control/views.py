"""Views of records, runs, events and reports (INTERFACE, "Commands"). Pure; decides nothing."""

from ...ipc.instants import format_instant, format_optional
from ...ipc.messages.views import ActionView, EventView, IncidentView, ReportView, RunView
from ...ipc.signals import signal_name
from ..core.model import Instant, Null, Over, Record, Running, RunRow, StatusChange, Waiting
from ..runs.live_run import LiveRun
from ..store.repair.incidents import Incident
from ..store.tables.outbox import Pending
from ..sync.report_sender import report_of


def phase(record: Record, live: LiveRun | None, *, queued: bool, held: bool) -> str:
    """Return the phase of an action, which says more than its status. `live` is its run while
    it lives; `held`: a back-off delays its start."""
    match record.state:
        case Over():
            return "done"
        case Waiting():
            return "waiting"
        case Null():
            return "waiting" if held else "queued" if queued else "scheduled"
        case Running(run):
            if live is not None and live.stuck:
                return "stuck"
            if run.stop is not None or (live is not None and live.ending is not None):
                return "stopping"
            if live is None:
                return "stuck"  # an earlier daemon's, which cannot be ended (S1)
            return "starting" if live.script_pid is None else "running"


def run_view(row: RunRow, now: Instant, live: LiveRun | None = None) -> RunView:
    """Return the view of a stored run, with the present state of one that lives."""
    beat_us = row.last_heartbeat_us if live is None else live.last_beat_us
    begun_us = row.begun_us if live is None else live.begun(now)
    return RunView(
        run_id=row.run_id,
        attempt=row.attempt,
        worker_pid=live.worker_pid if live else row.worker_pid,
        script_pid=live.script_pid if live else row.script_pid,
        started_at=format_instant(row.started_us),
        begun_at=format_optional(begun_us),
        ended_at=format_optional(row.ended_us),
        exit_code=row.exit_code,
        signal=None if row.signal is None else signal_name(row.signal),
        reason=row.reason.value if row.reason else None,
        detail=row.detail,
        last_heartbeat_at=format_optional(beat_us),
        status_text=live.status_text if live else row.status_text,
        rss_bytes=live.rss_bytes if live and not live.result else None,
        cpu_seconds=live.cpu_seconds if live and not live.result else None,
    )


def action_view(record: Record, shown_phase: str, run: RunView | None) -> ActionView:
    action = record.action
    return ActionView(
        id=action.id,
        from_date=format_instant(action.from_us),
        to_date=format_instant(action.to_us),
        should_be_executed=action.should_be_executed,
        wanted=record.wanted,
        app_names=action.app_names,
        type=action.type,
        execution_status=record.status.json,
        phase=shown_phase,
        reason=record.reason.value if record.reason else None,
        detail=record.detail,
        attempt=record.attempt,
        run=run,
    )


def incident_view(incident: Incident) -> IncidentView:
    return IncidentView(
        incident.at, incident.detail, incident.set_aside or None, incident.backup or None
    )


def event_view(sequence: int, change: StatusChange) -> EventView:
    return EventView(
        seq=sequence,
        at=format_instant(change.at_us),
        id=change.action_id,
        from_=change.old.json,
        to=change.new.json,
        reason=change.reason.value if change.reason else None,
        run_id=change.run_id,
    )


def report_view(generation: str, sequence: int, row: Pending, *, set_aside: bool) -> ReportView:
    """Return the view of a report as the backend gets it, with the number of refusals."""
    report = report_of(generation, sequence, row.change)
    return ReportView(
        key=report.key,
        id=report.action_id,
        execution_status=row.change.new.json,
        at=format_instant(report.at_us),
        attempt=report.attempt,
        run_id=report.run_id,
        exit_code=report.exit_code,
        signal=report.signal,
        reason=report.reason or None,
        refusals=row.refusals,
        set_aside=set_aside,
    )
