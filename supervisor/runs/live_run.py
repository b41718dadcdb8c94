"""A live run, as the pool knows it. None of it is stored."""

import logging
from collections.abc import Iterable, Iterator

import msgspec
from msgspec.structs import replace

from ...ipc.instants import SECOND_US, restated_us
from ...ipc.messages.runs import EndCause, Run, RunResult, StopReason
from ...workers.host.liveness import look_seconds
from ..core.model import Instant, RunRow
from .lost_trees import STUCK_AFTER_SECONDS

log = logging.getLogger(__name__)


class LiveRun(msgspec.Struct):
    """A run from its order until its end is acknowledged.

    `order` is None where no script is configured for the action's type. `begun_us` is the
    instant of its script's first instruction, at which the boot clock read
    `begun_boot_seconds`. `last_beat` is a reading of the judge's clock, in seconds.
    `stop_at_monotonic` is when its stop is due, for the first time or again; from
    `stuck_at_monotonic` on it counts as stuck. `ending` is there from `lose` on, with the
    instant at which that was seen.
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
    lost_us: int = 0
    lost_boot_seconds: float = 0.0
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
        return (
            None
            if self.begun_us is None
            else _restated(self.begun_us, self.begun_boot_seconds, now)
        )

    def lose(self, cause: EndCause, detail: str, now: Instant) -> None:
        """Take its worker for lost or silent: this instant is that of its end (S12, S13), however
        long it takes until nothing is left of it."""
        self.ending, self.detail = cause, detail
        self.lost_us, self.lost_boot_seconds = now.wall_us, now.boot_seconds
        self.stop_at_monotonic = self.stuck_at_monotonic = None

    def end_lost(self, now: Instant) -> None:
        """End it once nothing is left of it."""
        assert self.ending is not None
        self.end(
            self.ending, self.detail, now, _restated(self.lost_us, self.lost_boot_seconds, now)
        )

    def end(self, cause: EndCause, detail: str, now: Instant, ended_us: int | None = None) -> None:
        """End it without a result from its worker: now, where no other instant is given."""
        self.result = RunResult(
            self.run_id,
            cause,
            now.wall_us if ended_us is None else ended_us,
            stop_reason=self.stop if cause is EndCause.STOPPED else None,
            detail=detail,
            script_pid=self.script_pid,
            status_text=self.status_text,
            begun_us=self.begun(now),
        )

    def notice_stuck(self, now: Instant) -> None:
        """Report it once as stuck, where its time is over."""
        due_monotonic = self.stuck_at_monotonic
        if self.stuck or due_monotonic is None or now.monotonic_seconds < due_monotonic:
            return
        self.stuck = True
        log.error(
            "Run %s of action %s is stuck: it is not gone %g s after its grace",
            self.run_id,
            self.action_id,
            STUCK_AFTER_SECONDS,
            extra={"event": "run-stuck", "id": self.action_id, "runId": self.run_id},
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


def _restated(at_us: int, at_boot_seconds: float, now: Instant) -> int:
    """Restate an instant where the clock was set back since."""
    return restated_us(
        at_us,
        at_boot_seconds,
        now_us=now.read_us,
        now_boot_seconds=now.boot_seconds - now.ahead_us / SECOND_US,
    )


def looks_of(runs: Iterable[LiveRun]) -> float:
    """Return the time between two looks for silence among the runs, in seconds."""
    return look_seconds(run.heartbeat_timeout_seconds for run in runs if run.result is None)
