"""Schema of daemonDB, and the operations on a table inside a transaction.

Transactions are LMDB's, given by `daemondb.py`; the part of their interface that is used is
declared here as protocols, so that no table's module knows the library.
"""

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

import msgspec

from .codec import DamagedRecordError, Value

log = logging.getLogger(__name__)


class Cursor(Protocol):
    """A cursor of LMDB over one table."""

    def last(self) -> bool: ...
    def set_range(self, key: bytes, /) -> bool: ...
    def key(self) -> bytes: ...
    def iterprev(self) -> Iterator[tuple[bytes, bytes]]: ...
    def __iter__(self) -> Iterator[tuple[bytes, bytes]]: ...
    def __enter__(self) -> "Cursor": ...
    def __exit__(self, *args: object) -> None: ...


class Transaction(Protocol):
    """A transaction of LMDB; `db` is a table's handle."""

    def get(self, key: bytes, *, db: Any) -> bytes | None: ...
    def put(self, key: bytes, value: bytes, *, db: Any, overwrite: bool = ...) -> bool: ...
    def delete(self, key: bytes, *, db: Any) -> bool: ...
    def cursor(self, db: Any) -> Cursor: ...
    def stat(self, db: Any) -> Any: ...
    def drop(self, db: Any, delete: bool = ...) -> None: ...


class Tables(msgspec.Struct, frozen=True):
    """A handle of each table; the names of the fields are the names on disk."""

    actions: Any  # key of the action -> Stored
    details: Any  # key of the action -> its long appNames and args
    due: Any  # edge, key of the action -> nothing
    ended: Any  # end, key of the action -> Ended; one row for each action that is over
    runs: Any  # key of the action, attempt -> RunRow
    events: Any  # sequence -> StatusChange
    outbox: Any  # sequence -> Pending
    refused: Any  # sequence -> Pending, set aside
    damaged: Any  # table, key -> the bytes that could not be read
    meta: Any  # "format" and "store"

    @classmethod
    def open(cls, open_table: Callable[[bytes], Any]) -> "Tables":
        return cls(*(open_table(name.encode()) for name in cls.__struct_fields__))


class Damage:
    """Counts values that could not be read, and logs each once."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, bytes]] = set()

    def __len__(self) -> int:
        return len(self._seen)

    def decoded(
        self, decode: Callable[[Any], Value], table: str, key: bytes, value: bytes | None
    ) -> Value | None:
        """Decode a value; note it and return None where it is damaged."""
        try:
            return decode(value)
        except DamagedRecordError as error:
            self.note(table, key, str(error))
            return None

    def note(self, table: str, key: bytes, error: str) -> None:
        """Log a damaged value, the first time."""
        if (table, key) in self._seen:
            return
        self._seen.add((table, key))
        log.error(
            "Lost a value of table %s (key %s): %s",
            table,
            key.hex(),
            error,
            extra={"event": "damaged-record", "table": table, "key": key.hex()},
        )


#: Damaged values kept in `damaged`, for a person to look at.
DAMAGED_KEPT_MAX = 100
#: LMDB's own bound (fact L26).
_KEY_BYTES_MAX = 511


def set_aside(txn: Transaction, tables: Tables, table: str, key: bytes, value: bytes) -> None:
    """Keep a value that could not be read, before it is replaced or removed (law 10)."""
    if entries(txn, tables.damaged) < DAMAGED_KEPT_MAX:
        txn.put((f"{table}:".encode() + key)[:_KEY_BYTES_MAX], value, db=tables.damaged)


def entries(txn: Transaction, table: Any) -> int:
    """Return the number of rows of a table."""
    return int(txn.stat(table)["entries"])


def rows_from(cursor: Cursor, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows from the key `start` on, for as long as the cursor is open."""
    if start and not cursor.set_range(start):
        return iter(())  # else the iteration would begin at the first row
    return iter(cursor)


def scan(txn: Transaction, table: Any, start: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    """Return at most `limit` rows from the key `start` on, copied out (law 9)."""
    with txn.cursor(table) as at:
        return list(islice(rows_from(at, start), limit))


def last_key(txn: Transaction, table: Any) -> bytes | None:
    """Return the highest key of a table, None for an empty one."""
    with txn.cursor(table) as at:
        return at.key() if at.last() else None
