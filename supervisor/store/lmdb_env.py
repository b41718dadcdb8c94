"""LMDB environments: opening, copying, measuring; LMDB's errors as ours.

It knows no table and no record; `py_lmdb.py` knows the library's versions. An environment is
opened by the supervisor, for all its work (law 1), and by short-lived processes that only read:
because a damaged file kills the process that maps it (fact 3), and because copying a store takes
longer than a turn of the loop may.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from . import files, py_lmdb
from .errors import KIND_OF_CODE, StoreError, StoreErrorKind
from .py_lmdb import Environment

OpenTable: TypeAlias = Callable[[bytes], Any]

TABLES_MAX = 16
READERS_MAX = 8
#: Follows the head of the first page, which is longer in files of LMDB 1.0 (fact L1).
_MAGIC = (0xBEEFC0DE).to_bytes(4, sys.byteorder)
_HEAD_BYTES_OF_1_0 = 24
_MDB_PANIC = -30795
#: MDB_PAGE_NOTFOUND, MDB_CORRUPTED, MDB_PANIC, MDB_VERSION_MISMATCH, MDB_INVALID,
#: MDB_INCOMPATIBLE, MDB_BAD_DBI.
_DAMAGE_CODES = (-30797, -30796, -30795, -30794, -30793, -30784, -30780)


@contextlib.contextmanager
def errors(store_dir: Path, *, otherwise: StoreErrorKind = StoreErrorKind.IO) -> Iterator[None]:
    """Raise LMDB's and the system's errors as `StoreError`, by their code (facts 5, 8, L14 to
    L16); of kind `otherwise` for codes that mean nothing certain. Errors of py-lmdb itself have
    no code."""
    try:
        yield
    except (py_lmdb.Error, OSError) as error:
        raise _store_error(error, store_dir, otherwise) from error


def _store_error(error: Exception, store_dir: Path, otherwise: StoreErrorKind) -> StoreError:
    code = py_lmdb.code_of(error)
    kind = KIND_OF_CODE.get(code, otherwise)
    if code == errno.EIO and files.is_full(store_dir):
        kind = StoreErrorKind.FULL  # a short write (fact 5)
    # Readers lock LMDB's lock file at their own pids (fact L34).
    taken = f" (a process that has pid {os.getpid()} in another PID namespace reads it)"
    told = taken if code == errno.EAGAIN else ""
    return StoreError(f"cannot use {store_dir}: {error}{told}", kind=kind)


def tells_of_damage(error: StoreError) -> bool:
    """LMDB itself found that a file is not as it wrote it."""
    return py_lmdb.code_of(error.__cause__) in _DAMAGE_CODES


# --- opening ----------------------------------------------------------------------------


def open_for_writing(store_dir: Path, map_bytes: int) -> Environment:
    """Open an environment that was examined (`repair/examine.py`), or make one."""
    env = py_lmdb.open_environment(
        store_dir,
        map_size=map_bytes,  # LMDB takes more where the data needs more (fact L14)
        max_dbs=TABLES_MAX,
        max_readers=READERS_MAX,
        max_spare_txns=1,
        mode=0o600,
    )
    files.close_on_exec(store_dir)
    return env


def given_up(env: Environment) -> bool:
    """LMDB takes no transactions in it any more, until it is opened anew."""
    try:
        with env.begin():
            return False
    except py_lmdb.Error as error:
        if py_lmdb.code_of(error) != _MDB_PANIC:
            raise
        return True


def _open_for_reading(store_dir: Path, *, live: bool) -> Environment:
    """Open an environment; `live`: a daemon may write to it, so LMDB has to know this reader."""
    try:
        return _open_with(store_dir, live=live, map_bytes=0)  # the size its writer gave it
    except py_lmdb.Error as error:
        if py_lmdb.code_of(error) != errno.ENOMEM:
            raise
    return _open_with(store_dir, live=live, map_bytes=files.data_bytes(store_dir))


def _open_with(store_dir: Path, *, live: bool, map_bytes: int) -> Environment:
    return py_lmdb.open_environment(
        store_dir,
        create=False,
        readonly=True,
        map_size=map_bytes,
        lock=live,
        max_dbs=TABLES_MAX,
        max_readers=READERS_MAX,
        readahead=False,
        mode=0o600,  # of a lock file that is missing
    )


@contextlib.contextmanager
def reading(store_dir: Path, *, live: bool) -> Iterator[Environment]:
    """Open an environment for a block. Raises `StoreError`, also for LMDB's errors in the block."""
    with errors(store_dir):
        if live:
            files.require_lock_file(store_dir)
        env = _open_for_reading(store_dir, live=live)
    with env:
        try:
            if live:
                env.reader_check()  # those that were killed would pin their pages (fact 7)
            yield env
        except py_lmdb.Error as error:
            raise _store_error(error, store_dir, StoreErrorKind.IO) from error


def tables_of(env: Environment, txn: Any) -> OpenTable:
    """Return a function that opens a table inside a write transaction, or makes it."""
    return lambda name: env.open_db(name, txn=txn)


def existing_table(env: Environment, name: bytes) -> Any | None:
    """Return the handle of a table, None where there is none."""
    try:
        return env.open_db(name, create=False)
    except py_lmdb.NotFoundError:
        return None


def is_empty(env: Environment) -> bool:
    """The environment has no table."""
    return not env.stat()["entries"]


# --- a file, without opening it ---------------------------------------------------------


def made_by_newer_lmdb(store_dir: Path) -> bool:
    """The file was written by LMDB 1.0: it is sound, and this software may not touch it."""
    with (store_dir / "data.mdb").open("rb") as file:
        try:
            head = file.read(_HEAD_BYTES_OF_1_0 + len(_MAGIC))
        except OSError:
            return False  # an unreadable sector: the verifier says so
    return head.find(_MAGIC) == _HEAD_BYTES_OF_1_0


# --- copies and figures -----------------------------------------------------------------


def copy(env: Environment, directory: Path) -> None:
    """Write a compacted copy of one instant to an empty directory: private from its first byte,
    and not durable yet (fact L19)."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(directory / "data.mdb", flags, 0o600)
    try:
        env.copyfd(descriptor, compact=True)
    finally:
        os.close(descriptor)


class Room(msgspec.Struct, frozen=True):
    """Sizes of an environment; `used_bytes` are in pages that cannot be written over."""

    map_bytes: int
    used_bytes: int
    page_bytes: int

    @property
    def used_share(self) -> float:
        return self.used_bytes / self.map_bytes


def room(env: Environment, txn: Any, tables: Any) -> Room:
    """Measure an environment by the pages of `tables`: LMDB keeps no count of its free ones."""
    info, main = env.info(), env.stat()
    used = sum(map(pages, (main, *(txn.stat(table) for table in tables))), 2)
    return Room(int(info["map_size"]), used * int(main["psize"]), int(main["psize"]))


def pages(stat: dict[str, int]) -> int:
    """Return the number of pages of a table."""
    return stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
