"""Stores of past formats are opened: backed up, brought to the newest format, whole.

The stores are data, made by the version that wrote each format, and never changed:
tests/data/stores/README.md says what is in them.
"""

import os
import shutil
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.actions import ExecutionStatus
from geosched.supervisor.core.model import Reason, Running
from geosched.supervisor.store import files, py_lmdb
from geosched.supervisor.store.daemondb import DaemonDB
from geosched.supervisor.store.errors import StoreError
from geosched.supervisor.store.open import open_store
from geosched.supervisor.store.repair.examine import Condition, examine
from geosched.supervisor.store.repair.incidents import read as incidents_of
from geosched.supervisor.store.repair.validate import CODECS
from geosched.supervisor.store.tables import migrations
from geosched.supervisor.store.tables.codec import action_key, number_of
from geosched.supervisor.store.tables.ended import row_of
from support.build import NOW_US
from support.layout import zero
from support.paths import STORES
from support.store import LONG_NAMES, contents, data_file, on_disk

FORMATS = sorted(int(path.name.removeprefix("format-")) for path in STORES.glob("format-*"))
NULL, STARTED, WONT_START, _, FINISHED, FAILED = ExecutionStatus
MAP_BYTES = 4 * 1024**2

#: In the store of format 1, and so in that of each later one that was made from it.
HOLDS = {
    "scheduled": NULL,
    "long-names": NULL,
    "running": STARTED,
    "stopped": STARTED,
    "finished": FINISHED,
    "reported": FINISHED,
    "failed": FAILED,
    "not-wanted": WONT_START,
}
PENDING = {"running", "stopped", "finished", "failed"}


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def copy_of(number: int, state_dir: Path, *, marked: bool = True) -> Path:
    place = state_dir / "daemondb"
    place.mkdir(parents=True, mode=0o700)
    shutil.copyfile(STORES / f"format-{number}" / "data.mdb", place / "data.mdb")
    if marked:
        files.mark_initialised(place)
    return state_dir


def opened(state_dir: Path) -> DaemonDB:
    return open_store(state_dir, now_us=NOW_US, map_bytes=MAP_BYTES)


def rows_of(place: Path) -> dict[str, dict[bytes, bytes]]:
    with py_lmdb.open_environment(place, max_dbs=16, readonly=True, lock=False) as env:
        return contents(env)


def format_in(place: Path) -> int:
    return int.from_bytes(rows_of(place)["meta"][b"format"])


def statuses(db: DaemonDB) -> dict[str, ExecutionStatus]:
    records, cursor = db.page("", 1000, frozenset(ExecutionStatus))
    assert not cursor
    return {record.action.id: record.status for record in records}


# --- what is kept as data ----------------------------------------------------------------


def test_a_store_of_every_older_format_is_kept():
    """Who raises `FORMAT` keeps a store of the format that was: see the README there."""
    assert set(range(1, migrations.FORMAT)) <= set(FORMATS)


@pytest.mark.parametrize("number", FORMATS)
def test_a_store_that_is_kept_is_of_its_format_and_sound(number, state_dir):
    place = copy_of(number, state_dir) / "daemondb"
    assert format_in(place) == number
    found = examine(place)
    assert (found.condition, found.damaged, found.faults) == (Condition.OLDER, (), ())


# --- opened by what is newer -------------------------------------------------------------


@pytest.mark.parametrize("number", FORMATS)
def test_an_older_store_is_backed_up_before_it_is_migrated(number, state_dir):
    before = rows_of(copy_of(number, state_dir) / "daemondb")
    opened(state_dir).close()
    backup = state_dir / "backups" / "1"
    assert examine(backup).condition is Condition.OLDER
    assert rows_of(backup) == before
    assert (backup / "data.mdb").stat().st_mode & 0o777 == 0o600
    assert format_in(state_dir / "daemondb") == migrations.FORMAT


@pytest.mark.parametrize("number", FORMATS)
@pytest.mark.parametrize("examined", [True, False])
def test_everything_is_there_after_the_migration(number, state_dir, examined):
    copy_of(number, state_dir)
    open_it = opened if examined else DaemonDB.open
    with closing(open_it(state_dir)) as db:
        assert statuses(db) == HOLDS
        assert db.read("long-names").action.app_names == LONG_NAMES
        assert db.read("failed").reason is Reason.EXIT_CODE
        assert db.runs("failed", 10)[0].exit_code == 3
        for each in ("running", "stopped"):
            assert isinstance(db.read(each).state, Running)
        assert db.read("stopped").state.run.stop == "operator"
        assert {change.action_id for _, change in db.outbox_pending(100)} == PENDING
        assert db.reports.refused == 1
        assert db.meta.etag == '"e1"'
        assert [number for number, _ in db.events(0)] == list(range(1, 10))
        assert {record.action.id for record in db.started()} == {"running", "stopped"}
        assert db.damaged == 0
        generation = db.meta.generation
    after = examine(state_dir / "daemondb")
    assert (after.condition, after.damaged, after.faults) == (Condition.SOUND, (), ())
    assert incidents_of(state_dir / "daemondb") == ()
    with closing(opened(state_dir)) as db:
        assert (statuses(db), db.meta.generation) == (HOLDS, generation)


@pytest.mark.parametrize("number", FORMATS)
def test_of_an_ended_action_its_last_pending_report_is_known(number, state_dir):
    copy_of(number, state_dir)
    with closing(opened(state_dir)) as db:
        records = {each: db.read(each) for each in HOLDS}
        pending = {change.action_id: n for n, change in db.outbox_pending(100)}
    rows = rows_of(state_dir / "daemondb")
    last = dict.fromkeys(records, 0)
    for key, value in rows["outbox"].items():
        last[CODECS["outbox"].decode(value).change.action_id] = number_of(key)
    ended = {row: CODECS["ended"].decode(value) for row, value in rows["ended"].items()}
    over = {each: record for each, record in records.items() if record.status.terminal}
    assert len(ended) == len(over) == 4
    for each, record in over.items():
        found = ended[row_of(record, action_key(each))]
        assert (found.absent, found.sequence) == (False, last[each]), each
    assert last["finished"] >= pending["finished"] > 0
    assert last["reported"] == last["not-wanted"] == 0


@pytest.mark.parametrize("number", FORMATS)
def test_a_copy_without_a_marker_is_no_first_start(number, state_dir):
    """As after somebody put the file of a backup in its place by hand."""
    copy_of(number, state_dir, marked=False)
    with closing(opened(state_dir)) as db:
        assert statuses(db) == HOLDS
    modes = {path.name: path.stat().st_mode & 0o777 for path in (state_dir / "daemondb").iterdir()}
    assert modes["lock.mdb"] == modes["initialised"] == 0o600


# --- cut short, or in vain ---------------------------------------------------------------


@pytest.mark.parametrize("number", FORMATS)
def test_a_migration_that_fails_leaves_the_store_as_it_was(number, state_dir, monkeypatch):
    before = rows_of(copy_of(number, state_dir) / "daemondb")

    def fail(txn: Any, open_table: Any) -> None:
        for name in (b"actions", b"outbox", b"ended"):
            txn.drop(open_table(name), delete=False)
        raise OSError(28, "as if there were no room")

    with monkeypatch.context() as broken:
        broken.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS | {number: fail})
        with pytest.raises(StoreError, match=r"^cannot use"):
            opened(state_dir)
    assert rows_of(state_dir / "daemondb") == before
    with closing(opened(state_dir)) as db:
        assert statuses(db) == HOLDS


@pytest.mark.parametrize("number", FORMATS)
def test_a_migration_that_is_killed_leaves_the_store_as_it_was(number, state_dir, monkeypatch):
    before = rows_of(copy_of(number, state_dir) / "daemondb")
    real = migrations.MIGRATIONS[number]

    def die(txn: Any, open_table: Any) -> None:
        real(txn, open_table)
        os._exit(9)

    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS | {number: die})
        try:
            opened(state_dir)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert rows_of(state_dir / "daemondb") == before
    with closing(opened(state_dir)) as db:
        assert statuses(db) == HOLDS


@pytest.mark.parametrize("number", FORMATS)
def test_without_a_backup_nothing_is_migrated(number, state_dir, monkeypatch):
    before = rows_of(copy_of(number, state_dir) / "daemondb")
    (state_dir / "backups").write_text("no directory")
    with pytest.raises(StoreError, match=r"^cannot backup"):
        opened(state_dir)
    assert rows_of(state_dir / "daemondb") == before


# --- older and damaged -------------------------------------------------------------------


def damaged_value(state_dir: Path, table: str, key: bytes) -> None:
    def change(txn: Any, handle: Any) -> None:
        value = txn.get(key, db=handle)
        txn.put(key, value[:-1] + bytes([value[-1] ^ 1]), db=handle)

    on_disk(state_dir, table, change)


@pytest.mark.parametrize("number", FORMATS)
def test_a_damaged_value_of_an_older_store_costs_itself(number, state_dir):
    copy_of(number, state_dir)
    damaged_value(state_dir, "actions", action_key("finished"))
    with closing(opened(state_dir)) as db:
        assert statuses(db) == {k: v for k, v in HOLDS.items() if k != "finished"}
    assert "1 damaged value put aside" in incidents_of(state_dir / "daemondb")[0].detail
    after = examine(state_dir / "daemondb")
    assert (after.condition, after.damaged, after.faults) == (Condition.SOUND, (), ())


@pytest.mark.parametrize("number", FORMATS)
def test_a_value_of_an_older_store_that_means_nothing_is_put_aside_after_the_migration(
    number, state_dir
):
    copy_of(number, state_dir)
    value = migrations._HEAD.pack(1, 4, zlib.crc32(b"\x93\x01\x02\x03", 4))
    value += b"\x93\x01\x02\x03"
    for table, key in (("actions", action_key("finished")), ("outbox", (99).to_bytes(8, "big"))):
        on_disk(state_dir, table, lambda txn, db, key=key: txn.put(key, value, db=db))
    with closing(opened(state_dir)) as db:
        assert statuses(db) == {k: v for k, v in HOLDS.items() if k != "finished"}
    with closing(opened(state_dir)) as db:
        assert statuses(db) == {k: v for k, v in HOLDS.items() if k != "finished"}
    after = examine(state_dir / "daemondb")
    assert (after.condition, after.damaged, after.faults) == (Condition.SOUND, (), ())


@pytest.mark.parametrize("number", FORMATS)
def test_what_is_saved_of_an_older_store_is_of_the_newest_format(number, state_dir):
    copy_of(number, state_dir)
    zero(data_file(state_dir), 0)
    with closing(opened(state_dir)) as db:
        assert statuses(db) == HOLDS
        assert {change.action_id for _, change in db.outbox_pending(100)} == PENDING
    after = examine(state_dir / "daemondb")
    assert (after.condition, after.damaged, after.faults) == (Condition.SOUND, (), ())


@pytest.mark.parametrize("number", FORMATS)
def test_a_backup_of_an_older_format_is_restored_like_any_other(number, state_dir):
    copy_of(number, state_dir)
    (state_dir / "backups").mkdir()
    (state_dir / "daemondb").rename(state_dir / "backups" / "7")
    with closing(opened(state_dir)) as db:
        assert statuses(db) == HOLDS
    assert format_in(state_dir / "daemondb") == migrations.FORMAT
    assert format_in(state_dir / "backups" / "7") == number
