"""Records, states, events, effects and changes: the values that decisions are made over.

`lifecycle.py` maps a record and an event to a change; `daemondb.py` stores what changes;
`loop.py` performs the effects. What is persisted and what is a live handle are different
types: nothing here is a process, a socket or a deadline. Wall-clock instants are
microseconds since 1970 UTC (`_us`), durations are seconds. No value can contain itself, so
the cyclic garbage collector need not track them (`gc=False`): a large snapshot makes many.
"""

import enum
from typing import ClassVar, TypeAlias

import msgspec

from ...ipc.actions import Action, ExecutionStatus
from ...ipc.instants import SECOND_US, InstantUs
from ...ipc.messages.base import CInt, Count, Pid
from ...ipc.messages.runs import RunResult, StopReason


class Reason(enum.StrEnum):
    """The reason for a status: one word that a person can look up in docs/commands.md."""

    COMPLETED = "completed"  # exit 0 before toDate
    WINDOW_OVER = "window-over"  # it ran until toDate
    EXIT_CODE = "exit-code"  # the script failed
    SIGNAL = "signal"  # a signal that we did not send
    WATCHDOG = "watchdog"
    WORKER_LOST = "worker-lost"
    WORKER_SILENT = "worker-silent"
    CANNOT_START = "cannot-start"
    NO_SCRIPT = "no-script"
    WITHDRAWN = "withdrawn"
    OPERATOR = "operator"
    WINDOW_MISSED = "window-missed"  # toDate passed before it could start
    INTERRUPTED = "interrupted"  # the daemon was down until its window was over
    DAEMON_RESTART = "daemon-restart"  # NULL again, to start again
    DUE = "due"  # STARTED because its window is open
    CHANGED = "changed"  # a run that was replaced by one with newer configuration


# --- states -----------------------------------------------------------------------------


class Hold(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A back-off before the next attempt: it starts `delay_seconds` after `since_us` at the
    earliest."""

    since_us: InstantUs
    delay_seconds: float


class OpenRun(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A run whose start is decided, and whose end is not committed yet.

    `stop` is the reason for which it is being stopped; once set, only `CHANGED` is replaced.
    `begun_us` is the instant of its script's first instruction, as far as its worker had told
    it when the stop was recorded; `until_us` is the end of its window by then, where that was
    the reason.
    `app_names`, `type` and `args` of the action it was started with are not kept: a change
    is noticed when it arrives, and is then recorded as `stop`.
    """

    run_id: str
    started_us: InstantUs
    stop: StopReason | None = None
    begun_us: InstantUs | None = None
    until_us: InstantUs | None = None


class Null(msgspec.Struct, frozen=True, array_like=True, tag="null", gc=False):
    """Not started: not yet, or again after a restart of the daemon. `hold` delays a start after
    crashes (S12a)."""

    status: ClassVar = ExecutionStatus.NULL
    hold: Hold | None = None


class Running(msgspec.Struct, frozen=True, array_like=True, tag="running", gc=False):
    """STARTED with a run; it may be starting, running, stopping or stuck."""

    status: ClassVar = ExecutionStatus.STARTED
    run: OpenRun


class Waiting(msgspec.Struct, frozen=True, array_like=True, tag="waiting", gc=False):
    """STARTED between two attempts. `last_ok`: the last attempt exited with 0, or was replaced.
    `last_begun`: its script had begun."""

    status: ClassVar = ExecutionStatus.STARTED
    hold: Hold
    last_ok: bool
    last_begun: bool = True


class Over(msgspec.Struct, frozen=True, array_like=True, tag="over", gc=False):
    """Over: `status` is terminal, and never changes again."""

    status: ExecutionStatus


State: TypeAlias = Null | Running | Waiting | Over


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An action as daemonDB keeps it.

    `revision` counts the writes of this record: what a compare-and-swap compares.
    `attempt` is the number of runs so far, `failures` those in a row that count for the
    back-off. `reason` is None only while the status has never changed.
    """

    action: Action
    wanted: bool
    state: State
    revision: Count = 1
    attempt: Count = 0
    failures: Count = 0
    reason: Reason | None = None
    detail: str = ""
    changed_us: InstantUs = 0

    @property
    def status(self) -> ExecutionStatus:
        return self.state.status

    @property
    def edge_us(self) -> int | None:
        """The instant at which time alone changes this record: its key in the index `due`."""
        match self.state:
            case Null():
                return self.action.from_us
            case Running() | Waiting():
                return self.action.to_us
            case Over():
                return None


class RunRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One run in the history of its action. `begun_us`, of its script's first instruction, and
    `last_heartbeat_us` are filled in at its end."""

    run_id: str
    attempt: Count
    started_us: InstantUs
    ended_us: InstantUs | None = None
    worker_pid: Pid | None = None
    script_pid: Pid | None = None
    exit_code: CInt | None = None
    signal: CInt | None = None
    reason: Reason | None = None
    detail: str = ""
    status_text: str = ""
    last_heartbeat_us: InstantUs | None = None
    begun_us: InstantUs | None = None


class StatusChange(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One change of status: an event, and the content of a report."""

    at_us: InstantUs
    action_id: str
    old: ExecutionStatus
    new: ExecutionStatus
    reason: Reason | None
    attempt: Count
    run_id: str | None = None
    exit_code: CInt | None = None
    signal: CInt | None = None


# --- events -----------------------------------------------------------------------------


class Sent(msgspec.Struct, frozen=True, gc=False):
    """The newest snapshot has the action."""

    action: Action


class Absent(msgspec.Struct, frozen=True, gc=False):
    """The newest snapshot lacks the action."""


class Due(msgspec.Struct, frozen=True, gc=False):
    """An edge passed, a hold may be over, or a slot or a worker is free: one of `max_running`,
    and one that is ready and promised to no other run."""

    slot_free: bool = False
    worker_free: bool = False
    hold_over: bool = True


class StopAsked(msgspec.Struct, frozen=True, gc=False):
    """An operator asked for the action to be stopped."""


class RunEnded(msgspec.Struct, frozen=True, gc=False):
    """A run and its whole tree are gone. `daemon_leaving`: this was noticed during shutdown."""

    result: RunResult
    daemon_leaving: bool = False


class DaemonStarted(msgspec.Struct, frozen=True, gc=False):
    """The daemon started, and no earlier run of the action lives any more (S1). `kept` is the
    result that its worker left on disk."""

    kept: RunResult | None


Event: TypeAlias = Sent | Absent | Due | StopAsked | RunEnded | DaemonStarted


# --- decisions --------------------------------------------------------------------------


class StartRun(msgspec.Struct, frozen=True, gc=False):
    run_id: str


class StopRun(msgspec.Struct, frozen=True, gc=False):
    run_id: str
    reason: StopReason


Effect: TypeAlias = StartRun | StopRun


class Change(msgspec.Struct, frozen=True, gc=False):
    """One record and its successor, with the effects to carry out once that is on disk.

    `before` is None for an action not known until now. `run` is the row of the run that
    this change begins or ends.
    """

    before: Record | None
    after: Record
    run: RunRow | None = None
    effects: tuple[Effect, ...] = ()

    @property
    def changes_status(self) -> bool:
        old = ExecutionStatus.NULL if self.before is None else self.before.status
        return old is not self.after.status

    def status_change(self) -> StatusChange | None:
        """Return the change of status; None where the status stays."""
        if not self.changes_status:
            return None
        run = self.run
        return StatusChange(
            self.after.changed_us,
            self.after.action.id,
            ExecutionStatus.NULL if self.before is None else self.before.status,
            self.after.status,
            self.after.reason,
            self.after.attempt,
            run.run_id if run else None,
            run.exit_code if run else None,
            run.signal if run else None,
        )


class Instant(msgspec.Struct, frozen=True, gc=False):
    """The clocks, read once a turn.

    `wall_us` decides about windows, and only while `trusted` (S19); in a turn that decides a
    moment ahead (S9) the clock reads `ahead_us` less. A wall clock that is not
    `believed` counts as trusted all the same after `clock_wait`. `monotonic_seconds` measures
    durations and stops while the host sleeps; `boot_seconds` does not stop.
    """

    wall_us: int
    monotonic_seconds: float = 0.0
    boot_seconds: float = 0.0
    trusted: bool = True
    believed: bool = True
    ahead_us: int = 0

    @property
    def read_us(self) -> int:
        """The reading of the wall clock, which `wall_us` may be a moment ahead of."""
        return self.wall_us - self.ahead_us

    def at(self, wall_us: int) -> "Instant":
        """Return the readings of all clocks when the wall clock reads `wall_us`."""
        by = (wall_us - self.wall_us) / SECOND_US
        return msgspec.structs.replace(
            self,
            wall_us=wall_us,
            monotonic_seconds=self.monotonic_seconds + by,
            boot_seconds=self.boot_seconds + by,
            ahead_us=wall_us - self.read_us,
        )
