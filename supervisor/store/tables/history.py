"""History in daemonDB: the newest runs of each action, and the last status changes of all.

Both are bounded rings, so they need no clean-up. Nothing outlives the transaction it is given.
"""

from collections.abc import Sequence

from ...core.model import Change, RunRow, StatusChange
from .codec import Codec, action_key, number_key, number_of, run_key
from .schema import Damage, Tables, Transaction, last_key, scan

RUNS_KEPT = 20
EVENTS_KEPT = 100

Event = tuple[int, StatusChange]

_RUNS = Codec(RunRow)
_CHANGES = Codec(StatusChange)


class History:
    """Rows of the tables `runs` and `events`."""

    def __init__(self, tables: Tables, damage: Damage) -> None:
        self._tables = tables
        self._damage = damage

    def put_runs(self, txn: Transaction, changes: Sequence[Change]) -> list[str]:
        """Put the runs that changes begin or end; return the ids of older ones they replaced."""
        forgotten: list[str] = []
        for change in changes:
            row = change.run
            if row is None:
                continue
            key = action_key(change.after.action.id)
            txn.put(run_key(key, row.attempt), _RUNS.encode(row), db=self._tables.runs)
            old = run_key(key, row.attempt - RUNS_KEPT) if row.attempt > RUNS_KEPT else None
            value = txn.get(old, db=self._tables.runs) if old else None
            if old and value is not None:
                txn.delete(old, db=self._tables.runs)
                forgotten += self.ids_of([value])
        return forgotten

    def ids_of(self, values: Sequence[bytes]) -> list[str]:
        """Return the run ids in stored values, of those that can be read."""
        rows = (self._damage.decoded(_RUNS.decode, "runs", b"", value) for value in values)
        return [row.run_id for row in rows if row is not None]

    def run(self, txn: Transaction, key: bytes, attempt: int) -> RunRow | None:
        value = txn.get(run_key(key, attempt), db=self._tables.runs)
        return None if value is None else self._damage.decoded(_RUNS.decode, "runs", key, value)

    def runs(self, txn: Transaction, key: bytes, limit: int) -> list[RunRow]:
        """Return the newest runs of an action, newest first."""
        found: list[RunRow] = []
        for row_key, value in scan(txn, self._tables.runs, key, RUNS_KEPT):
            if not row_key.startswith(key):
                break
            row = self._damage.decoded(_RUNS.decode, "runs", row_key, value)
            found += [] if row is None else [row]
        return found[::-1][:limit]

    def put_events(self, txn: Transaction, events: Sequence[Event]) -> None:
        """Put events, whose sequence numbers rise; only the newest `EVENTS_KEPT` are written."""
        if not events:
            return
        for sequence, change in events[-EVENTS_KEPT:]:
            txn.put(number_key(sequence), _CHANGES.encode(change), db=self._tables.events)
        first_kept = number_key(events[-1][0] - EVENTS_KEPT + 1)
        for key, _ in scan(txn, self._tables.events, b"", 2 * EVENTS_KEPT):
            if key < first_kept:
                txn.delete(key, db=self._tables.events)

    def events(self, txn: Transaction, after: int) -> list[Event]:
        """Return the events after a sequence number, oldest first."""
        found: list[Event] = []
        for key, value in scan(txn, self._tables.events, number_key(after + 1), EVENTS_KEPT):
            change = self._damage.decoded(_CHANGES.decode, "events", key, value)
            found += [] if change is None else [(number_of(key), change)]
        return found

    def last_sequence(self, txn: Transaction) -> int:
        """Return the highest number ever given, by keys alone, 0 in a new store."""
        tables = (self._tables.events, self._tables.outbox, self._tables.refused)
        last = (last_key(txn, table) for table in tables)
        return max((number_of(key) for key in last if key is not None), default=0)
