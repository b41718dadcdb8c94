"""An LMDB that counts what is asked of it, and fails at one of the operations."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import pytest
from geosched.supervisor.store.daemondb import DaemonDB, StoreErrorKind

from support.lmdb_errors import lmdb_error

#: The map is as large as it may be: a full one is told, and not made larger.
SETTINGS = {"map_bytes": 8 * 1024**2, "outbox_rows_max": 8}
MDB_MAP_FULL, MDB_PANIC = -30792, -30795
NAMES = errno.errorcode | {MDB_MAP_FULL: "MAP_FULL", MDB_PANIC: "PANIC"}


@dataclass(frozen=True)
class Fault:
    """What an operation fails with, and what daemonDB has to make of it."""

    code: int
    kind: StoreErrorKind
    disk_full: bool = False
    lasts: bool = False  # nothing works any more until the store is opened again

    @property
    def fatal(self) -> bool:
        return self.kind is StoreErrorKind.IO

    def __str__(self) -> str:
        on = "-on-a-full-disk" if self.disk_full else ""
        return f"{NAMES[self.code]}{on}"


FAULTS = [
    Fault(errno.ENOSPC, StoreErrorKind.FULL, disk_full=True),
    Fault(errno.EIO, StoreErrorKind.FULL, disk_full=True),
    Fault(errno.EROFS, StoreErrorKind.READ_ONLY),
    Fault(MDB_MAP_FULL, StoreErrorKind.MAP_FULL),
    Fault(errno.EIO, StoreErrorKind.IO),
    Fault(MDB_PANIC, StoreErrorKind.IO, lasts=True),
]


class Trouble:
    """Counts operations, and makes one of them fail."""

    def __init__(self) -> None:
        self.operations = 0
        self._at = 0
        self._fault: Fault | None = None

    def expect(self, fault: Fault, at: int) -> None:
        self.operations, self._at, self._fault = 0, at, fault

    def over(self) -> None:
        self._fault = None

    def operation(self) -> None:
        self.operations += 1
        if self._fault is None:
            return
        if self.operations == self._at or (self._fault.lasts and self.operations > self._at):
            raise lmdb_error(self._fault.code)


class TroubledEnvironment:
    def __init__(self, real: Any, trouble: Trouble) -> None:
        self.real = real
        self._trouble = trouble

    def begin(self, *, write: bool = False) -> "TroubledTransaction":
        self._trouble.operation()
        return TroubledTransaction(self.real.begin(write=write), self._trouble, write)

    def open_db(self, name: bytes, txn: "TroubledTransaction | None" = None, **how: Any) -> Any:
        self._trouble.operation()
        return self.real.open_db(name, txn=txn.real if txn is not None else None, **how)

    def stat(self) -> Any:
        self._trouble.operation()
        return self.real.stat()

    def reader_check(self) -> int:
        self._trouble.operation()
        return int(self.real.reader_check())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class TroubledTransaction:
    """After a failure it takes nothing any more, its commit included, as the real one does."""

    def __init__(self, real: Any, trouble: Trouble, write: bool) -> None:
        self.real = real
        self._trouble = trouble
        self._write = write
        self._dead = False

    def operation(self) -> None:
        if self._dead:
            raise lmdb.BadTxnError("it has failed before")
        try:
            self._trouble.operation()
        except lmdb.Error:
            self._dead = True
            raise

    def __enter__(self) -> "TroubledTransaction":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        try:
            if kind is None and self._write:
                self.operation()
                self.real.commit()
        finally:
            self.real.abort()  # of what was committed it is nothing

    def get(self, key: bytes, *, db: Any) -> bytes | None:
        self.operation()
        value: bytes | None = self.real.get(key, db=db)
        return value

    def put(self, key: bytes, value: bytes, **how: Any) -> bool:
        self.operation()
        return bool(self.real.put(key, value, **how))

    def delete(self, key: bytes, *, db: Any) -> bool:
        self.operation()
        return bool(self.real.delete(key, db=db))

    def stat(self, db: Any) -> Any:
        self.operation()
        return self.real.stat(db)

    def cursor(self, db: Any) -> "TroubledCursor":
        self.operation()
        return TroubledCursor(self.real.cursor(db), self)


class TroubledCursor:
    def __init__(self, real: Any, transaction: TroubledTransaction) -> None:
        self._real = real
        self._transaction = transaction

    def last(self) -> bool:
        self._transaction.operation()
        return bool(self._real.last())

    def set_range(self, key: bytes, /) -> bool:
        self._transaction.operation()
        return bool(self._real.set_range(key))

    def key(self) -> bytes:
        return bytes(self._real.key())

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        for row in self._real:
            self._transaction.operation()
            yield row

    def __enter__(self) -> "TroubledCursor":
        return self

    def __exit__(self, *_: object) -> None:
        self._real.close()


def opened(state_dir: Path, trouble: Trouble) -> DaemonDB:
    real_open = lmdb.open

    def open_troubled(*place: Any, **settings: Any) -> TroubledEnvironment:
        # Not flushed: thousands of commits, and what is tried here is not the disk.
        return TroubledEnvironment(real_open(*place, **settings, sync=False), trouble)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lmdb, "open", open_troubled)
        db = DaemonDB.open(state_dir, **SETTINGS)
    assert isinstance(db._env, TroubledEnvironment)
    return db
