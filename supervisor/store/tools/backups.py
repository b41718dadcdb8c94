"""Backups of daemonDB: compacted copies of one instant.

A copy is verified, private and durable before it gets its name (facts L19, L21). It is made
in a process of its own, while the daemon works.
"""

import os
from pathlib import Path

from ....workers.host.files import fsync_path
from .. import files, lmdb_env
from ..errors import StoreError
from ..repair.examine import examine

#: The daemon's own backups that are kept, the newest.
KEPT = 2
_MAKING = ".making-"


def generations(backups: Path) -> list[Path]:
    """Return the directories of the daemon's own backups, oldest first."""
    return files.numbered(backups, "")


def make(store_dir: Path, directory: Path, *, live: bool) -> Path:
    """Copy the store in `store_dir` into `directory`, which is made; return the file.

    An older copy there is replaced at the end, by a sound one only. Raises `StoreError`,
    `OSError`.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    fsync_path(directory.parent)
    files.remove_left(directory, _MAKING)
    temporary = directory / f"{_MAKING}{os.getpid()}"
    files.remove(temporary)
    temporary.mkdir(mode=0o700)
    try:
        copy_into(store_dir, temporary, live=live)
        made = temporary / "data.mdb"
        made.rename(directory / "data.mdb")
        fsync_path(directory)
    finally:
        files.remove(temporary)
    return directory / "data.mdb"


def copy_into(store_dir: Path, directory: Path, *, live: bool) -> None:
    """Write a sound, private and durable copy to an empty directory.

    Raises `StoreError`, `OSError`.
    """
    with lmdb_env.reading(store_dir, live=live) as env:
        lmdb_env.copy(env, directory)
    made = directory / "data.mdb"
    made.chmod(0o600)
    fsync_path(made)
    found = examine(directory)
    if not found.usable:
        raise StoreError(f"cannot use the copy in {directory}: {found.detail}")


def make_own(store_dir: Path, backups: Path, *, live: bool) -> Path:
    """Make the daemon's next own backup and remove the oldest beyond `KEPT`; return its directory.

    Raises `StoreError`, `OSError`.
    """
    backups.mkdir(mode=0o700, exist_ok=True)
    for half in backups.glob(".*"):
        files.remove(half)
    known = generations(backups)
    number = files.number_of(known[-1]) + 1 if known else 1
    making = backups / f".{number}"
    make(store_dir, making, live=live)
    files.rename(making, backups / str(number))
    for old in generations(backups)[:-KEPT]:
        files.remove(old)
    return backups / str(number)
