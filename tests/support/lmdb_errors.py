"""Errors as py-lmdb raises them for a code, of the version that is there or of an older one."""

import errno
import os

import lmdb

MDB_PAGE_NOTFOUND, MDB_CORRUPTED, MDB_PANIC, MDB_INVALID, MDB_MAP_FULL = (
    *(-30797, -30796, -30795, -30793, -30792),
)
#: Those that have a class of their own, which every version of py-lmdb raises.
CLASSES = {
    MDB_PAGE_NOTFOUND: lmdb.PageNotFoundError,
    MDB_CORRUPTED: lmdb.CorruptedError,
    MDB_PANIC: lmdb.PanicError,
    MDB_INVALID: lmdb.InvalidError,
    MDB_MAP_FULL: lmdb.MapFullError,
    errno.EACCES: lmdb.ReadonlyError,
    errno.EAGAIN: lmdb.LockError,
    errno.ENOMEM: lmdb.MemoryError,
    errno.ENOSPC: lmdb.DiskError,
}
#: From version 3 on.
HAS_CODES = hasattr(lmdb.Environment, "lib_version")


def lmdb_error(code: int, *, has_codes: bool = HAS_CODES) -> lmdb.Error:
    reason = os.strerror(code) if code > 0 else "MDB_…: as if"
    error = CLASSES.get(code, lmdb.Error)(f"mdb_as_if: {reason}")
    if has_codes:
        error.code = code
    return error
