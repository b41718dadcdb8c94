"""A snapshot applied in slices: looked at first, additions then, absences last, its mark
with the end.

Nothing large ever holds the loop (DESIGN 3): each slice is one turn's share. Looking writes
nothing, so that a snapshot with few changes costs one transaction, and most have one or
none. A crash in between merely pulls again, because the mark is written with the last slice.
"""

from collections import deque
from collections.abc import Callable

import msgspec

from ..ipc.actions import Action
from .core.model import Change, Record
from .core.reconcile import Verdict, reconcile_absent, reconcile_sent
from .store.records import action_key, edge_of
from .synchronisation import Snapshot
from .turn import Turn

#: Entries of a slice: some milliseconds of work.
ENTRIES_PER_TURN_MAX = 200
QUARANTINE_SHOWN_MAX = 10


class Applying(msgspec.Struct):
    """A snapshot on its way into daemonDB. `counts` is what it has done so far.

    `open_ids(cursor)` pages through all records that are not terminal, `ended(cursor)`
    through the rows of those that are, with whether the last snapshot lacked them. `seen`
    are keys of actions.
    """

    snapshot: Snapshot
    open_ids: Callable[[str], tuple[list[Record], str]]
    ended: Callable[[bytes], tuple[list[tuple[bytes, bool]], bytes]]
    counts: dict[Verdict, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    seen: set[bytes] = msgspec.field(default_factory=set)
    differing: deque[Action] = msgspec.field(default_factory=deque)
    missing: deque[Record] = msgspec.field(default_factory=deque)
    cursor: str = ""
    ended_cursor: bytes = b""
    sent_done: bool = False
    absent_done: bool = False
    ended_done: bool = False
    done: bool = False

    def slice(self, turn: Turn) -> None:
        """Look at the next share, or decide it; `done` once there is nothing left but to
        commit it."""
        if not self.sent_done:
            self._look_at_sent(turn)
        elif not self.absent_done and not self._unclear:
            self._look_at_absent()
        elif not self.ended_done:
            self._take_ended(turn)
        if self.ended_done:
            self._decide(turn)

    @property
    def _unclear(self) -> bool:
        """S8: an id that cannot be read could be any, so nothing is absent for sure."""
        return self.snapshot.told.unreadable_ids > 0

    def _look_at_sent(self, turn: Turn) -> None:
        looked_at = 0
        while self.snapshot.pages and looked_at < ENTRIES_PER_TURN_MAX:
            page = self.snapshot.pages.popleft()
            looked_at += len(page)
            for action in page:
                self.seen.add(action_key(action.id))
                record = turn.record(action.id)
                if record is None:
                    self.differing.append(action)
                    continue
                verdict, change = reconcile_sent(record, action, turn.now, turn.rules)
                if change is None:
                    self.counts[verdict] += 1
                else:
                    self.differing.append(action)
        if not self.snapshot.pages:
            self.seen.update(map(action_key, self.snapshot.told.set_aside_ids))
            self.sent_done = True

    def _look_at_absent(self) -> None:
        records, self.cursor = self.open_ids(self.cursor)
        self.missing += [r for r in records if action_key(r.action.id) not in self.seen]
        self.absent_done = not self.cursor

    def _decide(self, turn: Turn) -> None:
        """What was found, by the records as they are by now: other turns were in between."""
        for _ in range(ENTRIES_PER_TURN_MAX):
            if self.differing:
                action = self.differing.popleft()
                record = turn.record(action.id)
                self._take(turn, *reconcile_sent(record, action, turn.now, turn.rules))
            elif self.missing:
                stored = self.missing.popleft()
                record = turn.record(stored.action.id) or stored
                self._take(turn, *reconcile_absent(record, turn.now, turn.rules))
        self.done = not self.differing and not self.missing

    def _take(self, turn: Turn, verdict: Verdict, change: Change | None) -> None:
        self.counts[verdict] += 1
        turn.take(change)

    def _take_ended(self, turn: Turn) -> None:
        """S6: their status stays. What the backend sends no more may be forgotten one day,
        and what it sends may not."""
        rows, self.ended_cursor = self.ended(self.ended_cursor)
        for row, was_absent in rows:
            absent = edge_of(row)[1] not in self.seen
            if absent is not was_absent and not (absent and self._unclear):
                turn.absences[row] = absent
        self.ended_done = not self.ended_cursor

    @property
    def quarantine(self) -> tuple[str, ...]:
        """What was set aside, for people: at most ten lines."""
        shown = self.snapshot.told.set_aside[:QUARANTINE_SHOWN_MAX]
        return tuple(f"{entry.id or 'unreadable id'}: {entry.reason}" for entry in shown)
