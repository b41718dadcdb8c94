"""A real daemonDB for tests: opened, filled, and spoiled behind its back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from geosched.supervisor.core.lifecycle import decide, first_seen
from geosched.supervisor.core.model import Change, Due
from geosched.supervisor.store import py_lmdb
from geosched.supervisor.store.daemondb import DaemonDB

from support.build import BEFORE, NOW, RULES, action

LONG_NAMES = tuple(f"app number {n}" for n in range(100))


class Opener:
    """Opens the store of a test; a second call is a restart."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._store: DaemonDB | None = None

    def __call__(self, **settings: Any) -> DaemonDB:
        self.close()
        self._store = DaemonDB.open(self._state_dir, **settings)
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = None


def seen(action_id: str = "a", **changes: Any) -> Change:
    return first_seen(action(action_id, **changes), BEFORE, RULES)


def add(db: DaemonDB, *ids: str, **changes: Any) -> None:
    assert all(db.commit([seen(i, **changes) for i in ids], report=True).won)


def happen(db: DaemonDB, action_id: str, event: Any, now: Any = NOW) -> Change:
    """Decide and commit what an event means for a stored action."""
    change = decided(db, action_id, event, now)
    assert db.commit([change], report=True).won == (True,)
    return change


def decided(db: DaemonDB, action_id: str, event: Any, now: Any = NOW) -> Change:
    record = db.read(action_id)
    assert record is not None
    change = decide(record, event, now, RULES)
    assert change is not None
    return change


def start(db: DaemonDB, *ids: str) -> None:
    for action_id in ids:
        happen(db, action_id, Due(slot_free=True, worker_free=True))


def all_edges(db: DaemonDB) -> list[tuple[int, bytes]]:
    return db.due(None, 2**63 - 1, 10_000)


def data_file(state_dir: Path) -> Path:
    return state_dir / "daemondb" / "data.mdb"


def on_disk(state_dir: Path, table: str, change: Callable[[Any, Any], None]) -> None:
    """Do something to a table that the product would not; its store must be closed."""
    with py_lmdb.open_environment(state_dir / "daemondb", max_dbs=16) as env:
        handle = env.open_db(table.encode())
        with env.begin(write=True) as txn:
            change(txn, handle)


def flip(table: str, key: bytes, state_dir: Path, *, byte: int = -1) -> None:
    """Change one byte of a stored value, as a tired flash does."""

    def change(txn: Any, handle: Any) -> None:
        value = bytearray(txn.get(key, db=handle))
        value[byte] ^= 0x40
        txn.put(key, bytes(value), db=handle)

    on_disk(state_dir, table, change)


def contents(env: Any) -> dict[str, dict[bytes, bytes]]:
    """Everything that is in the tables of an environment."""
    with env.begin() as txn, txn.cursor() as names:
        tables = {name: env.open_db(name, txn=txn, create=False) for name, _ in names}
        return {name.decode(): dict(txn.cursor(table)) for name, table in tables.items()}


def transactions(db: DaemonDB) -> int:
    """The number of the last write transaction that wrote anything."""
    return int(db._env.info()["last_txnid"])
