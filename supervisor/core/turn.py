"""One turn of the loop as a value: its decisions, until they are committed.

Later decisions of a turn see what earlier ones made of a record, so events that arrive
together are decided in order and committed in one transaction (law 4).
"""

from collections.abc import Callable

import msgspec

from ...ipc.actions import ExecutionStatus
from .lifecycle import Rules, decide
from .model import Change, Event, Instant, Record


class Turn(msgspec.Struct):
    """The decisions of one turn.

    `read` looks up a record in daemonDB; `started` is the number of STARTED actions, after the
    changes so far. `absences` is by the row of an action that is over: true where the newest
    snapshot lacks it, false where it has the action again.
    """

    now: Instant
    rules: Rules
    read: Callable[[str], Record | None]
    started: int
    changes: list[Change] = msgspec.field(default_factory=list)
    absences: dict[bytes, bool] = msgspec.field(default_factory=dict)
    _newest: dict[str, Record] = msgspec.field(default_factory=dict)

    def record(self, action_id: str) -> Record | None:
        return self._newest.get(action_id) or self.read(action_id)

    def decided(self, action_id: str) -> Record | None:
        """Return the record as this turn has changed it, if it has."""
        return self._newest.get(action_id)

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
        return change

    @property
    def touched(self) -> list[Record]:
        """The records that this turn changes, as they are after it."""
        return list(self._newest.values())
