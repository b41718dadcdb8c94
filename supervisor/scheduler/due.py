"""Due events of a turn, passed to the core in their order. Decides about no status.

They are runs that ended, runs that an earlier daemon left, edges that passed, holds that are
over, and actions that may start. The rules are in `core/lifecycle.py`.
"""

from collections.abc import Iterable, Mapping

from ...ipc.messages.runs import RunResult
from ..core.model import (
    Change,
    DaemonStarted,
    Due,
    Instant,
    Null,
    Record,
    RunEnded,
    Running,
    Waiting,
)
from ..core.turn import Turn
from ..participant import Participant
from ..runs.cleanup import RunCleanup
from ..runs.live_run import LiveRun
from ..store.daemondb import DaemonDB
from .agenda import Agenda
from .queue import slots_free

#: The revision of a record that was never changed.
FIRST_REVISION = 1
#: Edges looked at in one turn; the rest wait for the next turn.
EDGES_PER_TURN_MAX = 500
STUCK_CHECK_SECONDS = 1.0


class DueEvents(Participant):
    """The due events of each turn. `stuck` has, by run id, the records of an earlier daemon's runs
    that could not be ended yet."""

    def __init__(self, db: DaemonDB, agenda: Agenda, cleanup: RunCleanup) -> None:
        self.stuck: dict[str, Record] = {}
        self.more_edges = True  # the first turn looks at once
        self._agenda = agenda
        self._db = db
        self._cleanup = cleanup
        self._check_at_monotonic = 0.0

    def next_deadline(self, now: Instant) -> float | None:
        """Return the instant at which to look at the edges left over, or at stuck runs again."""
        if self.more_edges:
            return now.monotonic_seconds
        return self._check_at_monotonic if self.stuck else None

    def after_turn(self, _now: Instant) -> None:
        """Forget stuck runs whose action has no such open run any more."""
        for run_id, record in list(self.stuck.items()):
            newest = self._db.read(record.action.id)
            if newest is None or not _has_run(newest, run_id):
                del self.stuck[run_id]

    def stuck_runs(self, turn: Turn) -> None:
        """Settle actions whose runs could not be ended, once those are gone (S1)."""
        now = turn.now.monotonic_seconds
        if not self.stuck or now < self._check_at_monotonic:
            return
        self._check_at_monotonic = now + STUCK_CHECK_SECONDS
        for run_id, record in list(self.stuck.items()):
            if self._cleanup.end_tree(run_id, None, None):
                kept = self._cleanup.kept_result(run_id)
                turn.happened(record.action.id, DaemonStarted(kept))

    def edges(self, turn: Turn, max_running: int) -> None:
        """Decide what is due by the clock (S9 to S14), ends first: they free slots for starts."""
        now, agenda = turn.now, self._agenda
        self.more_edges = False
        if not agenda.may_look(now):
            return
        if now.trusted:
            self._look_at_edges(turn)
        for record in turn.touched:
            if record.revision > FIRST_REVISION or record.action.from_us <= now.wall_us:
                agenda.note(record, now)  # else it is new and its window ahead: nothing waits yet
        for action_id in agenda.take_ended(now):
            turn.happened(action_id, Due(slot_free=False, hold_over=False))
        for action_id in agenda.take_released(now):
            self._released(turn, action_id)
        free = slots_free(max_running, turn.started)
        for action_id in agenda.queue.take(free) if now.trusted else ():
            turn.happened(action_id, Due(slot_free=True))

    def _look_at_edges(self, turn: Turn) -> None:
        edges = self._db.due(self._agenda.cursor, turn.now.wall_us, EDGES_PER_TURN_MAX)
        self.more_edges = len(edges) == EDGES_PER_TURN_MAX
        records = self._db.read_keys([key for _, key in edges])
        for edge, stored in zip(edges, records, strict=True):
            self._agenda.cursor = edge
            if stored is None:
                continue  # damaged: the store counts and logs it
            record = turn.record(stored.action.id) or stored
            if isinstance(record.state, Null):
                self._agenda.note(record, turn.now)
            else:
                over = self._agenda.hold_over(record.action.id, turn.now)
                turn.happened(record.action.id, Due(slot_free=False, hold_over=over))

    def _released(self, turn: Turn, action_id: str) -> None:
        record = turn.record(action_id)
        if record is None:
            return
        if isinstance(record.state, Null):
            self._agenda.release(record, turn.now)
        else:
            turn.happened(action_id, Due(slot_free=False))


def runs_ended(
    turn: Turn, ended: Iterable[RunResult], runs: Mapping[str, LiveRun], *, leaving: bool
) -> None:
    """Decide about runs that ended (S12 to S16). `runs` are those not acknowledged yet, by id."""
    for result in ended:
        live = runs.get(result.run_id)
        if live is None:
            continue  # settled before, and acknowledged again by the pool
        change = turn.happened(live.action_id, RunEnded(result, daemon_leaving=leaving))
        if change is not None and not leaving:
            # S15: the next attempt is due at once, in the same transaction.
            turn.happened(live.action_id, Due(slot_free=False, hold_over=_at_once(change)))


def _at_once(change: Change) -> bool:
    """The next attempt is due at once: the action was changed during its run."""
    state = change.after.state
    return isinstance(state, Waiting) and state.hold.delay_seconds == 0


def _has_run(record: Record, run_id: str) -> bool:
    return isinstance(record.state, Running) and record.state.run.run_id == run_id
