"""Examination of a store's file: structure, format, checksums, indexes.

Runs in a process of its own (`tools/examiner.py`): a damaged file kills the process that maps
it (fact 3). `open.py` acts upon the findings.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.model import Record
from .. import files, lmdb_env, py_lmdb
from ..errors import StoreError
from ..tables import migrations
from ..tables.codec import KEY_BYTES, edge_key
from ..tables.ended import row_of
from ..tables.meta import META_KEY, read_format
from ..tables.schema import Tables, Transaction, entries, rows_from
from . import lmdb_pages, salvage, validate
from .findings import Condition, Examination, both

#: Damaged values listed; further ones are found when they are read.
DAMAGED_FOUND_MAX = 10_000
FAULTS_MAX = 100
INDEXES = ("due", "ended")


def examine(store_dir: Path) -> Examination:
    """Examine structure and contents.

    Raises `StoreError` where the file cannot be read; does not return where LMDB ends the
    process for its damage.
    """
    return both(examine_structure(store_dir), lambda: examine_contents(store_dir))


def examine_structure(store_dir: Path) -> Examination:
    """Look for faults that would kill a process in LMDB. Maps nothing. Raises `StoreError`."""
    seen = _by_its_head(store_dir)
    if seen is not None:
        return seen
    problem = py_lmdb.verify(store_dir) or lmdb_pages.fault_in(
        store_dir / "data.mdb", every_row=not py_lmdb.can_verify()
    )
    return _judged(store_dir, problem)


def examine_contents(store_dir: Path) -> Examination:
    """Check format, checksums and indexes, through LMDB.

    Raises `StoreError`; does not return where LMDB ends the process for the file's damage.
    """
    seen = _by_its_head(store_dir)
    if seen is not None:
        return seen
    try:
        with lmdb_env.reading(store_dir, live=False) as env:
            found = _look_inside(env, store_dir)
    except StoreError as error:
        if not lmdb_env.tells_of_damage(error):
            raise
        return _damaged(store_dir / "data.mdb", str(error))
    if found.damaged or found.faults:
        # LMDB will remove them, and must not write over their neighbours: check every row.
        found = both(_judged(store_dir, lmdb_pages.fault_in(store_dir / "data.mdb")), lambda: found)
    return found


def _by_its_head(store_dir: Path) -> Examination | None:
    """Return a finding that needs no reading of pages; None where there is none."""
    if files.data_bytes(store_dir) == 0:
        if files.initialised(store_dir):
            return Examination(Condition.LOST, f"{store_dir / 'data.mdb'} is missing or empty")
        return Examination(Condition.NEW)
    if lmdb_env.made_by_newer_lmdb(store_dir):
        return Examination(Condition.NEWER, "its file is of a newer LMDB")
    return None


def _judged(store_dir: Path, problem: str) -> Examination:
    return _damaged(store_dir / "data.mdb", problem) if problem else Examination(Condition.SOUND)


def _damaged(data: Path, problem: str) -> Examination:
    """Return DAMAGED; of a newer store NEWER: its rows mean nothing here, so none is salvaged."""
    number = salvage.format_of(data)
    if number > migrations.FORMAT:
        detail = f"its format {number} is newer than this software's, and it is damaged: {problem}"
        return Examination(Condition.NEWER, detail)
    return Examination(Condition.DAMAGED, problem)


def _look_inside(env: Any, store_dir: Path) -> Examination:
    meta = lmdb_env.existing_table(env, b"meta")
    if meta is None:
        return _without_tables(empty=lmdb_env.is_empty(env), store_dir=store_dir)
    with env.begin() as txn:
        try:
            number = read_format(txn, meta)
            migrations.check(number)
        except ValueError as error:
            newer = isinstance(error, migrations.NewerFormatError)
            return Examination(Condition.NEWER if newer else Condition.DAMAGED, str(error))
    tables = Tables.open(lambda name: lmdb_env.existing_table(env, name))
    older = number < migrations.FORMAT
    missing = [name for name in Tables.__struct_fields__ if getattr(tables, name) is None]
    if missing and not older:
        return Examination(Condition.DAMAGED, f"it has no table {', '.join(missing)}")
    with env.begin() as txn:
        if older:
            damaged = validate.damaged_rows(txn, tables, DAMAGED_FOUND_MAX, older=True)
            return Examination(Condition.OLDER, "", tuple(damaged))
        actions, faults = _look_at_actions(txn, tables)
        others = [name for name in validate.TABLES if name != "actions"]
        damaged = actions + validate.damaged_rows(txn, tables, DAMAGED_FOUND_MAX, names=others)
        damaged += [("meta", META_KEY)] if _lacks_its_own_row(txn, tables) else []
    return Examination(Condition.SOUND, "", tuple(damaged[:DAMAGED_FOUND_MAX]), tuple(faults))


def _lacks_its_own_row(txn: Transaction, tables: Tables) -> bool:
    """The row of `meta` is missing beside others; the first start writes it before any other."""
    others = (tables.actions, tables.events, tables.outbox)
    return txn.get(META_KEY, db=tables.meta) is None and any(entries(txn, t) for t in others)


def _without_tables(*, empty: bool, store_dir: Path) -> Examination:
    """Judge an environment without our tables; an interrupted first start leaves an empty one."""
    if not empty:
        return Examination(Condition.DAMAGED, "what it holds is no daemonDB")
    if files.initialised(store_dir):
        return Examination(Condition.LOST, "it is empty, and was not before")
    return Examination(Condition.NEW)


# --- indexes -----------------------------------------------------------------------------


def _look_at_actions(txn: Transaction, tables: Tables) -> tuple[list[tuple[str, bytes]], list[str]]:
    """Return the records that cannot be used, and the faults of the indexes, at most
    `FAULTS_MAX`. An action without its row in `due` would never start."""
    damaged: list[tuple[str, bytes]] = []
    faults: list[str] = []
    right: Counter[str] = Counter()
    with txn.cursor(tables.actions) as at:
        for key, value in rows_from(at):
            record = validate.record_in(txn, tables, key, value)
            if record is None:
                damaged.append(("actions", key))
                continue
            name, row = _row_for(record, key)
            entry = txn.get(row, db=getattr(tables, name))
            if entry is None or (entry and name == "due"):
                faults.append(f"{record.action.id!r} is not in {name}")
            else:
                right[name] += 1
    for name in INDEXES:
        if entries(txn, getattr(tables, name)) != right[name]:
            faults += _strays(txn, tables, name)
    return damaged, faults[:FAULTS_MAX]


def _strays(txn: Transaction, tables: Tables, name: str) -> Iterator[str]:
    """Yield a fault for each row of an index that no record has."""
    with txn.cursor(getattr(tables, name)) as at:
        for row, _ in rows_from(at):
            key = row[-KEY_BYTES:]
            value = txn.get(key, db=tables.actions)
            record = None if value is None else validate.record_in(txn, tables, key, value)
            if record is None or _row_for(record, key) != (name, row):
                yield f"{name} has a row for nothing: {row.hex()}"


def _row_for(record: Record, key: bytes) -> tuple[str, bytes]:
    """Return the index in which a record has a row, and the key of the row."""
    edge_us = record.edge_us
    return ("ended", row_of(record, key)) if edge_us is None else ("due", edge_key(edge_us, key))
