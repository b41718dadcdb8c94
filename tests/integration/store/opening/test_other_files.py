"""Opening where the file is gone, empty, foreign or newer: a backup, or a new store."""

import shutil
from pathlib import Path
from random import Random

import pytest
from geosched.supervisor.store import py_lmdb
from geosched.supervisor.store.tables import migrations
from support.damage import SEED
from support.layout import PAGE_BYTES, Layout, zero
from support.paths import STORES
from support.store import data_file, on_disk

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
    py_lmdb.open_environment(state_dir / "daemondb").close()


def empty_environment_without_marker(state_dir: Path) -> None:
    empty_environment(state_dir)
    (state_dir / "daemondb" / "initialised").unlink()


def foreign_environment(state_dir: Path) -> None:
    data_file(state_dir).unlink()
    opened = py_lmdb.open_environment(state_dir / "daemondb")
    with opened as env, env.begin(write=True) as txn:
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
    """Of LMDB 1.0, which only some versions of py-lmdb can make."""
    shutil.copyfile(STORES / "lmdb-1.0" / "data.mdb", data_file(state_dir))


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
