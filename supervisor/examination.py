"""What state the file of a store is in. It is looked at in a process of its own, by
`storetool.py`: a damaged file kills whoever maps it (fact 3). What follows from a finding is
`opening.py`'s.
"""

import enum
from pathlib import Path
from typing import Any

import msgspec

from . import environment, migrations, storefile, storemeta
from .ended import row_of
from .records import action_key, decode_stored, edge_key
from .salvage import damaged_rows
from .tables import Tables, Transaction, rows_from

#: More damaged values than that are found when they are read.
DAMAGED_ROWS_MAX = 10_000
FAULTS_MAX = 100


class Condition(enum.StrEnum):
    NEW = "new"  # nothing was ever kept here
    SOUND = "sound"
    OLDER = "older"  # sound, and of a format that will be migrated
    NEWER = "newer"  # not to be touched by this software
    LOST = "lost"  # a store was here, and is no more
    DAMAGED = "damaged"


class Examination(msgspec.Struct, frozen=True):
    """`detail` is for people. `damaged` are values that are not what was written, by table
    and key: they cost themselves, and not the store. `faults` are contradictions between
    tables, which no damage of the disk makes; they are looked for only where asked."""

    condition: Condition
    detail: str = ""
    damaged: tuple[tuple[str, bytes], ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return self.condition in (Condition.SOUND, Condition.OLDER)


def examine(place: Path, *, thorough: bool = False) -> Examination:
    """Raises `StoreError` where it cannot be looked at; does not return where it is such that
    LMDB ends the process."""
    data = place / "data.mdb"
    if storefile.data_bytes(place) == 0:
        if storefile.initialised(place):
            return Examination(Condition.LOST, f"{data} is missing or empty")
        return Examination(Condition.NEW)
    if environment.made_by_newer_lmdb(place):
        return Examination(Condition.NEWER, "its file is of a newer LMDB")
    problem = environment.verify(place)
    if problem:
        return Examination(Condition.DAMAGED, problem)
    with environment.reading(place, live=False) as env:
        return _look_inside(env, place, thorough=thorough)


def _look_inside(env: Any, place: Path, *, thorough: bool) -> Examination:
    meta = environment.existing_table(env, b"meta")
    if meta is None:
        return _without_tables(empty=environment.is_empty(env), place=place)
    with env.begin() as txn:
        try:
            number = storemeta.read_format(txn, meta)
            migrations.check(number)
        except ValueError as error:
            newer = isinstance(error, migrations.NewerFormatError)
            return Examination(Condition.NEWER if newer else Condition.DAMAGED, str(error))
    tables = Tables.open(lambda name: environment.existing_table(env, name))
    older = number < migrations.FORMAT
    with env.begin() as txn:
        damaged = damaged_rows(txn, tables, DAMAGED_ROWS_MAX)
        faults = faults_in(txn, tables) if thorough and not older else []
    condition = Condition.OLDER if older else Condition.SOUND
    return Examination(condition, "", tuple(damaged), tuple(faults))


def _without_tables(*, empty: bool, place: Path) -> Examination:
    """A first start that was cut short leaves an environment without any table."""
    if not empty:
        return Examination(Condition.DAMAGED, "what it holds is no daemonDB")
    if storefile.initialised(place):
        return Examination(Condition.LOST, "it is empty, and was not before")
    return Examination(Condition.NEW)


def faults_in(txn: Transaction, tables: Tables) -> list[str]:
    """Where the indexes do not agree with the records, at most so many."""
    expected: dict[tuple[str, bytes], str] = {}
    faults: list[str] = []
    with txn.cursor(tables.actions) as at:
        for key, value in rows_from(at):
            try:
                record = decode_stored(value).record
            except ValueError:
                continue  # among the damaged
            if key != action_key(record.action.id):
                faults.append(f"the record of {record.action.id!r} has another's key")
            edge = record.edge_us
            row = (
                ("due", edge_key(edge, key)) if edge is not None else ("ended", row_of(record, key))
            )
            expected[row] = record.action.id
    for name in ("due", "ended"):
        with txn.cursor(getattr(tables, name)) as at:
            for entry, _ in rows_from(at):
                if expected.pop((name, entry), None) is None:
                    faults.append(f"{name} has a row for nothing: {entry.hex()}")
    faults += [f"{action_id!r} is in no index" for action_id in expected.values()]
    return faults[:FAULTS_MAX]
