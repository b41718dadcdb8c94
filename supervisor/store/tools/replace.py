"""Replacement of a store that cannot be used: the newest sound backup, and over it the rows
salvaged from the old one.

Runs in a process of its own, because the salvaged rows are held in memory. The old store is
set aside, and never written over (law 10).
"""

from pathlib import Path

from ....ipc.instants import format_instant
from .. import files
from ..daemondb import DaemonDB
from ..errors import StoreError
from ..files import StorePaths
from ..repair import incidents, salvage
from ..repair.incidents import Incident
from ..repair.salvage import Salvage
from . import backups, child_process


def replace(paths: StorePaths, why: str, *, map_bytes: int, now_us: int) -> Incident:
    """Replace the store, for the reason `why`; return the incident, which is kept already.

    Raises `StoreError`, `OSError`; then the old store is where it was, or the new one is whole.
    """
    saved = _salvaged(paths.store)
    backup, unusable = (None, []) if saved.all_whole else _newest_sound(paths.backups)
    with paths.empty_for_making() as making:
        if backup is not None:
            files.copy_file(backup / "data.mdb", making / "data.mdb")
        known = adopt(making, saved, map_bytes=map_bytes, now_us=now_us)
        aside = paths.next_aside()
        what = [why, _how_it_went(saved, backup), *unusable, f"{known} actions are known"]
        incident = Incident(
            format_instant(now_us), "; ".join(what), str(aside or ""), str(backup or "")
        )
        incidents.add(making, incident, incidents.read(paths.store))
        paths.put_in_place(aside)
    return incident


def adopt(store_dir: Path, saved: Salvage, *, map_bytes: int, now_us: int) -> int:
    """Merge salvaged rows into the store in `store_dir`; return its number of actions."""
    db = DaemonDB.at(store_dir, map_bytes=map_bytes)
    try:
        db.adopt(saved, now_us=now_us)
        return sum(db.counts().values())
    finally:
        db.close()


def _salvaged(store_dir: Path) -> Salvage:
    return salvage.read(store_dir / "data.mdb") if files.data_bytes(store_dir) else Salvage()


def _newest_sound(directory: Path) -> tuple[Path | None, list[str]]:
    """Return the newest sound backup, and a complaint about each newer one. Each is examined
    in a process of its own, as a store is."""
    unusable: list[str] = []
    for backup in reversed(backups.generations(directory)):
        try:
            found = child_process.examine(backup)
        except StoreError as error:
            unusable.append(f"backup {backup.name}: {error}")
            continue
        if found.usable:
            return backup, unusable
        unusable.append(f"backup {backup.name} cannot be used: {found.detail or 'it is empty'}")
    return None, unusable


def _how_it_went(saved: Salvage, backup: Path | None) -> str:
    if saved.all_whole:
        return "all of it could be read and is in the new one"
    part = f"{saved.count} of its values could be read" if saved.count else "nothing could be read"
    base = "there was no good backup" if backup is None else f"the rest is from {backup}"
    return f"{part}, {base}"
