"""Where daemonDB lies on disk: its directory, its marker, its file system. Knows no table.

Nothing here is ever written over a store that is there: what is doubtful is refused, with
one line that says what and why (law 10).
"""

import enum
import errno
import logging
import os
import re
from pathlib import Path

log = logging.getLogger(__name__)

#: No shared writable maps, or no locks, or no truth after a crash (fact L10).
REFUSED_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "jffs2"})
#: What is kept there is gone after a power cut, or may be (fact L10).
FORGETFUL_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "overlay"})
#: Below this a file system has no room for a commit: LMDB then often says EIO (fact 5).
FREE_BYTES_MIN = 64 * 1024
#: What LMDB makes of its lock file. A sparse one is SIGBUS on a full disk (fact 4).
LOCK_BYTES = 8192
_MARKER_TEXT = "daemonDB was made here. If data.mdb is missing or empty, it was lost.\n"

_OCTAL = re.compile(rb"\\([0-7]{3})")


class StoreErrorKind(enum.StrEnum):
    """What is wrong with daemonDB, by what helps."""

    UNUSABLE = "unusable"  # damaged, newer than this software, or not ours
    IO = "io"  # the device fails: leave, and let the next start check the store
    MAP_FULL = "map-full"  # it has grown to its bound
    FULL = "full"  # no room on the file system
    READ_ONLY = "read-only"  # the file system was made read-only


_WAITED_OUT = (StoreErrorKind.MAP_FULL, StoreErrorKind.FULL, StoreErrorKind.READ_ONLY)


#: LMDB's own code, next to the system's.
_MDB_MAP_FULL = -30792
_KIND_OF_CODE = {
    _MDB_MAP_FULL: StoreErrorKind.MAP_FULL,
    errno.ENOSPC: StoreErrorKind.FULL,
    errno.EDQUOT: StoreErrorKind.FULL,
    errno.EFBIG: StoreErrorKind.FULL,
    errno.ENOMEM: StoreErrorKind.FULL,  # no room for a larger map
    errno.EROFS: StoreErrorKind.READ_ONLY,
    errno.EIO: StoreErrorKind.IO,
}


class StoreError(Exception):
    """daemonDB cannot be used, or cannot be written now."""

    def __init__(self, message: str, *, kind: StoreErrorKind = StoreErrorKind.UNUSABLE) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def fatal(self) -> bool:
        """Whether no waiting helps: the daemon leaves with code 4."""
        return self.kind not in _WAITED_OUT


def prepare(state_dir: Path) -> Path:
    """The directory of the store, made where it is missing (0700, fact L24).

    Raises `StoreError` where a store was and is no more: that is loss, not a first start;
    and `OSError` where the directory cannot be made or looked at.
    """
    place = state_dir / "daemondb"
    for directory in (state_dir, place):
        directory.mkdir(mode=0o700, exist_ok=True)
    kind = file_system(place)
    if kind in REFUSED_FILE_SYSTEMS:
        raise StoreError(f"cannot keep daemonDB in {place}: {kind} cannot hold it")
    if data_bytes(place) == 0:
        data = place / "data.mdb"
        if initialised(place):
            raise StoreError(f"cannot use {data}: it is missing or empty, and it was not before")
        data.unlink(missing_ok=True)  # left by a full disk at the very first start (fact L15)
    _fill_lock_file(place / "lock.mdb")
    return place


def data_bytes(place: Path) -> int:
    try:
        return (place / "data.mdb").stat().st_size
    except FileNotFoundError:
        return 0


def initialised(place: Path) -> bool:
    """Whether a store was once made here, whatever is left of it."""
    return _marker(place).exists()


def mark_initialised(place: Path) -> None:
    """Make the new store durable, then say so beside it (fact L9)."""
    if initialised(place):
        return
    for path in (place / "data.mdb", place, place.parent):
        _sync(path)
    descriptor = os.open(_marker(place), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, _MARKER_TEXT.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _sync(place)


def close_on_exec(place: Path) -> None:
    """LMDB leaves its data file open across exec (fact 9): no child may inherit it."""
    data = (place / "data.mdb").stat()
    for name in os.listdir("/proc/self/fd"):
        try:
            found = os.fstat(int(name))
        except OSError:
            continue  # the descriptor of the listing itself
        if os.path.samestat(found, data):
            os.set_inheritable(int(name), False)


def is_full(place: Path) -> bool:
    """False also where the file system does not even say how much is free."""
    try:
        free = os.statvfs(place)
    except OSError:
        return False
    return free.f_bavail * free.f_frsize < FREE_BYTES_MIN


def kind_of_code(code: int, place: Path) -> StoreErrorKind | None:
    """What a code of LMDB or of the system means for the store; None where nothing certain."""
    if code == errno.EIO and is_full(place):
        return StoreErrorKind.FULL  # a short write (fact 5)
    return _KIND_OF_CODE.get(code)


def file_system(directory: Path) -> str:
    """The kind of file system a directory is on, by the longest mount point above it."""
    path = os.fsencode(os.path.realpath(directory))
    longest, kind = b"", b""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split()
        point = _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), fields[4])
        inside = path == point or path.startswith(point.rstrip(b"/") + b"/")
        if inside and len(point) >= len(longest):
            longest, kind = point, fields[fields.index(b"-") + 1]
    return kind.decode()


def warn_if_forgetful(place: Path) -> None:
    kind = file_system(place)
    if kind in FORGETFUL_FILE_SYSTEMS:
        log.warning(
            "What daemonDB keeps in %s may not outlive a reboot: it is on %s",
            place,
            kind,
            extra={"event": "store-not-durable"},
        )


def _marker(place: Path) -> Path:
    return place / "initialised"


def _fill_lock_file(lock: Path) -> None:
    """Give the lock file its blocks while it is nobody's.

    One that has them is left alone: opening and closing it in a process that holds the
    store would drop LMDB's locks (fact 1).
    """
    if lock.exists() and lock.stat().st_blocks * 512 >= LOCK_BYTES:
        return
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, LOCK_BYTES)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
