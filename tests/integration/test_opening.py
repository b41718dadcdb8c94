"""A store is opened whatever has become of its file: nothing dies of it, what could be read
is there, and what happened is told. README, "The database", row by row.
"""

import errno
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import lmdb
import pytest
from geosched.supervisor.core.model import RunEnded
from geosched.supervisor.store import files
from geosched.supervisor.store.daemondb import DaemonDB, MetaUpdate
from geosched.supervisor.store.files import Places
from geosched.supervisor.store.tables import migrations
from geosched.supervisor.store.tables.codec import action_key
from geosched.supervisor.store.tools import backups, replace
from support.build import NOW_US, result
from support.layout import PAGE_BYTES, PAGE_HEAD_BYTES, Layout, flip, rows_on, scramble_head, zero
from support.mounts import ext4, fill, mounted
from support.openings import MAP_BYTES, Opened, Openings
from support.store import LONG_NAMES, add, data_file, happen, on_disk, start

ACTIONS = 60
RECORDS = ("actions", "details")
FLIPS = 100
#: Of a page that says where the tables are, what is used.
HEAD_BYTES = 152
ROWS_PER_PAGE, ROW_HEAD_BYTES = 1, 8
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


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    root = tmp_path_factory.mktemp("base")
    with closing(Openings()) as forked, closing(Openings(executed=True)) as executed:
        state_dir, kept = root / "state", root / "backups"
        make_store(state_dir, kept)
        held = {}
        for backup in ("1", "2"):
            shutil.copytree(kept / backup, root / f"of-{backup}" / "daemondb")
            held[backup] = forked.open(root / f"of-{backup}")
        shutil.copytree(state_dir, root / "copy")
        holds = forked.open(root / "copy")
        assert (holds.error, holds.unsound, len(holds.actions)) == ("", [], ACTIONS + 1)
        layout = Layout(data_file(state_dir))
        yield Base(state_dir, kept, forked, executed, layout, holds, held)


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


# --- each page ---------------------------------------------------------------------------


@pytest.mark.parametrize("backup", ["", "2"], ids=["no-backup", "backup"])
def test_a_page_of_zeros_costs_what_was_on_it(base, tmp_path, backup):
    fixtures = fixtures_of(base, tmp_path, zero, backed_up=bool(backup))
    found = check_all(base, fixtures, backup=backup)
    for page, store in enumerate(found):
        known = base.layout.tables.get(page, "free")
        if page in base.layout.inside_values:
            assert store.incidents[0].detail == "1 damaged value put aside, of details"
        else:
            assert bool(store.set_aside) == (known != "free"), fixtures[page].name
            assert not backup or len(store.actions) == ACTIONS + 1, fixtures[page].name


def test_a_page_with_a_scrambled_head_costs_what_was_on_it(base, tmp_path):
    random = Random(SEED)
    check_all(base, fixtures_of(base, tmp_path, lambda *at: scramble_head(*at, random)))


def test_a_file_that_is_cut_short_costs_what_was_behind(base, tmp_path):
    fixtures = []
    lost: set[str] = set()
    for page in range(base.layout.pages - 1, 0, -1):
        lost |= base.on(page)
        if base.layout.tables.get(page) == "main":
            lost = set(base.holds.actions)  # nobody can say any more where its tables are
        state_dir = base.copy(tmp_path / str(page))
        with data_file(state_dir).open("r+b") as file:
            file.truncate(page * PAGE_BYTES)
        fixtures.append(Fixture(f"cut at page {page}", state_dir, frozenset(lost)))
    check_all(base, fixtures)


def test_flipped_bits_cost_at_most_what_is_on_their_page(base, tmp_path):
    random = Random(SEED)
    used = sorted(base.layout.tables)
    fixtures = []
    for number in range(2 * FLIPS):
        page = random.choice(used)
        inside = range(PAGE_HEAD_BYTES) if number % 2 else range(PAGE_HEAD_BYTES, PAGE_BYTES)
        offset, bit = page * PAGE_BYTES + random.choice(inside), random.randrange(8)
        state_dir = base.copy(tmp_path / str(number))
        flip(data_file(state_dir), offset, bit)
        name = f"byte {offset} bit {bit}, page {page} ({base.layout.tables[page]})"
        fixtures.append(Fixture(name, state_dir, frozenset(base.on(page))))
    found = check_all(base, fixtures)
    assert any(store.incidents for store in found)


def test_a_flipped_bit_in_the_head_of_a_row_costs_at_most_what_is_on_its_page(base, tmp_path):
    """Where the size of a row is wrong, its removal would break the others."""
    random = Random(SEED)
    fixtures = []
    trees = base.layout.tables.keys() - base.layout.overflow - {0, 1}
    for page in sorted(trees):
        rows = rows_on(data_file(base.state_dir), page)
        for row in random.sample(rows, min(len(rows), ROWS_PER_PAGE)):
            for byte in range(ROW_HEAD_BYTES):
                state_dir = base.copy(tmp_path / f"{row}-{byte}")
                flip(data_file(state_dir), row + byte, random.randrange(8))
                name = f"byte {byte} of row {row}, page {page} ({base.layout.tables[page]})"
                fixtures.append(Fixture(name, state_dir, frozenset(base.on(page))))
    check_all(base, fixtures)


def test_a_flipped_bit_in_a_head_of_the_file_costs_nothing(base, tmp_path):
    random = Random(SEED)
    fixtures = []
    for page in (0, 1):
        for byte in range(page, HEAD_BYTES, 2):
            state_dir = base.copy(tmp_path / f"{page}-{byte}")
            flip(data_file(state_dir), page * PAGE_BYTES + byte, random.randrange(8))
            fixtures.append(Fixture(f"byte {byte} of head {page}", state_dir))
    check_all(base, fixtures)


# --- another file, or none ---------------------------------------------------------------


def remove_data(state_dir: Path) -> None:
    data_file(state_dir).unlink()


def remove_directory(state_dir: Path) -> None:
    shutil.rmtree(state_dir / "daemondb")


def empty_file(state_dir: Path) -> None:
    data_file(state_dir).write_bytes(b"")


def all_zeros(state_dir: Path) -> None:
    data_file(state_dir).write_bytes(bytes(64 * PAGE_BYTES))


def foreign_bytes(state_dir: Path) -> None:
    data_file(state_dir).write_bytes(Random(SEED).randbytes(64 * PAGE_BYTES + 100))


def a_text(state_dir: Path) -> None:
    data_file(state_dir).write_text("#!/bin/sh\nexit 0\n")


def empty_environment(state_dir: Path) -> None:
    data_file(state_dir).unlink()
    lmdb.open(str(state_dir / "daemondb"), lib_version=0).close()


def empty_environment_without_marker(state_dir: Path) -> None:
    empty_environment(state_dir)
    (state_dir / "daemondb" / "initialised").unlink()


def foreign_environment(state_dir: Path) -> None:
    data_file(state_dir).unlink()
    with lmdb.open(str(state_dir / "daemondb"), lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"somebody's", b"own")


def foreign_environment_without_marker(state_dir: Path) -> None:
    foreign_environment(state_dir)
    (state_dir / "daemondb" / "initialised").unlink()


def no_format(state_dir: Path) -> None:
    on_disk(state_dir, "meta", lambda txn, handle: txn.delete(b"format", db=handle))


def senseless_format(state_dir: Path) -> None:
    on_disk(state_dir, "meta", lambda txn, handle: txn.put(b"format", b"12345", db=handle))


NOTHING_LEFT = [
    remove_data,
    empty_file,
    all_zeros,
    foreign_bytes,
    a_text,
    empty_environment,
    foreign_environment,
    foreign_environment_without_marker,
]
#: Without a backup a first start looks the same.
LOOKS_NEW = [remove_directory, empty_environment_without_marker]


def first_page_of(directory: Path) -> bytes:
    """Enough to tell two files apart."""
    data = directory / "data.mdb"
    return data.read_bytes()[:PAGE_BYTES] if data.exists() else b""


@pytest.mark.parametrize("spoil", NOTHING_LEFT)
def test_where_nothing_is_left_and_no_backup_a_new_store_is_begun(base, tmp_path, spoil):
    state_dir = base.copy(tmp_path / "state")
    spoil(state_dir)
    before = first_page_of(state_dir / "daemondb")
    store = base.executed.open(state_dir)
    assert (store.error, store.unsound, store.modes, store.actions) == ("", [], [], {})
    assert store.generation != base.holds.generation
    assert store.last_sequence > base.holds.last_sequence
    assert "0 actions are known" in store.incidents[0].detail
    assert store.set_aside == (["daemondb.bad-1"] if before else [])
    assert first_page_of(state_dir / "daemondb.bad-1") == before


@pytest.mark.parametrize("spoil", LOOKS_NEW)
def test_what_looks_like_a_first_start_is_one(base, tmp_path, spoil):
    state_dir = base.copy(tmp_path / "state")
    spoil(state_dir)
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound, store.actions) == ("", [], {})
    assert (store.incidents, store.set_aside) == ((), [])


@pytest.mark.parametrize("spoil", [*NOTHING_LEFT, *LOOKS_NEW])
def test_where_nothing_is_left_the_newest_backup_is_taken(base, tmp_path, spoil):
    state_dir = base.copy(tmp_path / "state", backed_up=True)
    spoil(state_dir)
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound, store.modes) == ("", [], [])
    assert store.actions == base.held["2"].actions
    assert store.reports == base.held["2"].reports
    assert (store.device, store.etag) == (base.holds.device, "")
    assert store.generation not in (base.holds.generation, base.held["2"].generation)
    assert store.last_sequence > base.holds.last_sequence
    assert store.incidents[0].backup == str(state_dir / "backups" / "2")


@pytest.mark.parametrize("executed", [True, False], ids=["processes", "forks"])
def test_a_backup_that_is_damaged_gives_way_to_the_one_before(base, tmp_path, executed):
    state_dir = base.copy(tmp_path / "state", backed_up=True)
    remove_data(state_dir)
    zero(state_dir / "backups" / "2" / "data.mdb", base.layout.pages // 2)
    store = (base.executed if executed else base.forked).open(state_dir)
    assert (store.error, store.unsound) == ("", [])
    assert store.actions == base.held["1"].actions
    assert "backup 2 cannot be used" in store.incidents[0].detail


@pytest.mark.parametrize("spoil_backup", [all_zeros, foreign_environment, no_format, remove_data])
def test_where_both_backups_are_damaged_what_can_be_read_has_to_do(base, tmp_path, spoil_backup):
    state_dir = base.copy(tmp_path / "state", backed_up=True)
    page = next(p for p, name in base.layout.tables.items() if name == "runs")
    zero(data_file(state_dir), page)
    for backup in ("1", "2"):
        pretended = tmp_path / f"as-{backup}"
        pretended.mkdir()
        (state_dir / "backups" / backup).rename(pretended / "daemondb")
        spoil_backup(pretended)
        (pretended / "daemondb").rename(state_dir / "backups" / backup)
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound) == ("", [])
    assert store.actions == base.holds.actions
    assert "there was no good backup" in store.incidents[0].detail


def test_a_file_among_the_backups_is_none(base, tmp_path):
    state_dir = base.copy(tmp_path / "state", backed_up=True)
    for name in ("3", "²", "notes", "7x"):
        (state_dir / "backups" / name).write_text("mine")
    (state_dir / "backups" / "4").mkdir()
    (state_dir / "backups" / "4" / "data.mdb").mkdir()
    remove_data(state_dir)
    store = base.forked.open(state_dir)
    assert store.actions == base.held["2"].actions
    assert "backup 4" in store.incidents[0].detail


@pytest.mark.parametrize("spoil", [no_format, senseless_format])
def test_a_store_that_does_not_say_its_format_loses_nothing(base, tmp_path, spoil):
    state_dir = base.copy(tmp_path / "state")
    spoil(state_dir)
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound) == ("", [])
    assert store.actions == base.holds.actions
    assert (store.reports, store.events) == (base.holds.reports, base.holds.events)
    assert (store.device, store.etag) == (base.holds.device, "")
    assert "all of it could be read" in store.incidents[0].detail


# --- what is not touched -----------------------------------------------------------------


def newer_format(state_dir: Path) -> None:
    number = (migrations.FORMAT + 1).to_bytes(4, "big")
    on_disk(state_dir, "meta", lambda txn, handle: txn.put(b"format", number, db=handle))


def newer_format_and_damaged(state_dir: Path) -> None:
    newer_format(state_dir)
    layout = Layout(data_file(state_dir))
    zero(data_file(state_dir), next(p for p, t in layout.tables.items() if t == "runs"))


def newer_lmdb(state_dir: Path) -> None:
    data_file(state_dir).unlink()
    with lmdb.open(str(state_dir / "daemondb"), lib_version=1) as env, env.begin(write=True) as txn:
        txn.put(b"from", b"the future")


@pytest.mark.parametrize("spoil", [newer_format, newer_format_and_damaged, newer_lmdb])
def test_a_newer_store_is_refused_and_not_touched(base, tmp_path, spoil):
    state_dir = base.copy(tmp_path / "state", backed_up=True)
    spoil(state_dir)
    before = data_file(state_dir).read_bytes()
    store = base.executed.open(state_dir)
    assert store.error.startswith("cannot use")
    assert "newer" in store.error
    assert data_file(state_dir).read_bytes() == before
    assert not list(state_dir.glob("daemondb.*"))


def test_a_newer_backup_is_passed_over(base, tmp_path):
    state_dir = base.copy(tmp_path / "state", backed_up=True)
    pretended = tmp_path / "as-2"
    pretended.mkdir()
    (state_dir / "backups" / "2").rename(pretended / "daemondb")
    newer_format(pretended)
    (pretended / "daemondb").rename(state_dir / "backups" / "2")
    remove_data(state_dir)
    store = base.forked.open(state_dir)
    assert store.actions == base.held["1"].actions


# --- single values -----------------------------------------------------------------------


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


def sound(body: bytes, kind: int = 0) -> bytes:
    return b"\x01" + bytes([kind]) + zlib.crc32(body, kind).to_bytes(4, "big") + body


def damage_value(state_dir: Path, table: str) -> None:
    key, value = last_row(state_dir, table)
    put(state_dir, table, key, value[:-1] + bytes([value[-1] ^ 1]))


def cut_value(state_dir: Path, table: str) -> None:
    put(state_dir, table, last_row(state_dir, table)[0], b"\x01")


def mean_nothing(state_dir: Path, table: str) -> None:
    put(state_dir, table, last_row(state_dir, table)[0], sound(b"\x93\x01\x02\x03"))


def mistake_key(state_dir: Path, table: str) -> None:
    key, value = last_row(state_dir, table)
    on_disk(state_dir, table, lambda txn, handle: txn.delete(key, db=handle))
    put(state_dir, table, bytes([key[0] ^ 0x80]) + key[1:], value)


def lengthen_key(state_dir: Path, table: str) -> None:
    key, value = last_row(state_dir, table)
    put(state_dir, table, key + bytes(511 - len(key)), value)


TABLES = ("actions", "details", "runs", "events", "outbox", "refused", "ended")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "spoil", [damage_value, cut_value, mean_nothing, mistake_key, lengthen_key]
)
def test_a_damaged_row_costs_itself(base, tmp_path, table, spoil):
    state_dir = base.copy(tmp_path / "state")
    if table == "refused":
        put(state_dir, table, (3).to_bytes(8, "big"), last_row(state_dir, "outbox")[1])
    spoil(state_dir, table)
    if (table, spoil) in UNSEEN:
        return
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound, store.set_aside) == ("", [], [])
    assert len(store.incidents) == 1
    at_most = 2 if spoil is mistake_key else 1  # a record and the long part that it looks for
    missing = base.holds.actions.keys() - store.actions.keys()
    assert len(missing) <= (at_most if table in RECORDS else 0)
    kept = {each: was for each, was in base.holds.actions.items() if each not in missing}
    assert store.actions == kept
    assert (store.generation, store.device) == (base.holds.generation, base.holds.device)
    assert store.etag == base.holds.etag
    assert base.holds.last_sequence <= store.last_sequence < 2**53
    assert len(store.reports) >= len(base.holds.reports) - 1
    again = base.forked.open(state_dir)
    assert again == store


#: It is another action's run then, and nothing says that it was not.
UNSEEN = {("runs", mistake_key)}


def test_the_number_of_a_damaged_event_is_not_given_again(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    on_disk(state_dir, "outbox", lambda txn, handle: txn.drop(handle, delete=False))
    damage_value(state_dir, "events")
    store = base.forked.open(state_dir)
    assert store.last_sequence == base.holds.last_sequence
    assert base.holds.last_sequence not in store.events


@pytest.mark.parametrize("spoil", [damage_value, cut_value, mean_nothing])
def test_a_damaged_row_of_meta_begins_a_new_generation_above_all_numbers(base, tmp_path, spoil):
    state_dir = base.copy(tmp_path / "state")
    spoil(state_dir, "meta")
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound, len(store.incidents)) == ("", [], 1)
    assert store.actions == base.holds.actions
    assert store.generation != base.holds.generation
    assert (store.etag, store.last_sequence > base.holds.last_sequence) == ("", True)


def test_a_store_that_does_not_know_itself_any_more_begins_a_new_generation(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    on_disk(state_dir, "meta", lambda txn, handle: txn.delete(b"store", db=handle))
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound, len(store.incidents)) == ("", [], 1)
    assert store.actions == base.holds.actions
    assert store.last_sequence > base.holds.last_sequence
    assert base.forked.open(state_dir) == store


def lose_edge(txn: Any, handle: Any) -> None:
    with txn.cursor(handle) as at:
        assert at.first()
        at.delete()


def mistake_edge(txn: Any, handle: Any) -> None:
    with txn.cursor(handle) as at:
        assert at.first()
        key, value = at.item()
        at.delete()
    txn.put(bytes([key[0] ^ 0x10]) + key[1:], value, db=handle)


def stray_edge(txn: Any, handle: Any) -> None:
    with txn.cursor(handle) as at:
        assert at.first()
        value = at.value()
    txn.put(bytes(24), value, db=handle)


@pytest.mark.parametrize("index", ["due", "ended"])
@pytest.mark.parametrize("spoil", [lose_edge, mistake_edge, stray_edge])
def test_an_index_that_does_not_follow_its_records_is_made_anew(base, tmp_path, index, spoil):
    """An action that is missing from `due` would never start."""
    state_dir = base.copy(tmp_path / "state")
    on_disk(state_dir, index, spoil)
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound) == ("", [])
    assert store.actions == base.holds.actions
    assert "indexes were made anew" in store.incidents[0].detail
    assert (store.generation, store.reports) == (base.holds.generation, base.holds.reports)


def test_many_damaged_values_are_put_aside(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")

    def damage_all(txn: Any, handle: Any) -> None:
        with txn.cursor(handle) as at:
            for key, value in list(at):
                txn.put(key, value[:-1] + bytes([value[-1] ^ 1]), db=handle)

    on_disk(state_dir, "actions", damage_all)
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound, store.actions) == ("", [], {})
    assert store.reports == base.holds.reports
    assert store.incidents[0].detail.startswith(f"{ACTIONS + 1} damaged values put aside")


# --- again and again ---------------------------------------------------------------------


def spoil_a_page(state_dir: Path) -> None:
    """One without which LMDB opens nothing; nothing else is lost with it."""
    zero(data_file(state_dir), 0)


def test_incidents_add_up_and_of_the_stores_set_aside_the_newest_two_are_kept(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    last = base.holds
    for number in range(1, 5):
        if number == 3:
            damage_value(state_dir, "events")
        else:
            spoil_a_page(state_dir)
        before = data_file(state_dir).read_bytes()
        store = base.forked.open(state_dir)
        assert (store.error, store.unsound) == ("", [])
        assert len(store.incidents) == number
        assert store.incidents[: number - 1] == last.incidents
        assert store.actions == base.holds.actions
        assert store.last_sequence >= last.last_sequence
        assert store.device == base.holds.device
        assert (store.generation == last.generation) == (number == 3)
        if number != 3:
            assert (state_dir / store.set_aside[-1] / "data.mdb").read_bytes() == before
        last = store
    assert last.set_aside == ["daemondb.bad-2", "daemondb.bad-3"]


def test_a_store_without_events_goes_on_above_the_numbers_it_gave(base, tmp_path):
    """Nothing but its head says how far they went."""
    state_dir = base.copy(tmp_path / "state")
    for table in ("events", "outbox"):
        on_disk(state_dir, table, lambda txn, handle: txn.drop(handle, delete=False))
    spoil_a_page(state_dir)
    first = base.forked.open(state_dir)
    spoil_a_page(state_dir)
    second = base.forked.open(state_dir)
    assert base.holds.last_sequence < first.last_sequence <= second.last_sequence


def test_a_sound_store_is_opened_as_it_is(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    store = base.executed.open(state_dir)
    assert store == base.holds
    assert not list(state_dir.glob("daemondb.*"))


def test_a_store_that_is_set_aside_can_be_opened_like_any_other(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    spoil_a_page(state_dir)
    store = base.forked.open(state_dir)
    shutil.rmtree(state_dir / "daemondb")
    (state_dir / store.set_aside[0]).rename(state_dir / "daemondb")
    again = base.forked.open(state_dir)
    assert again.actions == base.holds.actions


def test_a_store_that_is_set_aside_shares_no_lock_with_the_one_in_use(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    (state_dir / "daemondb" / "lock.mdb").symlink_to(tmp_path / "lock of the live one")
    spoil_a_page(state_dir)
    store = base.forked.open(state_dir)
    assert store.actions == base.holds.actions
    aside = state_dir / store.set_aside[0]
    assert not [path for path in aside.iterdir() if path.is_symlink()]


# --- the exchange is cut short -----------------------------------------------------------

RENAMES = 3


def replace_until(state_dir: Path, steps: int, *, dies: bool) -> int:
    """Replace a store in a process that ends before that step; its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    renamed = 0
    rename = files.rename

    def count(old: Path, new: Path) -> None:
        nonlocal renamed
        if renamed == steps:
            if dies:
                os._exit(9)
            raise OSError(errno.EIO, "as if")
        renamed += 1
        rename(old, new)

    code = 1
    try:
        files.rename = count
        replace.replace(Places(state_dir), "as told", map_bytes=MAP_BYTES, now_us=NOW_US)
        code = 0
    except OSError:
        code = 9
    finally:
        os._exit(code)


@pytest.mark.parametrize("steps", range(RENAMES + 1))
@pytest.mark.parametrize("dies", [True, False], ids=["killed", "fails"])
def test_an_exchange_that_is_cut_short_leaves_the_old_store_or_the_new_one(
    base, tmp_path, steps, dies
):
    state_dir = base.copy(tmp_path / "state")
    for number in (1, 2):  # no set-aside store is lost before there is a newer one
        shutil.copytree(base.state_dir / "daemondb", state_dir / f"daemondb.bad-{number}")
    spoil_a_page(state_dir)
    damaged = data_file(state_dir).read_bytes()
    assert replace_until(state_dir, steps, dies=dies) == (9 if steps < RENAMES else 0)
    aside = {path.name for path in Places(state_dir).set_aside()}
    assert {"daemondb.bad-2"} <= aside
    assert ("daemondb.bad-1" in aside) == (steps < RENAMES)
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound, store.modes) == ("", [], [])
    assert store.actions == base.holds.actions
    assert store.device == base.holds.device
    assert len(store.incidents) == 1
    assert (state_dir / store.set_aside[-1] / "data.mdb").read_bytes() == damaged
    assert store.set_aside == ["daemondb.bad-2", "daemondb.bad-3"]
    assert not [path for path in state_dir.glob("daemondb.*") if "bad" not in path.name]


def test_what_others_left_behind_is_removed(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    gone = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    left = ["tmp", "new", "old", f"copy-{gone.stdout.strip()}"]
    for name in left:
        (state_dir / f"daemondb.{name}").mkdir()
    mine = state_dir / f"daemondb.copy-{os.getpid()}"  # of one that lives
    mine.mkdir()
    store = base.forked.open(state_dir)
    assert store == base.holds
    assert list(state_dir.glob("daemondb.*")) == [mine]


# --- full disks --------------------------------------------------------------------------


def test_where_the_disk_takes_no_other_store_the_damaged_one_stays(base, tmp_path):
    with mounted(tmp_path / "disk", "-o", "loop", ext4(tmp_path / "image", 16 * 1024**2)):
        state_dir = base.copy(tmp_path / "disk" / "state")
        spoil_a_page(state_dir)
        before = data_file(state_dir).read_bytes()
        fill(tmp_path / "disk" / "filling")
        store = base.executed.open(state_dir)
        assert store.error.startswith("cannot")
        assert data_file(state_dir).read_bytes() == before
        assert not list(state_dir.glob("daemondb.*"))
        (tmp_path / "disk" / "filling").unlink()
        store = base.forked.open(state_dir)
        assert (store.error, store.actions) == ("", base.holds.actions)


def test_on_a_full_disk_a_damaged_value_still_costs_only_itself(base, tmp_path):
    with mounted(tmp_path / "disk", "-o", "loop", ext4(tmp_path / "image", 16 * 1024**2)):
        state_dir = base.copy(tmp_path / "disk" / "state")
        store = base.forked.open(state_dir)  # has its blocks from now on
        damage_value(state_dir, "events")
        fill(tmp_path / "disk" / "filling")
        store = base.forked.open(state_dir)
        assert (store.error, store.actions) == ("", base.holds.actions)
