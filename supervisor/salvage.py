"""What can still be read of a store that LMDB dies of, and how it goes into another.

Reading happens in a process of its own (`storetool.py`), which writes down every row at
once, because the next page may kill it; a table whose middle is damaged is then read from
its end. The index of edges is not read: it is made anew. Nothing outlives the transaction
it is given.
"""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import msgspec

from . import environment
from .environment import Environment
from .records import DamagedRecordError, decode_stored, is_sound
from .storefile import StoreError
from .tables import Tables, Transaction, rows_from, set_aside

#: Every table whose rows say something that no other row says.
TABLES = ("meta", "actions", "details", "runs", "events", "outbox", "refused", "ended", "damaged")
#: Rows of this table are whatever could not be read.
_UNCHECKED = "damaged"
_LENGTH = struct.Struct(">I")
_ROW_BYTES_MAX = 64 * 1024**2

Row: TypeAlias = tuple[str, bytes, bytes | None]  # table, key, value; None: all of it was read

_decode: Callable[[bytes], Row] = msgspec.msgpack.Decoder(tuple[str, bytes, bytes | None]).decode


@dataclass(slots=True)
class Salvage:
    """Rows by table and key, and the tables that could be read from end to end."""

    rows: dict[str, dict[bytes, bytes]] = field(
        default_factory=lambda: {table: {} for table in TABLES}
    )
    tables_whole: set[str] = field(default_factory=set)

    def whole(self, table: str) -> bool:
        return table in self.tables_whole

    @property
    def all_whole(self) -> bool:
        return self.tables_whole == set(TABLES)


# --- reading: in a process that may die of it -------------------------------------------


def read_out(place: Path, tables: Sequence[str], *, backwards: bool, into: int) -> None:
    """Write the rows of these tables to a descriptor, and after each table that it is whole.

    One that LMDB itself finds damaged is left half read. Raises `StoreError`.
    """
    with environment.reading(place, live=False) as env:
        for table in tables:
            try:
                with environment.errors(place):
                    _read_table(env, table, backwards=backwards, into=into)
            except StoreError:
                continue
            _write(into, (table, b"", None))


def _read_table(env: Environment, table: str, *, backwards: bool, into: int) -> None:
    handle = environment.existing_table(env, table.encode())
    if handle is None:
        return
    with env.begin() as txn, txn.cursor(handle) as at:
        for key, value in at.iterprev() if backwards else at:
            _write(into, (table, key, value))


def _write(into: int, row: Row) -> None:
    body = msgspec.msgpack.encode(row)
    os.write(into, _LENGTH.pack(len(body)) + body)


def read_in(path: Path) -> Iterator[Row]:
    """What was written down, up to where its writer died."""
    with path.open("rb") as file:
        while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
            (length,) = _LENGTH.unpack(head)
            body = file.read(min(length, _ROW_BYTES_MAX))
            if len(body) < length:
                return
            yield _decode(body)


def gather(read: Callable[[Sequence[str], bool], Iterator[Row]]) -> Salvage:
    """All that can be had. `read(tables, backwards)` gives the rows that a process of its own
    came to write down; each that died is followed by one for what is left."""
    found = Salvage()
    for row in read(TABLES, False):
        _take(found, row)
    for table in TABLES:
        if not found.whole(table):  # it died in this one, or before it came to it
            for row in read((table,), False):
                _take(found, row)
        if not found.whole(table):
            for row in read((table,), True):
                _take(found, row)
    return found


def _take(found: Salvage, row: Row) -> None:
    table, key, value = row
    if value is None:
        found.tables_whole.add(table)
    elif table == _UNCHECKED or is_sound(value):
        found.rows[table][key] = value


# --- writing: in a store that is sound --------------------------------------------------


def merge(txn: Transaction, tables: Tables, saved: Salvage) -> None:
    """Over what is there, which may be an older copy of the same store: a table that is whole
    takes the other's place, of a half one the rows do that are newer."""
    for name in TABLES:
        table, rows = getattr(tables, name), saved.rows[name]
        if name != "meta" and saved.whole(name):
            txn.drop(table, delete=False)
        for key, value in rows.items():
            if name == "actions" and not _newer(value, txn.get(key, db=table)):
                continue
            if name == "details" and key not in saved.rows["actions"]:
                continue  # of a record that was lost: the older one has its own
            if name != "meta" or key == b"store":
                txn.put(key, value, db=table)


def _newer(value: bytes, known: bytes | None) -> bool:
    if known is None:
        return True
    try:
        return decode_stored(value).record.revision >= decode_stored(known).record.revision
    except DamagedRecordError:
        return True


def put_aside(txn: Transaction, tables: Tables, damaged: Sequence[tuple[str, bytes]]) -> None:
    """Keep what cannot be read where nobody counts on it, with what means nothing without it."""
    for name, key in damaged:
        for table in ("actions", "details") if name == "details" else (name,):
            value = txn.get(key, db=getattr(tables, table))
            if value is not None:
                set_aside(txn, tables, table, key, value)
                txn.delete(key, db=getattr(tables, table))
        if name == "actions":
            txn.delete(key, db=tables.details)


def damaged_rows(txn: Transaction, tables: Tables, rows_max: int) -> list[tuple[str, bytes]]:
    """Table and key of the values that are not what was written, at most so many."""
    found: list[tuple[str, bytes]] = []
    for name in TABLES:
        table = getattr(tables, name)
        if table is None or name == _UNCHECKED:
            continue
        with txn.cursor(table) as at:
            for key, value in rows_from(at):
                if not is_sound(value) and (name, key) != ("meta", b"format"):
                    found.append((name, key))
                if len(found) == rows_max:
                    return found
    return found
