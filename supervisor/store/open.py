"""Opening of daemonDB at start, with the repair or replacement of a damaged store.

The file is examined in a process of its own first. A store that would kill a process in LMDB,
or that is lost, is set aside and replaced (`tools/replace.py`); rows that cannot be salvaged
come again with the next pull. A damaged value costs that value. An incident is kept beside
the store until a person acknowledges it (law 10).
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

from ...ipc.instants import format_instant
from . import files, lmdb_env
from .daemondb import MAP_BYTES, DaemonDB
from .errors import StoreError, StoreErrorKind
from .files import StorePaths
from .repair import incidents
from .repair.findings import Condition, Examination
from .repair.incidents import Incident
from .tools import child_process
from .tools.child_process import ChildProcess

log = logging.getLogger(__name__)

MIGRATION_BACKUP_SECONDS_MAX = 300.0

#: Tells the service manager the step under way, and how many seconds it may take.
Say: TypeAlias = Callable[[str, float], None]


def open_store(
    state_dir: Path,
    *,
    now_us: int,
    map_bytes: int = MAP_BYTES,
    lock: Path | None = None,
    say: Say = lambda *_: None,
    begun: ChildProcess | None = None,
) -> DaemonDB:
    """Open the store below `state_dir`, repaired, replaced or migrated as needed.

    `lock` is the path of LMDB's lock file, if not beside the data; `begun` an examination
    that is under way.

    Raises `StoreError` for a store that is newer than this software, which is left as it is,
    and where the disk does not even take a new one.
    """
    paths = StorePaths(state_dir)
    with lmdb_env.errors(state_dir, otherwise=StoreErrorKind.UNUSABLE):
        paths.prepare()
        examining = partial(say, "examining daemonDB", child_process.EXAMINE_SECONDS_MAX)
        examining()
        found = (
            child_process.examine(paths.store, examining)
            if begun is None
            else child_process.examination(begun, paths.store, examining)
        )
        match found.condition:
            case Condition.NEWER:
                raise StoreError(f"cannot use {paths.store}: {found.detail}")
            case Condition.NEW if paths.there_was_one():
                _replace(paths, "there is no database, and there was one", map_bytes, now_us, say)
            case Condition.LOST | Condition.DAMAGED:
                _replace(paths, found.detail, map_bytes, now_us, say)
            case Condition.OLDER:
                backing_up = partial(say, "backing daemonDB up", MIGRATION_BACKUP_SECONDS_MAX)
                backing_up()
                files.fill_lock_file(paths.store / "lock.mdb")  # no reader does without
                child_process.back_up(
                    state_dir, seconds_max=MIGRATION_BACKUP_SECONDS_MAX, still=backing_up
                )
                DaemonDB.at(paths.store, map_bytes=map_bytes).close()
                # Its values could not be decoded before.
                found = child_process.examine(paths.store, examining)
        if lock is not None:
            files.keep_lock_at(paths.store, lock)
        db = DaemonDB.at(paths.store, map_bytes=map_bytes)
        if found.damaged or found.faults:
            _repair(db, found, now_us)
    files.warn_if_forgetful(paths.store)
    return db


def _replace(paths: StorePaths, why: str, map_bytes: int, now_us: int, say: Say) -> None:
    log.error("daemonDB cannot be used: %s", why, extra={"event": "store-damaged"})
    restoring = partial(say, "restoring daemonDB", child_process.REPLACE_SECONDS_MAX)
    restoring()
    _tell(
        child_process.replace(
            paths.state_dir, why, map_bytes=map_bytes, now_us=now_us, still=restoring
        )
    )


def _repair(db: DaemonDB, found: Examination, now_us: int) -> None:
    """Keep the incident, then repair: a crash in between reports it twice, and not never."""
    incident = Incident(format_instant(now_us), _what_is_wrong(found))
    try:
        incidents.add(db.store_dir, incident, incidents.read(db.store_dir))
    except OSError as error:
        log.error("Cannot keep what happened to daemonDB: %s", error)
    _tell(incident)
    db.put_aside(found.damaged, now_us=now_us)


def _what_is_wrong(found: Examination) -> str:
    told = []
    if found.damaged:
        count = len(found.damaged)
        tables = ", ".join(sorted({table for table, _ in found.damaged}))
        told.append(f"{count} damaged value{'s' * (count > 1)} put aside, of {tables}")
    if found.faults:
        told.append(f"its indexes were made anew: {found.faults[0]}")
    return "; ".join(told)


def _tell(incident: Incident) -> None:
    log.error(
        "daemonDB: %s",
        incident.detail,
        extra={"event": "store-incident", "aside": incident.set_aside},
    )
