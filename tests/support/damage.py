"""A store to damage: what it holds, what lies where in it, and what must come of it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geosched.supervisor.core.model import RunEnded
from geosched.supervisor.store.daemondb import DaemonDB, MetaUpdate
from geosched.supervisor.store.tables.codec import action_key
from geosched.supervisor.store.tools import backups

from support.build import result
from support.layout import Layout, zero
from support.openings import MAP_BYTES, Opened, Openings
from support.store import LONG_NAMES, add, data_file, happen, on_disk, start

ACTIONS = 60
RECORDS = ("actions", "details")
SEED = 20261123


@dataclass
class Base:
    """A sound store, what it holds, which page of it holds what; two backups of it; and who
    opens the copies that tests spoil."""

    state_dir: Path
    backups: Path
    forked: Openings
    executed: Openings
    layout: Layout
    holds: Opened
    held: dict[str, Opened]  # by its backups

    def copy(self, to: Path, *, backed_up: bool = False) -> Path:
        shutil.copytree(self.state_dir, to)
        if backed_up:
            shutil.copytree(self.backups, to / "backups")
        return to

    def on(self, page: int) -> set[str]:
        """Ids of the actions that lie on a page, or partly do."""
        lost = self.layout.keys[page] if self.layout.tables.get(page) in RECORDS else set()
        return {each for each in self.holds.actions if action_key(each) in lost}


def make_store(state_dir: Path, kept: Path) -> None:
    """Two backups are older than what it holds at last."""
    ids = [f"action number {n:02}" for n in range(ACTIONS)]
    with closing(DaemonDB.open(state_dir, map_bytes=MAP_BYTES)) as db:
        for batch in range(0, ACTIONS, 10):
            names = LONG_NAMES if batch == 20 else ("Chrome", "Steam")
            add(db, *ids[batch : batch + 10], app_names=names)
        add(db, "with long args", args='"' + "x" * 9000 + '"')
        start(db, *ids[:20])
    backups.make_own(state_dir / "daemondb", kept, live=False)
    with closing(DaemonDB.open(state_dir, map_bytes=MAP_BYTES)) as db:
        for number, action_id in enumerate(ids[:14]):
            end(db, action_id, exit_code=number % 2 * 3)
        db.settle_reports([number for number, _ in db.outbox_pending(8)], [])
    backups.make_own(state_dir / "daemondb", kept, live=False)
    with closing(DaemonDB.open(state_dir, map_bytes=MAP_BYTES)) as db:
        end(db, ids[14], exit_code=0)
        start(db, *ids[20:26])
        for etag in ("e7", "e8", "e9"):  # in both snapshots of the file the actions are the same
            db.commit([], report=True, meta=MetaUpdate(etag=etag))
    (state_dir / "daemondb" / "lock.mdb").unlink()


def end(db: DaemonDB, action_id: str, *, exit_code: int) -> None:
    run = db.read(action_id).state.run
    happen(db, action_id, RunEnded(result(run_id=run.run_id, exit_code=exit_code)))


@dataclass(frozen=True)
class Fixture:
    name: str
    state_dir: Path
    lost: frozenset[str] = frozenset()  # actions that may be missing, or be as in the backup


def fixtures_of(
    base: Base, root: Path, spoil: Callable[[Path, int], None], **how: Any
) -> list[Fixture]:
    """One for each page in use."""
    made = []
    for page in range(base.layout.pages):
        state_dir = base.copy(root / str(page), **how)
        spoil(data_file(state_dir), page)
        name = f"page {page} ({base.layout.tables.get(page, 'free')})"
        made.append(Fixture(name, state_dir, frozenset(base.on(page))))
    return made


def check_all(base: Base, fixtures: list[Fixture], *, backup: str = "") -> list[Opened]:
    """Whatever was done to it, the store is one afterwards, and what was not lost is exact."""
    found = [base.forked.open(fixture.state_dir, use=True) for fixture in fixtures]
    wrong = {}
    for fixture, store in zip(fixtures, found, strict=True):
        if problems := list(problems_of(base, fixture, store, backup)):
            wrong[fixture.name] = problems
    assert wrong == {}
    return found


def problems_of(base: Base, fixture: Fixture, store: Opened, backup: str) -> Iterator[str]:
    if store.error:
        yield store.error
        return
    older = base.held[backup].actions if backup else {}
    for each, was in base.holds.actions.items():
        now = store.actions.get(each)
        allowed = [was, older.get(each), None] if each in fixture.lost else [was]
        if now not in allowed:
            yield f"{each}: {was} became {now}"
    if extra := store.actions.keys() - base.holds.actions.keys():
        yield f"nobody ever knew {extra}"
    yield from store.unsound
    yield from store.modes
    if store.last_sequence < base.holds.last_sequence:
        yield f"sequence {store.last_sequence} after {base.holds.last_sequence}"
    if store.incidents and store.incidents[-1].set_aside:
        if store.generation == base.holds.generation or store.etag:
            yield "it is another store, and takes itself for the old one"
        if not store.set_aside:
            yield "it was not set aside"
    elif store.generation != base.holds.generation and not store.incidents:
        yield "a new generation, and nobody is told"
    if not store.incidents and store.actions != base.holds.actions:
        yield "something is missing, and nobody is told"


def last_row(state_dir: Path, table: str) -> tuple[bytes, bytes]:
    found = []

    def look(txn: Any, handle: Any) -> None:
        with txn.cursor(handle) as at:
            assert at.last()
            found.append(at.item())

    on_disk(state_dir, table, look)
    return found[0]


def put(state_dir: Path, table: str, key: bytes, value: bytes) -> None:
    on_disk(state_dir, table, lambda txn, handle: txn.put(key, value, db=handle))


def damage_value(state_dir: Path, table: str) -> None:
    key, value = last_row(state_dir, table)
    put(state_dir, table, key, value[:-1] + bytes([value[-1] ^ 1]))


def spoil_a_page(state_dir: Path) -> None:
    """One without which LMDB opens nothing; nothing else is lost with it."""
    zero(data_file(state_dir), 0)
