"""A run while it lives: what the pool knows of it, none of which is stored."""

from collections.abc import Iterable, Iterator

import msgspec
from msgspec.structs import replace

from ...ipc.messages.runs import EndCause, Run, RunResult, StopReason
from ..core.model import RunRow
from .liveness import look_seconds

#: A run that no worker could be had for so long cannot be started.
WORKER_WAIT_SECONDS_MAX = 60.0


class LiveRun(msgspec.Struct):
    """`last_beat` is a reading of the judge's clock; other instants without a unit in their
    name are monotonic seconds."""

    order: Run
    action_id: str
    attempt: int
    heartbeat_timeout_seconds: float
    asked_at: float
    worker: str | None = None
    worker_pid: int | None = None
    script_pid: int | None = None
    started_us: int | None = None
    last_beat: float = 0.0
    last_beat_us: int | None = None
    status_text: str = ""
    output_lost_bytes: int = 0
    stop: StopReason | None = None
    stop_at: float | None = None  # monotonic: when the next stop or kill is due
    stuck_at: float | None = None
    stuck: bool = False
    ending: EndCause | None = None  # its worker is of no use any more: we end the tree
    detail: str = ""
    result: RunResult | None = None

    @property
    def waits(self) -> bool:
        """Whether it is still to be given to a worker."""
        return self.worker is None and self.result is None

    def end(self, cause: EndCause, detail: str, ended_us: int) -> None:
        """It ended without a word from its worker."""
        self.result = RunResult(
            self.order.run_id,
            cause,
            ended_us,
            stop_reason=self.stop if cause is EndCause.STOPPED else None,
            detail=detail,
            script_pid=self.script_pid,
            status_text=self.status_text,
        )

    def completed(self, row: RunRow) -> RunRow:
        """The row of its end, with what only a living run knows."""
        return replace(
            row,
            worker_pid=self.worker_pid,
            script_pid=row.script_pid or self.script_pid,
            status_text=row.status_text or self.status_text,
            last_heartbeat_us=self.last_beat_us,
        )

    def deadlines(self, look_at: float) -> Iterator[float]:
        """The monotonic instants at which it has to be looked at again; `look_at` for silence."""
        if self.result is not None:
            return
        if self.stop_at is not None:
            yield self.stop_at
        if self.worker is None:
            yield self.asked_at + WORKER_WAIT_SECONDS_MAX
        else:
            yield look_at  # law 16


def looks_of(runs: Iterable[LiveRun]) -> float:
    """How often to look whether one of them is silent."""
    return look_seconds(run.heartbeat_timeout_seconds for run in runs if run.result is None)
