"""Where daemonDB lies on disk: its directory, its marker, its file system. Knows no table.

Nothing here is ever written over a store that is there: what is doubtful is refused, with
one line that says what and why.
"""

import os
from pathlib import Path

#: No shared writable maps, or no locks, or no truth after a crash (fact L10).
REFUSED_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "jffs2"})


class StoreError(Exception):
    """daemonDB cannot be used. `fatal`: no waiting helps, the daemon leaves with code 4."""

    def __init__(self, message: str, *, fatal: bool = True) -> None:
        super().__init__(message)
        self.fatal = fatal


class MapFullError(Exception):
    """The map is full; it may grow."""


def prepare(state_dir: Path) -> Path:
    """The directory of the store, made where it is missing (0700, fact L24).

    Raises `StoreError` where a store was and is no more: that is loss, not a first start.
    """
    place = state_dir / "daemondb"
    kind = file_system(state_dir)
    if kind in REFUSED_FILE_SYSTEMS:
        raise StoreError(f"cannot keep daemonDB in {state_dir}: {kind} cannot hold it")
    place.mkdir(mode=0o700, exist_ok=True)
    data = place / "data.mdb"
    empty = data_bytes(place) == 0
    if empty and _marker(place).exists():
        raise StoreError(f"cannot use {data}: it is missing or empty, and it was not before")
    if empty and data.exists():
        data.unlink()  # left by a full disk at the very first start (fact L15)
    return place


def data_bytes(place: Path) -> int:
    try:
        return (place / "data.mdb").stat().st_size
    except FileNotFoundError:
        return 0


def mark_initialised(place: Path) -> None:
    """Make the new store durable, then say so beside it (fact L9)."""
    marker = _marker(place)
    if marker.exists():
        return
    for path in (place / "data.mdb", place, place.parent):
        _sync(path)
    marker.touch(mode=0o600)
    _sync(place)


def close_on_exec(place: Path) -> None:
    """LMDB leaves its data file open across exec (fact 9): no child may inherit it."""
    data = os.fspath((place / "data.mdb").resolve())
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == data:
                os.set_inheritable(int(name), False)
        except FileNotFoundError:
            continue  # the descriptor of the listing itself


def is_full(place: Path) -> bool:
    """Whether the file system has no room left: LMDB often says EIO for it (fact 5)."""
    free = os.statvfs(place)
    return free.f_bavail * free.f_frsize < 64 * 1024


def file_system(directory: Path) -> str:
    """The kind of file system a directory is on, by the longest mount point above it."""
    path = os.path.realpath(directory)
    best, kind = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            fields = line.split()
            point = fields[4].encode().decode("unicode_escape")
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, fields[fields.index("-") + 1]
    return kind


def _marker(place: Path) -> Path:
    return place / "initialised"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
