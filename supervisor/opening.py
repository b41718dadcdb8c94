"""Opens daemonDB at start, whatever has become of its file.

It is examined in a process of its own first. One that LMDB would die of, or that is gone, is
set aside, and a new one takes its place: the newest good backup, and over it what can still
be read of the old one; what cannot, the next pull brings again. One value that is damaged
costs that value. What happened is kept beside the store until a person acknowledges it.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from ..ipc.instants import format_instant
from . import backups, environment, incidents, salvage, storechild, storefile
from .daemondb import MAP_BYTES, DaemonDB
from .examination import Condition, Examination
from .incidents import Incident
from .salvage import Row, Salvage
from .storefile import Places, StoreError, StoreErrorKind

log = logging.getLogger(__name__)

#: A gigabyte on a slow card; the service manager is told to wait so long.
EXAMINE_SECONDS_MAX = 300.0
SALVAGE_SECONDS_MAX = 60.0
BACKUP_SECONDS_MAX = 300.0

#: Tells somebody that waits what is being done, and how many seconds it may take.
Say: TypeAlias = Callable[[str, float], None]

_decode = msgspec.json.Decoder(Examination).decode


def open_store(
    state_dir: Path, *, now_us: int, map_bytes: int = MAP_BYTES, say: Say = lambda *_: None
) -> DaemonDB:
    """Raises `StoreError` for one that is newer than this software, which is left as it is,
    and where the disk does not even take another."""
    places = Places(state_dir)
    with environment.errors(state_dir, otherwise=StoreErrorKind.UNUSABLE):
        places.prepare()
        say("examining daemonDB", EXAMINE_SECONDS_MAX)
        found = _examined(places.store)
        match found.condition:
            case Condition.NEWER:
                raise StoreError(f"cannot use {places.store}: {found.detail}")
            case Condition.LOST | Condition.DAMAGED:
                say("restoring daemonDB", EXAMINE_SECONDS_MAX + SALVAGE_SECONDS_MAX)
                _replace(places, found, map_bytes, now_us)
            case Condition.OLDER:
                say("backing daemonDB up", BACKUP_SECONDS_MAX)
                storechild.ask(("backup-own", state_dir), seconds_max=BACKUP_SECONDS_MAX)
        db = DaemonDB.at(places.store, map_bytes=map_bytes)
        if found.damaged:
            _put_aside(db, found, now_us)
    storefile.warn_if_forgetful(places.store)
    return db


def _examined(place: Path) -> Examination:
    answer = storechild.ask(("examine", place), seconds_max=EXAMINE_SECONDS_MAX)
    if answer.damage:
        return Examination(Condition.DAMAGED, f"reading it ends with {answer.died_of}")
    return _decode(answer.output)


def _put_aside(db: DaemonDB, found: Examination, now_us: int) -> None:
    tables = sorted({table for table, _ in found.damaged})
    db.put_aside(found.damaged)
    count = len(found.damaged)
    detail = f"{count} damaged value{'s' * (count > 1)} put aside, of {', '.join(tables)}"
    _tell(db.place, Incident(format_instant(now_us), detail), incidents.read(db.place))


# --- another store in its place ---------------------------------------------------------


def _replace(places: Places, found: Examination, map_bytes: int, now_us: int) -> None:
    log.error("daemonDB cannot be used: %s", found.detail, extra={"event": "store-damaged"})
    earlier = incidents.read(places.store)
    making = places.empty_for_making()
    saved = _salvaged(places.store, making / "salvage") if _has_data(places.store) else Salvage()
    backup = None if saved.all_whole else _newest_good(places.backups)
    if backup is not None:
        shutil.copyfile(backup / "data.mdb", making / "data.mdb")
    db = DaemonDB.at(making, map_bytes=map_bytes)
    try:
        db.adopt(saved, now_us=now_us)
        kept = sum(db.counts().values())
    finally:
        db.close()
    aside = places.next_aside()
    detail = f"{found.detail}; {_how_it_went(saved, backup)}, {kept} actions are known"
    incident = Incident(
        format_instant(now_us), detail, str(aside), "" if backup is None else str(backup)
    )
    _tell(making, incident, earlier)
    places.put_in_place(aside)


def _how_it_went(saved: Salvage, backup: Path | None) -> str:
    if saved.all_whole:
        return "all of it could be read and is in the new one"
    rows = sum(map(len, saved.rows.values()))
    part = f"{rows} of its values could be read" if rows else "nothing of it could be read"
    base = "there was no backup" if backup is None else f"the rest is from backup {backup.name}"
    return f"{part}, {base}"


def _has_data(place: Path) -> bool:
    return storefile.data_bytes(place) > 0


def _salvaged(place: Path, scratch: Path) -> Salvage:
    """Each try is a process of its own, and may be its death."""

    def read(tables: Sequence[str], backwards: bool) -> Iterator[Row]:
        scratch.unlink(missing_ok=True)
        order = ("backwards" if backwards else "forwards", *tables)
        child = storechild.StoreChild("salvage", place, scratch, *order)
        child.wait(SALVAGE_SECONDS_MAX)
        child.answer()
        return salvage.read_in(scratch) if scratch.exists() else iter(())

    found = salvage.gather(read)
    scratch.unlink(missing_ok=True)
    return found


def _newest_good(directory: Path) -> Path | None:
    for backup in reversed(backups.generations(directory)):
        found = _examined(backup)
        if found.usable:
            return backup
        log.error("Backup %s cannot be used: %s", backup, found.detail)
    return None


def _tell(place: Path, incident: Incident, earlier: tuple[Incident, ...]) -> None:
    incidents.add(place, incident, earlier)
    log.error(
        "daemonDB: %s",
        incident.detail,
        extra={"event": "store-incident", "aside": incident.set_aside},
    )
