"""A snapshot applied in slices: additions first, absences last, its mark with the end.

Nothing large ever holds the loop (DESIGN 3): each slice is one turn's share. A crash in
between merely pulls again, because the mark is written with the last slice.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from .core.model import Record
from .core.reconcile import Verdict, reconcile_absent, reconcile_sent
from .records import action_key, edge_of
from .synchronisation import Snapshot
from .turn import Turn

#: Entries of a slice: some milliseconds of work.
ENTRIES_PER_TURN_MAX = 200
QUARANTINE_SHOWN_MAX = 10


@dataclass(slots=True)
class Applying:
    """A snapshot on its way into daemonDB. `counts` is what it has done so far.

    `open_ids(cursor)` pages through all records that are not terminal, `ended(cursor)`
    through the rows of those that are, with whether the last snapshot lacked them. `seen`
    are keys of actions.
    """

    snapshot: Snapshot
    open_ids: Callable[[str], tuple[list[Record], str]]
    ended: Callable[[bytes], tuple[list[tuple[bytes, bool]], bytes]]
    counts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    seen: set[bytes] = field(default_factory=set)
    cursor: str = ""
    ended_cursor: bytes = b""
    sent_done: bool = False
    absent_done: bool = False
    done: bool = False

    def slice(self, turn: Turn) -> None:
        """Decide the next share; `done` once there is nothing left but to commit it."""
        if not self.sent_done:
            self._take_sent(turn)
        elif self.snapshot.told.unreadable_ids:
            self.done = True  # S8: it could be any id, so nothing is absent for sure
        elif not self.absent_done:
            self._take_absent(turn)
        else:
            self._take_ended(turn)

    def _take_sent(self, turn: Turn) -> None:
        taken = 0
        while self.snapshot.pages and taken < ENTRIES_PER_TURN_MAX:
            page = self.snapshot.pages.popleft()
            taken += len(page)
            for action in page:
                self.seen.add(action_key(action.id))
                record = turn.record(action.id)
                verdict, change = reconcile_sent(record, action, turn.now, turn.rules)
                self.counts[verdict] += 1
                turn.take(change)
        if not self.snapshot.pages:
            self.seen.update(map(action_key, self.snapshot.told.set_aside_ids))
            self.sent_done = True

    def _take_absent(self, turn: Turn) -> None:
        records, self.cursor = self.open_ids(self.cursor)
        for stored in records:
            if action_key(stored.action.id) in self.seen:
                continue
            record = turn.record(stored.action.id) or stored
            verdict, change = reconcile_absent(record, turn.now, turn.rules)
            self.counts[verdict] += 1
            turn.take(change)
        self.absent_done = not self.cursor

    def _take_ended(self, turn: Turn) -> None:
        """S6: their status stays. What the backend sends no more may be forgotten one day."""
        rows, self.ended_cursor = self.ended(self.ended_cursor)
        for row, was_absent in rows:
            absent = edge_of(row)[1] not in self.seen
            if absent is not was_absent:
                turn.absences[row] = absent
        self.done = not self.ended_cursor

    @property
    def quarantine(self) -> tuple[str, ...]:
        """What was set aside, for people: at most ten lines."""
        shown = self.snapshot.told.set_aside[:QUARANTINE_SHOWN_MAX]
        return tuple(f"{entry.id or 'unreadable id'}: {entry.reason}" for entry in shown)
