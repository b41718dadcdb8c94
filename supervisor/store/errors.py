"""Errors of daemonDB, and their kinds by remedy."""

import enum
import errno


class StoreErrorKind(enum.StrEnum):
    """The cause of a failure of daemonDB, by what helps against it."""

    UNUSABLE = "unusable"  # damaged, newer than this software, or not ours
    IO = "io"  # the device fails: leave, and let the next start check the store
    MAP_FULL = "map-full"  # it has grown to its bound
    FULL = "full"  # no room on the file system
    READ_ONLY = "read-only"  # the file system was made read-only


_WAITED_OUT = (StoreErrorKind.MAP_FULL, StoreErrorKind.FULL, StoreErrorKind.READ_ONLY)


#: LMDB's own code, next to the system's.
_MDB_MAP_FULL = -30792
KIND_OF_CODE = {
    _MDB_MAP_FULL: StoreErrorKind.MAP_FULL,
    errno.ENOSPC: StoreErrorKind.FULL,
    errno.EDQUOT: StoreErrorKind.FULL,
    errno.EFBIG: StoreErrorKind.FULL,
    errno.ENOMEM: StoreErrorKind.FULL,  # no room for a larger map
    errno.EROFS: StoreErrorKind.READ_ONLY,
    errno.EIO: StoreErrorKind.IO,  # or a file that may not grow: see `lmdb_env.py`
}


class StoreError(Exception):
    """daemonDB cannot be used, or cannot be written now."""

    def __init__(self, message: str, *, kind: StoreErrorKind = StoreErrorKind.UNUSABLE) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def fatal(self) -> bool:
        """No waiting helps: the daemon leaves with code 4."""
        return self.kind not in _WAITED_OUT
