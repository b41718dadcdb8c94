"""Output of a run, a part at a time, read by a helper: the disk of `log_dir` may hang."""

from collections.abc import Iterator

from ...ipc.messages.control import LOG_CHUNK_BYTES_MAX, LogChunk, RefusalKind, Refused
from ...ipc.messages.helper import Failed, OutputRead, ReadOutput
from ..core.model import Reason, RunRow
from ..host.helpers import Helpers
from ..loop import Loop
from ..runs.run_order import output_path


def read_run_output(
    loop: Loop, helpers: Helpers, row: RunRow, offset: int
) -> Iterator[LogChunk | Refused | None]:
    """Have a part of a run's output read from `offset` on. Yield None until it is there."""
    path = output_path(loop.settings.daemon.log_dir, row.run_id)
    # Before the output is read: what is written in between is read next time.
    ended = row.ended_us is not None
    job = helpers.submit(ReadOutput(str(path), offset, LOG_CHUNK_BYTES_MAX), loop.now)
    while not job.done:
        yield None
    match job.answer:
        case OutputRead(start, data):
            at_end = len(data) < LOG_CHUNK_BYTES_MAX
            yield LogChunk(row.run_id, row.attempt, start, data, ended and at_end)
        case Failed(missing=True) if _has_none(loop, row):
            yield LogChunk(row.run_id, row.attempt, 0, b"", ended)
        case Failed(detail):
            detail = f"no output of run {row.attempt} is left: {detail}"
            yield Refused(RefusalKind.FAILED, detail)
        case _:
            detail = f"cannot read the output of run {row.attempt} in log_dir: {job.why_not}"
            yield Refused(RefusalKind.FAILED, detail)


def _has_none(loop: Loop, row: RunRow) -> bool:
    """Nothing has been written: it is still to come, or its script never began."""
    live = loop.parts.pool.runs.get(row.run_id)
    lost = live is not None and live.output_lost_bytes > 0
    return row.reason is Reason.CANNOT_START or (row.ended_us is None and not lost)
