"""py-lmdb, alike in each of its versions: opening, the codes of errors, the verifier of files.

The only importer of `lmdb`. Before version 3 its errors have no code, it has one engine and no
choice of it, and no verifier; 1.4 lets a process open an environment twice (facts L40, L41).
"""

import errno
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import lmdb

from . import files

Environment: TypeAlias = Any  # `lmdb.Environment`: the library has types from version 3 on

Error: type[Exception] = lmdb.Error
NotFoundError: type[Exception] = lmdb.NotFoundError

#: LMDB's own codes follow each other, and each has a class (`lmdb.h`).
_MDB_KEYEXIST = -30799
_MDB_CLASSES = (
    *("KeyExistsError", "NotFoundError", "PageNotFoundError", "CorruptedError", "PanicError"),
    *("VersionMismatchError", "InvalidError", "MapFullError", "DbsFullError", "ReadersFullError"),
    *("TlsFullError", "TxnFullError", "CursorFullError", "PageFullError", "MapResizedError"),
    *("IncompatibleError", "BadRslotError", "BadTxnError", "BadValsizeError", "BadDbiError"),
)
_CODE_OF_CLASS = {name: _MDB_KEYEXIST + number for number, name in enumerate(_MDB_CLASSES)} | {
    "ReadonlyError": errno.EACCES,
    "InvalidParameterError": errno.EINVAL,
    "LockError": errno.EAGAIN,
    "MemoryError": errno.ENOMEM,
    "DiskError": errno.ENOSPC,
}
#: The engine of LMDB 0.9, where there is a choice: never by the environment's (fact L1).
_ENGINE: dict[str, Any] = {"lib_version": 0} if hasattr(lmdb.Environment, "lib_version") else {}


def open_environment(store_dir: Path, **settings: Any) -> Environment:
    """Open an environment with the engine of LMDB 0.9. Raises `Error`, also where this process has
    it open: the first one that is closed would drop the locks of both (fact 1)."""
    if files.is_open_here(store_dir):
        raise Error("this process has it open already")
    return lmdb.open(str(store_dir), **settings, **_ENGINE)


def code_of(error: BaseException | None) -> int:
    """Return LMDB's or the system's code of an error; 0 for one of py-lmdb's own, and for none.

    Where py-lmdb gives no code, its class tells it, or what the system calls it at the end of its
    text (fact L40).
    """
    if isinstance(error, OSError):
        return error.errno or 0
    if not isinstance(error, Error):
        return 0
    given: int = getattr(error, "code", None) or 0
    return given or _CODE_OF_CLASS.get(type(error).__name__, 0) or _named_in(error)


def _named_in(error: Exception) -> int:
    reason = str(error).rpartition(": ")[2]
    return next((code for code in errno.errorcode if os.strerror(code) == reason), 0)


def verify(store_dir: Path) -> str:
    """Return the first structural fault that would kill a process in LMDB (facts 3, L17), else "".

    Always "" where it cannot verify: with a py-lmdb that has no verifier, and on a 32-bit host,
    whose files its verifier does not know. Then our own reader of pages looks at every row, and
    opening tells the rest, in a process that it may kill.
    """
    check = verifier()
    if check is None or not can_verify():
        return ""
    try:
        problems = check(str(store_dir))
    except lmdb.verify.VerifyError as error:
        problems = [str(error)]
    except OSError as error:  # an unreadable sector
        problems = [f"cannot read it: {error.strerror or error}"]
    except (struct.error, ValueError, LookupError, OverflowError) as error:
        problems = [f"the verifier cannot make sense of it: {error}"]
    return problems[0] if problems else ""


def can_verify() -> bool:
    """`verify` knows files of this host, and py-lmdb has what it needs."""
    return sys.maxsize > 2**32 and verifier() is not None


def verifier() -> Callable[[str], list[str]] | None:
    """Import LMDB's verifier and return it; None where py-lmdb has none. Late: a daemon at work has
    no use for it."""
    try:
        import lmdb.verify
    except ModuleNotFoundError as error:
        if error.name != "lmdb.verify":
            raise
        return None
    check: Callable[[str], list[str]] = lmdb.verify.verify
    return check
