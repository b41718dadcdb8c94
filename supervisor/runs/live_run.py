"""A live run, as the pool knows it. None of it is stored."""

from collections.abc import Iterable, Iterator

import msgspec
from msgspec.structs import replace

from ...ipc.instants import SECOND_US, restated_us
from ...ipc.messages.runs import EndCause, Run, RunResult, StopReason
from ...workers.host.liveness import look_seconds
from ..core.model import Instant, RunRow


class LiveRun(msgspec.Struct):
    """A run from its order until its end is acknowledged.

    `order` is None where no script is configured for the action's type. `begun_us` is the
    instant of its script's first instruction, at which the boot clock read
    `begun_boot_seconds`. `last_beat` is a reading of the judge's clock, in seconds.
    `stop_at_monotonic` is when its next stop or kill is due; from `stuck_at_monotonic` on it
    counts as stuck.
    """

    run_id: str
    action_id: str
    attempt: int
    order: Run | None = None
    heartbeat_timeout_seconds: float = 0.0
    worker: str | None = None
    worker_pid: int | None = None
    script_pid: int | None = None
    begun_us: int | None = None
    begun_boot_seconds: float = 0.0
    last_beat: float = 0.0
    last_beat_us: int | None = None
    rss_bytes: int | None = None  # of the script's own process, by its last heartbeat
    cpu_seconds: float | None = None
    status_text: str = ""
    output_lost_bytes: int = 0
    stop: StopReason | None = None
    stop_at_monotonic: float | None = None
    stuck_at_monotonic: float | None = None
    stuck: bool = False
    ending: EndCause | None = None  # its worker is lost or silent: the pool ends the tree
    detail: str = ""
    result: RunResult | None = None

    @property
    def stop_grace_seconds(self) -> float:
        return 0.0 if self.order is None else self.order.stop_grace_seconds

    @property
    def beat_timeout_seconds(self) -> float | None:
        """Time within which its next heartbeat has to come; None where it may end without one."""
        over = self.result is not None or self.ending is not None
        return None if over else self.heartbeat_timeout_seconds

    @property
    def waits(self) -> bool:
        """It has yet to be given to a worker."""
        return self.worker is None and self.result is None and self.stop is None

    def begun(self, now: Instant) -> int | None:
        """Return the instant at which its script began, restated where the clock was set back."""
        if self.begun_us is None:
            return None
        return restated_us(
            self.begun_us,
            self.begun_boot_seconds,
            now_us=now.read_us,
            now_boot_seconds=now.boot_seconds - now.ahead_us / SECOND_US,
        )

    def end(self, cause: EndCause, detail: str, now: Instant) -> None:
        """End it without a result from its worker."""
        self.result = RunResult(
            self.run_id,
            cause,
            now.wall_us,
            stop_reason=self.stop if cause is EndCause.STOPPED else None,
            detail=detail,
            script_pid=self.script_pid,
            status_text=self.status_text,
            begun_us=self.begun(now),
        )

    def completed(self, row: RunRow) -> RunRow:
        """Return the row of its end, completed with values that only the live run has."""
        return replace(
            row,
            worker_pid=self.worker_pid,
            script_pid=row.script_pid or self.script_pid,
            status_text=row.status_text or self.status_text,
            last_heartbeat_us=self.last_beat_us,
        )

    def deadlines(self, look_at: float) -> Iterator[float]:
        """Yield the monotonic instants at which to look at it again; `look_at` is the one at which
        to judge its silence."""
        if self.result is not None:
            return
        if self.stop_at_monotonic is not None:
            yield self.stop_at_monotonic
        if self.worker is not None:
            yield look_at  # law 16


def looks_of(runs: Iterable[LiveRun]) -> float:
    """Return the time between two looks for silence among the runs, in seconds."""
    return look_seconds(run.heartbeat_timeout_seconds for run in runs if run.result is None)
