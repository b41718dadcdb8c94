"""Backups of daemonDB: where they lie, and how one is made and told good.

A backup is a compacted copy of one instant, verified, private and durable before it has its
name (facts L19, L21). It is made in a process of its own, while the daemon goes on.
"""

import os
from pathlib import Path

from . import environment, storefile
from .examination import examine
from .storefile import StoreError

KEPT = 2
_MAKING = ".making-"


def generations(backups: Path) -> list[Path]:
    """The daemon's own backups, oldest first."""
    return storefile.numbered(backups, "")


def make(place: Path, directory: Path, *, live: bool) -> Path:
    """Copy the store in `place` into `directory`, which is made; the file it is in then. One
    that is there gives way at the end, to a good one only. Raises `StoreError`, `OSError`."""
    directory.mkdir(mode=0o700, exist_ok=True)
    storefile.sync(directory.parent)
    storefile.remove_left(directory, _MAKING)
    temporary = directory / f"{_MAKING}{os.getpid()}"
    storefile.remove(temporary)
    temporary.mkdir(mode=0o700)
    try:
        copy_into(place, temporary, live=live)
        made = temporary / "data.mdb"
        made.rename(directory / "data.mdb")
        storefile.sync(directory)
    finally:
        storefile.remove(temporary)
    return directory / "data.mdb"


def copy_into(place: Path, directory: Path, *, live: bool) -> None:
    """A good copy in an empty directory of ours."""
    with environment.reading(place, live=live) as env:
        environment.copy(env, directory)
    made = directory / "data.mdb"
    made.chmod(0o600)
    storefile.sync(made)
    found = examine(directory)
    if not found.usable:
        raise StoreError(f"cannot use the copy in {directory}: {found.detail}")


def make_own(place: Path, backups: Path, *, live: bool) -> Path:
    """The next of the daemon's own; the oldest beyond those kept go."""
    backups.mkdir(mode=0o700, exist_ok=True)
    for half in backups.glob(".*"):
        storefile.remove(half)
    known = generations(backups)
    number = storefile.number_of(known[-1]) + 1 if known else 1
    making = backups / f".{number}"
    make(place, making, live=live)
    storefile.rename(making, backups / str(number))
    for old in generations(backups)[:-KEPT]:
        storefile.remove(old)
    return backups / str(number)
