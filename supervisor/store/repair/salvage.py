"""Salvage of the readable rows of a damaged store, and their merge into another.

The index `due` is not read: it is rebuilt. Nothing outlives the transaction it is given.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..tables import meta
from ..tables.codec import DamagedRecordError, Stored, decode_stored, is_sound, join
from ..tables.meta import FORMAT_KEY, META_KEY
from ..tables.schema import Tables, Transaction, rows_from, set_aside
from . import lmdb_pages
from .lmdb_pages import Found
from .validate import SEQUENCES, TABLES, UNCHECKED, damaged_rows, key_fits, last_sequence

#: Damaged rows moved aside in a merged store: as many as there are.
_ALL = 2**31


class Table(msgspec.Struct):
    """`rows` are sound, `lost` the keys of damaged ones; there are no others if `whole`."""

    rows: dict[bytes, bytes] = msgspec.field(default_factory=dict)
    lost: set[bytes] = msgspec.field(default_factory=set)
    whole: bool = False


class Salvage(msgspec.Struct):
    """The rows of a damaged store by table. If `newest`, its last transaction was read: a whole
    table lacks nothing that was committed."""

    tables: dict[str, Table] = msgspec.field(
        default_factory=lambda: {name: Table() for name in TABLES}
    )
    newest: bool = False

    @property
    def all_whole(self) -> bool:
        """No row of any table is missing."""
        return all(table.whole for table in self.tables.values())

    @property
    def count(self) -> int:
        """Number of sound rows."""
        return sum(len(table.rows) for table in self.tables.values())


def read(data: Path) -> Salvage:
    """Read all rows of a file that can be read. Where a table is not whole in the newest
    snapshot, missing rows are taken from the one before. Raises `OSError`."""
    saved = Salvage()
    complete: list[bool] = []
    for snapshot in lmdb_pages.snapshots(data):
        if "actions" not in snapshot:
            complete.append(False)
            continue  # a tree without our tables is no evidence that they were empty
        for name, table in saved.tables.items():
            if not table.whole:
                _take(name, table, snapshot.table(name))
        complete.append(saved.all_whole)
    saved.newest = len(complete) == lmdb_pages.SNAPSHOTS and complete[0]
    return saved


def _take(name: str, table: Table, found: Found) -> None:
    table.whole = found.whole
    for key, value in found.rows.items():
        if key in table.rows or (name == "meta" and key != META_KEY) or not key_fits(name, key):
            continue
        if name == UNCHECKED or is_sound(value):
            table.rows[key] = value
            table.lost.discard(key)
        else:
            table.lost.add(key)


def format_of(data: Path) -> int:
    """Return the format number of a damaged store, 0 where it is lost. Raises `OSError`."""
    for snapshot in lmdb_pages.snapshots(data):
        stored = snapshot.table("meta").rows.get(FORMAT_KEY, b"")
        try:
            return meta.format_in(stored)
        except ValueError:
            continue
    return 0


# --- in a store that is sound ------------------------------------------------------------


def adopt(txn: Transaction, tables: Tables, saved: Salvage, *, now_us: int) -> None:
    """Merge salvaged rows into a store, which may be an older copy of the same one. It is a
    new generation from then on (S18), and has applied no snapshot."""
    for name in TABLES:
        _merge(txn, tables, name, saved)
    given = [max(saved.tables[name].lost, default=b"") for name in SEQUENCES]
    last = max(last_sequence(txn, tables), *(int.from_bytes(key) for key in given))
    _move_aside(txn, tables, damaged_rows(txn, tables, _ALL))
    whole = saved.newest and saved.tables["events"].whole
    meta.renew(txn, tables, last=last, whole=whole, now_us=now_us)


def _merge(txn: Transaction, tables: Tables, name: str, saved: Salvage) -> None:
    """Merge a table. One salvaged whole replaces the one there, but for its lost rows, whose
    older version stays; of another, each row replaces its own version if it is not older."""
    table, found = getattr(tables, name), saved.tables[name]
    if found.whole and name not in ("meta", "details"):
        with txn.cursor(table) as at:
            known = [key for key, _ in rows_from(at)]
        for key in known:
            if key not in found.rows and key not in found.lost:
                txn.delete(key, db=table)
                if name == "actions":
                    txn.delete(key, db=tables.details)
    for key, value in found.rows.items():
        if name == "actions":
            _put_action(txn, tables, key, value, saved.tables["details"].rows.get(key))
        elif name != "details":
            txn.put(key, value, db=table)


def _put_action(
    txn: Transaction, tables: Tables, key: bytes, value: bytes, details: bytes | None
) -> None:
    """Put an action with its details, which mean nothing without it, if both can be read and
    the stored action is not newer."""
    known, known_details = txn.get(key, db=tables.actions), txn.get(key, db=tables.details)
    usable = details if _fit(value, details) else known_details
    new = _fit(value, usable)
    old = None if known is None else _fit(known, known_details)
    if old is not None and (new is None or new.record.revision < old.record.revision):
        return
    txn.put(key, value, db=tables.actions)
    if usable is not None:
        txn.put(key, usable, db=tables.details)
    if new is not None and not new.details:
        txn.delete(key, db=tables.details)


def _fit(value: bytes, details: bytes | None) -> Stored | None:
    """Return the row of an action if it and its details can be read together."""
    try:
        stored = decode_stored(value)
        join(stored, details)
    except DamagedRecordError:
        return None
    return stored


def put_aside(
    txn: Transaction, tables: Tables, damaged: Sequence[tuple[str, bytes]], *, now_us: int
) -> None:
    """Move damaged rows, by table and key, to `damaged`; details go with their record."""
    last = last_sequence(txn, tables)
    _move_aside(txn, tables, damaged)
    if ("meta", META_KEY) in damaged:  # and with it the sequence numbers it had given
        meta.renew(txn, tables, last=last, whole=False, now_us=now_us)
    else:
        meta.raise_floor(txn, tables, last)


def _move_aside(txn: Transaction, tables: Tables, damaged: Sequence[tuple[str, bytes]]) -> None:
    whole_records = ("actions", "details")
    for name, key in damaged:
        for table in whole_records if name in whole_records else (name,):
            value = txn.get(key, db=getattr(tables, table))
            if value is not None:
                set_aside(txn, tables, table, key, value)
                txn.delete(key, db=getattr(tables, table))
