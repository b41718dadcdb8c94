"""Facts of a run's end, drawn from its record and its result. Pure.

`lifecycle.py` has the rules that decide by them.
"""

from typing import assert_never

from msgspec.structs import replace

from ...ipc.messages.runs import EndCause, RunResult
from .model import Instant, OpenRun, Reason, Record, Running, RunRow


def reason_of(result: RunResult) -> tuple[Reason, str]:
    """Return the reason for which a run ended of itself, and the detail for a person."""
    match result.cause:
        case EndCause.EXITED | EndCause.STOPPED if result.signal is not None:
            return Reason.SIGNAL, result.detail or f"ended by signal {result.signal}"
        case EndCause.EXITED | EndCause.STOPPED if result.exit_code == 0:
            return Reason.COMPLETED, result.detail
        case EndCause.EXITED | EndCause.STOPPED:
            return Reason.EXIT_CODE, result.detail or f"exit code {result.exit_code}"
        case EndCause.WATCHDOG:
            return Reason.WATCHDOG, result.detail
        case EndCause.CANNOT_START:
            return Reason.CANNOT_START, result.detail
        case EndCause.NO_SCRIPT:
            return Reason.NO_SCRIPT, result.detail
        case EndCause.WORKER_LOST:
            return Reason.WORKER_LOST, result.detail
        case EndCause.WORKER_SILENT:
            return Reason.WORKER_SILENT, result.detail
    assert_never(result.cause)


def ended_before(record: Record, result: RunResult | None) -> bool:
    """The run ended of itself before its window was over."""
    if result is None or result.cause is EndCause.STOPPED:
        return False
    return result.ended_us < record.action.to_us


def window_came_first(record: Record, result: RunResult) -> bool:
    """Its window was over by the time at which this end, of itself or of its worker, was seen."""
    decides = result.cause not in (EndCause.NO_SCRIPT, EndCause.WATCHDOG)
    return decides and result.ended_us >= record.action.to_us


def exit_was_observed(result: RunResult) -> bool:
    """The end of the script was observed, and no signal caused it."""
    lost = result.cause in (EndCause.WORKER_LOST, EndCause.WORKER_SILENT)
    return result.signal is None and not lost


def began_in_time(record: Record, result: RunResult | None) -> bool:
    """Its script executed its first instruction before its window was over, as its worker told
    before the stop was recorded or with the result (S13). What nobody can say, has not."""
    assert isinstance(record.state, Running)
    run = record.state.run
    begun_us = begin_of(run, result)
    until_us = record.action.to_us if run.until_us is None else run.until_us
    return begun_us is not None and begun_us < until_us


def begin_of(run: OpenRun, result: RunResult | None) -> int | None:
    """Return the instant at which its script began, as far as anybody told."""
    if run.begun_us is None and result is not None:
        return result.begun_us
    return run.begun_us


def ended_row(record: Record, result: RunResult | None, reason: Reason, now: Instant) -> RunRow:
    """Return the history's row of the open run, as far as anything is known of its end."""
    assert isinstance(record.state, Running)
    run = record.state.run
    row = RunRow(run.run_id, record.attempt, run.started_us, now.wall_us, reason=reason)
    row = replace(row, begun_us=begin_of(run, result))
    if result is None:
        return row
    return replace(
        row,
        ended_us=result.ended_us,
        script_pid=result.script_pid,
        exit_code=result.exit_code,
        signal=result.signal,
        detail=result.detail,
        status_text=result.status_text,
    )
