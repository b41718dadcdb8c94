"""Due events of a turn, passed to the core in their order. Decides about no status.

They are runs that ended, runs that an earlier daemon left, edges that passed, holds that are
over, and actions that may start. The rules are in `core/lifecycle.py`.
"""

from collections.abc import Iterable, Mapping

from ...ipc.messages.runs import RunResult
from ..core.model import (
    DaemonStarted,
    Due,
    Instant,
    Null,
    Record,
    RunEnded,
    Running,
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
                self._cleanup.forget_tree(run_id)

    def is_due(self, turn: Turn, max_running: int) -> bool:
        """Time has changed an action, or one can begin, or waits for a slot."""
        agenda, slots = self._agenda, slots_free(max_running, turn.started)
        queue, cursor = agenda.queue, agenda.cursor
        waits_for_slot = queue.without_slot and not slots
        if waits_for_slot or (turn.workers and queue.lack_workers(slots)) or self.more_edges:
            return True
        stored_us = self._db.next_edge_after(cursor[0] if cursor else 0)
        due = agenda.next_deadline(stored_us, turn.now)
        return due is not None and due <= turn.now.monotonic_seconds

    def stuck_runs(self, turn: Turn) -> None:
        """Settle actions whose runs could not be ended, once those are gone (S1)."""
        now = turn.now.monotonic_seconds
        if not self.stuck or now < self._check_at_monotonic:
            return
        self._check_at_monotonic = now + STUCK_CHECK_SECONDS
        for run_id, record in list(self.stuck.items()):
            if self._cleanup.end_tree(run_id, None, None).gone:
                self._cleanup.tree_is_gone(run_id)
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
            turn.happened(action_id, Due(hold_over=False))
        for action_id in agenda.take_released(now):
            released = turn.record(action_id)
            if released is not None:
                agenda.release(released, now)
        self._admit(turn, max_running)

    def _admit(self, turn: Turn, max_running: int) -> None:
        """Let actions begin their next attempt while there are slots and workers (S14)."""
        passed_over: list[str] = []
        while True:
            slots = slots_free(max_running, turn.started) if turn.now.trusted else 0
            action_id = self._agenda.queue.take(slots=slots, workers=turn.workers)
            if action_id is None:
                break
            due = Due(slot_free=slots > 0, worker_free=turn.workers > 0)
            if turn.happened(action_id, due) is None:
                passed_over.append(action_id)
        for record in filter(None, map(turn.record, passed_over)):
            self._agenda.release(record, turn.now)  # its window may be as good as over

    def _look_at_edges(self, turn: Turn) -> None:
        edges = self._db.due(self._agenda.cursor, turn.now.wall_us, EDGES_PER_TURN_MAX)
        if not edges:
            return
        self.more_edges = len(edges) == EDGES_PER_TURN_MAX
        records = self._db.read_keys([key for _, key in edges])
        for edge, stored in zip(edges, records, strict=True):
            self._agenda.cursor = edge
            if stored is None:
                continue  # damaged: the store counts and logs it
            record = turn.newest(stored)
            if isinstance(record.state, Null):
                self._agenda.note(record, turn.now)
            else:
                turn.happened(record.action.id, Due(hold_over=False))


def runs_ended(
    turn: Turn, ended: Iterable[RunResult], runs: Mapping[str, LiveRun], *, leaving: bool
) -> None:
    """Decide about runs that ended (S12 to S16). `runs` are those not acknowledged yet, by id."""
    for result in ended:
        live = runs.get(result.run_id)
        if live is not None:  # else it was settled before, and acknowledged again by the pool
            turn.happened(live.action_id, RunEnded(result, daemon_leaving=leaving))


def _has_run(record: Record, run_id: str) -> bool:
    return isinstance(record.state, Running) and record.state.run.run_id == run_id
