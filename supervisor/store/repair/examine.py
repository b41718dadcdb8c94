"""What state the file of a store is in. It is looked at in a process of its own, by
`cli.py`: a damaged file kills whoever maps it (fact 3). What follows from a finding is
`open.py`'s.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.model import Record
from .. import files, lmdb_env
from ..errors import StoreError
from ..tables import migrations
from ..tables.codec import KEY_BYTES, edge_key
from ..tables.ended import row_of
from ..tables.meta import META_KEY, read_format
from ..tables.schema import Tables, Transaction, entries, rows_from
from . import lmdb_pages, salvage, validate
from .findings import Condition, Examination, both

#: More damaged values than that are found when they are read.
DAMAGED_FOUND_MAX = 10_000
FAULTS_MAX = 100
INDEXES = ("due", "ended")


def examine(store_dir: Path) -> Examination:
    """Raises `StoreError` where it cannot be looked at; does not return where it is such that
    LMDB ends the process."""
    return both(examine_structure(store_dir), lambda: examine_contents(store_dir))


def examine_structure(store_dir: Path) -> Examination:
    """Whether LMDB would die of it. Maps nothing. Raises `StoreError`."""
    seen = _at_a_glance(store_dir)
    if seen is not None:
        return seen
    problem = lmdb_env.verify(store_dir) or lmdb_pages.fault_in(
        store_dir / "data.mdb", every_row=False
    )
    return _judged(store_dir, problem)


def examine_contents(store_dir: Path) -> Examination:
    """Formats, checksums, indexes. Raises `StoreError`; does not return where it is such that
    LMDB ends the process."""
    seen = _at_a_glance(store_dir)
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
        # They are about to be removed: LMDB must not write over their neighbours then.
        found = both(_judged(store_dir, lmdb_pages.fault_in(store_dir / "data.mdb")), lambda: found)
    return found


def _at_a_glance(store_dir: Path) -> Examination | None:
    """What is to be said of a file without reading on; None where there is more to see."""
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
    """Of a newer store nothing is understood here, so nothing of it is saved either."""
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
        damaged += [("meta", META_KEY)] if _knows_not_itself(txn, tables) else []
    return Examination(Condition.SOUND, "", tuple(damaged[:DAMAGED_FOUND_MAX]), tuple(faults))


def _knows_not_itself(txn: Transaction, tables: Tables) -> bool:
    """Its own row is written by the first start, before any other."""
    others = (tables.actions, tables.events, tables.outbox)
    return txn.get(META_KEY, db=tables.meta) is None and any(entries(txn, t) for t in others)


def _without_tables(*, empty: bool, store_dir: Path) -> Examination:
    """A first start that was cut short leaves an environment without any table."""
    if not empty:
        return Examination(Condition.DAMAGED, "what it holds is no daemonDB")
    if files.initialised(store_dir):
        return Examination(Condition.LOST, "it is empty, and was not before")
    return Examination(Condition.NEW)


# --- indexes -----------------------------------------------------------------------------


def _look_at_actions(txn: Transaction, tables: Tables) -> tuple[list[tuple[str, bytes]], list[str]]:
    """Records that cannot be used, and where the indexes do not agree with those that can, at
    most so many. An action without its row in `due` would never start."""
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
    with txn.cursor(getattr(tables, name)) as at:
        for row, _ in rows_from(at):
            key = row[-KEY_BYTES:]
            value = txn.get(key, db=tables.actions)
            record = None if value is None else validate.record_in(txn, tables, key, value)
            if record is None or _row_for(record, key) != (name, row):
                yield f"{name} has a row for nothing: {row.hex()}"


def _row_for(record: Record, key: bytes) -> tuple[str, bytes]:
    """The index and the row of it that a record has."""
    edge_us = record.edge_us
    return ("ended", row_of(record, key)) if edge_us is None else ("due", edge_key(edge_us, key))
