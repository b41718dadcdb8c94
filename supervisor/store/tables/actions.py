"""Action records in daemonDB: tables `actions` and `details`, and their index `due`.

The compare-and-swap is here, the only code that writes a status; it decides about none.
Nothing outlives the transaction it is given.
"""

from collections import Counter
from collections.abc import Collection
from functools import partial
from itertools import islice, takewhile
from typing import NamedTuple

from ....ipc.actions import ExecutionStatus
from ...core.model import Change, Record
from .codec import (
    INSTANT_US_MAX,
    KEY_BYTES,
    Stored,
    action_key,
    decode_stored,
    edge_key,
    edge_of,
    encode_stored,
    join,
    number_key,
    split,
    status_of,
)
from .schema import Damage, Tables, Transaction, rows_from, scan, set_aside

#: Rows read for one page of a list, however few of them match: a request of somebody who may only
#: look costs no more.
PAGE_ROWS_MAX = 2_000
#: Of app names in one page; with one more action it still fits its frame.
PAGE_CHARS_MAX = 64 * 1024


class Swap(NamedTuple):
    """Result of a compare-and-swap; `was` is the status that `count` had counted before."""

    won: bool
    was: ExecutionStatus | None = None


_LOST, _NEW = Swap(won=False), Swap(won=True)


class ActionRows:
    """Rows of `actions`, each with its `details` and its row in `due`.

    Keys are 16 bytes (`codec.action_key`). A record that cannot be read is noted in `damage`
    and passed over: it costs itself, not the call.
    """

    def __init__(self, tables: Tables, damage: Damage) -> None:
        self._tables = tables
        self._damage = damage

    # --- reading ------------------------------------------------------------------------

    def record(self, txn: Transaction, key: bytes) -> Record | None:
        """Return the record under a key; None where there is none or it cannot be read."""
        value = txn.get(key, db=self._tables.actions)
        return None if value is None else self._joined(txn, key, value)

    def count(self, txn: Transaction) -> Counter[ExecutionStatus]:
        """Count the records of each status, by their kind bytes alone."""
        counts: Counter[ExecutionStatus] = Counter()
        with txn.cursor(self._tables.actions) as at:
            for key, value in rows_from(at):
                status = status_of(value)
                if status is None:
                    self._damage.note("actions", key, "its head is damaged")
                else:
                    counts[status] += 1
        return counts

    def page(
        self, txn: Transaction, after: bytes, limit: int, statuses: Collection[ExecutionStatus]
    ) -> tuple[list[Record], bytes]:
        """Return records after the key `after`, by key, and the next `after`, b"" at the end."""
        records: list[Record] = []
        last, chars = after, 0
        with txn.cursor(self._tables.actions) as at:
            found = rows_from(at, after + b"\0" if after else b"")
            for looked_at, (key, value) in enumerate(found):
                full = len(records) == limit or chars > PAGE_CHARS_MAX
                if full or looked_at == PAGE_ROWS_MAX:
                    return records, last
                last = key
                record = self._joined(txn, key, value) if status_of(value) in statuses else None
                if record is not None:
                    records.append(record)
                    chars += sum(map(len, record.action.app_names))
        return records, b""

    def edges(
        self, txn: Transaction, start: bytes, limit: int, until_us: int = INSTANT_US_MAX
    ) -> list[tuple[int, bytes]]:
        """Return at most `limit` entries of `due` from the row `start` on: (edge in us, key).

        Rows beyond `until_us` are not read: what waits costs a turn nothing.
        """
        last = number_key(until_us)
        with txn.cursor(self._tables.due) as at:
            ahead = takewhile(lambda row: row[0][: len(last)] <= last, rows_from(at, start))
            return [edge_of(row) for row, _ in islice(ahead, limit)]

    def open_page(self, txn: Transaction, start: bytes, limit: int) -> tuple[list[Record], bytes]:
        """Return records by edge from the row `start` on, and the next `start`, b"" at the end."""
        keys, following = self.open_keys(txn, start, limit)
        found = [self.record(txn, key) for key in keys]
        return [record for record in found if record is not None], following

    def open_keys(self, txn: Transaction, start: bytes, limit: int) -> tuple[list[bytes], bytes]:
        """Return the keys of `open_page`'s records, without reading these."""
        rows = [row for row, _ in scan(txn, self._tables.due, start, limit + 1)]
        following = rows[limit] if len(rows) > limit else b""
        return [row[-KEY_BYTES:] for row in rows[:limit]], following

    def started(self, txn: Transaction, count: int) -> list[Record]:
        """Return the STARTED records. There are `count`: rows after the last are not read."""
        found: list[Record] = []
        with txn.cursor(self._tables.due) as at:
            for row, _ in rows_from(at) if count else ():
                _, key = edge_of(row)
                value = txn.get(key, db=self._tables.actions)
                if value is None or status_of(value) is not ExecutionStatus.STARTED:
                    continue
                record = self._joined(txn, key, value)
                found += [] if record is None else [record]
                count -= 1
                if not count:
                    break
        return found

    # --- writing ------------------------------------------------------------------------

    def swap(self, txn: Transaction, change: Change) -> Swap:
        """Write `change.after` if what is stored is still `change.before` (law 5)."""
        key = action_key(change.after.action.id)
        if change.before is None:
            return self._add(txn, key, change.after)
        value = txn.get(key, db=self._tables.actions)
        stored = None if value is None else self._stored(key, value)
        if value is None or stored is None or not _same(stored.record, change.before):
            return _LOST
        self._move_edge(txn, key, stored.record.edge_us, change.after.edge_us)
        self._put(txn, key, change.after, stored.details)
        return Swap(True, status_of(value))

    def _add(self, txn: Transaction, key: bytes, record: Record) -> Swap:
        """Put a new record; it wins where none of this id is there, or none that can be read."""
        stored, details = split(record)
        encoded, swap = encode_stored(stored), _NEW
        if not txn.put(key, encoded, db=self._tables.actions, overwrite=False):
            value = txn.get(key, db=self._tables.actions)
            if value is None or not self._removed_damaged(txn, key, value):
                return _LOST
            txn.put(key, encoded, db=self._tables.actions)
            swap = Swap(True, status_of(value))
        if details:
            txn.put(key, details, db=self._tables.details)
        self._move_edge(txn, key, None, record.edge_us)
        return swap

    def _move_edge(
        self, txn: Transaction, key: bytes, old_us: int | None, new_us: int | None
    ) -> None:
        """Keep one row in `due` for each record that time can change, and none for any other."""
        if old_us == new_us:
            return
        if old_us is not None:
            txn.delete(edge_key(old_us, key), db=self._tables.due)
        if new_us is not None:
            txn.put(edge_key(new_us, key), b"", db=self._tables.due)

    def _put(self, txn: Transaction, key: bytes, record: Record, known: bytes) -> None:
        """Put a record; `known` is the digest of the details that are stored already."""
        stored, details = split(record)
        txn.put(key, encode_stored(stored), db=self._tables.actions)
        if details and stored.details != known:
            txn.put(key, details, db=self._tables.details)
        elif known and not details:
            txn.delete(key, db=self._tables.details)

    def _removed_damaged(self, txn: Transaction, key: bytes, value: bytes) -> bool:
        """Move a value that cannot be read to `damaged`; return False for one that can."""
        if self._joined(txn, key, value) is not None:
            return False
        set_aside(txn, self._tables, "actions", key, value)
        txn.delete(key, db=self._tables.details)
        # Its edge is not known.
        with txn.cursor(self._tables.due) as at:
            stale = [row for row, _ in rows_from(at) if row.endswith(key)]
        for row in stale:
            txn.delete(row, db=self._tables.due)
        return True

    def _joined(self, txn: Transaction, key: bytes, value: bytes) -> Record | None:
        stored = self._stored(key, value)
        if stored is None:
            return None
        if not stored.details:
            return stored.record
        details = txn.get(key, db=self._tables.details)
        return self._damage.decoded(partial(join, stored), "details", key, details)

    def _stored(self, key: bytes, value: bytes) -> Stored | None:
        return self._damage.decoded(decode_stored, "actions", key, value)


def _same(stored: Record, before: Record) -> bool:
    return stored.status is before.status and stored.revision == before.revision


def page_cursor(cursor: str) -> bytes:
    """Return the key that a client's cursor names; "" is the beginning. Raises `ValueError`."""
    try:
        key = bytes.fromhex(cursor)
    except ValueError:
        key = b"?"
    if len(key) not in (0, KEY_BYTES):
        raise ValueError("cannot go on with the list: its cursor is not one of ours")
    return key
