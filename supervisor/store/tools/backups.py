"""Backups of daemonDB: compacted copies of one instant.

A copy is verified, private and durable before it gets its name (facts L19, L21). It is made
in a process of its own, while the daemon works.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ....workers.host.dirfd import make_directory, refuse_exposed
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
    with _place_in(directory) as temporary:
        copy_into(store_dir, temporary, live=live)
        return _put(temporary, directory)


def put(directory: Path, fill: Callable[[int], None]) -> Path:
    """Have a file filled with an examined copy, by its descriptor, and put it into `directory` as
    `make` does; return it. Raises `OSError`, and what `fill` raises."""
    with _place_in(directory) as temporary:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary / "data.mdb", flags, 0o600)
        try:
            fill(descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return _put(temporary, directory)


@contextlib.contextmanager
def _place_in(directory: Path) -> Iterator[Path]:
    """Yield an empty directory of this process's own in `directory`, which is made. Root makes none
    where others could put something in its place (`UntrustedError`), and so may use paths."""
    temporary = directory / f"{_MAKING}{os.getpid()}"
    refuse_exposed(temporary)
    if not directory.is_dir():
        make_directory(directory, 0o700)
    fsync_path(directory.parent)
    files.remove_left(directory, _MAKING)
    files.remove(temporary)
    temporary.mkdir(mode=0o700)
    try:
        yield temporary
    finally:
        files.remove(temporary)


def _put(temporary: Path, directory: Path) -> Path:
    """Rename the copy to its place, durably."""
    made = directory / "data.mdb"
    (temporary / "data.mdb").rename(made)
    fsync_path(directory)
    return made


def copy_into(store_dir: Path, directory: Path, *, live: bool) -> None:
    """Write a sound, private and durable copy to an empty directory.

    Raises `StoreError`, `OSError`.
    """
    with lmdb_env.reading(store_dir, live=live) as env:
        lmdb_env.copy(env, directory)
    fsync_path(directory / "data.mdb")
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
