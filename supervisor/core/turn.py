"""One turn of the loop as a value: its decisions, until they are committed.

Later decisions of a turn see what earlier ones made of a record, so events that arrive
together are decided in order and committed in one transaction (law 4).
"""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from ...ipc.actions import ExecutionStatus
from ...ipc.messages.runs import StopReason
from .lifecycle import Rules, decide
from .model import Change, Event, Instant, Record, Running, StartRun


class Turn(msgspec.Struct):
    """The decisions of one turn.

    `read` looks up a record in daemonDB; `begun` tells when the script of a run began, None
    where it has not or its worker did not say so. `started` is the number of STARTED actions,
    and `workers` that of workers that are ready and promised to no run, both after the changes
    so far. `absences` is by the row of an action that is over: true where the newest
    snapshot lacks it, false where it has the action again.
    """

    now: Instant
    rules: Rules
    read: Callable[[str], Record | None]
    started: int
    workers: int = 0
    begun: Callable[[str], int | None] = lambda _run_id: None
    changes: list[Change] = msgspec.field(default_factory=list)
    absences: dict[bytes, bool] = msgspec.field(default_factory=dict)
    _newest: dict[str, Record] = msgspec.field(default_factory=dict)

    def record(self, action_id: str) -> Record | None:
        decided = self._newest.get(action_id)
        stored = self.read(action_id) if decided is None else None
        return decided if stored is None else self._with_begin(stored)

    def decided(self, action_id: str) -> Record | None:
        """Return the record as this turn has changed it, if it has."""
        return self._newest.get(action_id)

    def newest(self, stored: Record) -> Record:
        """Return the record as this turn has changed it; else the one that is stored."""
        return self._newest.get(stored.action.id) or self._with_begin(stored)

    def _with_begin(self, record: Record) -> Record:
        """Add the begin of its run, where it has one that nobody stops for good yet."""
        if not isinstance(record.state, Running):
            return record
        run = record.state.run
        begun_us = self.begun(run.run_id)
        if begun_us is None or run.stop not in (None, StopReason.CHANGED):
            return record
        return replace(record, state=Running(replace(run, begun_us=begun_us)))

    def happened(self, action_id: str, event: Event) -> Change | None:
        """Decide about an event; None where the action is not known, or nothing changes."""
        record = self.record(action_id)
        return None if record is None else self.take(decide(record, event, self.now, self.rules))

    def take(self, change: Change | None) -> Change | None:
        """Add a decided change to the turn."""
        if change is None:
            return None
        self.changes.append(change)
        self._newest[change.after.action.id] = change.after
        was = change.before is not None and change.before.status is ExecutionStatus.STARTED
        self.started += (change.after.status is ExecutionStatus.STARTED) - was
        if any(isinstance(effect, StartRun) for effect in change.effects):
            self.workers -= self.rules.has_script(change.after.action)
        return change

    @property
    def touched(self) -> list[Record]:
        """The records that this turn changes, as they are after it."""
        return list(self._newest.values())
