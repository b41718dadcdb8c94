"""daemonDB where things go wrong: what is refused, what damage costs, full disks."""

import errno
import os
import stat
import zlib
from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.actions import ExecutionStatus
from geosched.supervisor.core.lifecycle import decide, first_seen
from geosched.supervisor.core.model import RunEnded
from geosched.supervisor.store import files, py_lmdb
from geosched.supervisor.store.daemondb import DaemonDB, MetaUpdate
from geosched.supervisor.store.errors import StoreError, StoreErrorKind
from geosched.supervisor.store.tables import migrations
from geosched.supervisor.store.tables.codec import action_key, number_key
from support.build import AFTER, DUE, HOUR_US, NOW, NOW_US, RULES, action, result
from support.lmdb_errors import lmdb_error
from support.store import (
    LONG_NAMES,
    Opener,
    add,
    all_edges,
    data_file,
    decided,
    flip,
    happen,
    on_disk,
    seen,
    start,
)

MEBIBYTE = 1024 * 1024


# --- the directory and its files --------------------------------------------------------


def test_nobody_else_can_read_the_store(db, state_dir):
    place = state_dir / "daemondb"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (state_dir, place)}
    assert modes == {"state": 0o700, "daemondb": 0o700}
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()}
    assert files == {"data.mdb": 0o600, "lock.mdb": 0o600, "initialised": 0o600}


def test_no_child_inherits_a_descriptor_of_the_store(db, state_dir):
    place = os.fspath((state_dir / "daemondb").resolve())
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith(place):
            found.append(target)
            assert not os.get_inheritable(int(name)), target
    assert os.path.join(place, "data.mdb") in found


def test_the_lock_file_has_its_blocks_so_that_a_full_disk_cannot_kill_us(db, state_dir):
    assert (state_dir / "daemondb" / "lock.mdb").stat().st_blocks * 512 >= files.LOCK_BYTES


def test_a_second_opener_in_this_process_is_refused_and_the_first_goes_on(db, state_dir):
    with pytest.raises(StoreError, match=r"^cannot use"):
        DaemonDB.open(state_dir)
    add(db, "a")


def test_the_file_system_of_a_directory_is_known():
    assert files.file_system(Path("/proc/self")) == "proc"


@pytest.mark.parametrize("kind", sorted(files.REFUSED_FILE_SYSTEMS))
def test_a_file_system_that_cannot_hold_it_is_refused(state_dir, monkeypatch, kind):
    monkeypatch.setattr(files, "file_system", lambda _: kind)
    with pytest.raises(StoreError, match=f"cannot keep daemonDB in .*: {kind} cannot hold it"):
        DaemonDB.open(state_dir)
    assert not data_file(state_dir).exists()


def test_a_disk_that_forgets_is_warned_of(opened, monkeypatch, caplog):
    monkeypatch.setattr(files, "file_system", lambda _: "tmpfs")
    opened()
    assert "may not outlive a reboot" in caplog.text


def test_a_parent_that_is_missing_is_not_made(tmp_path):
    with pytest.raises(StoreError, match=r"^cannot use"):
        DaemonDB.open(tmp_path / "no" / "state")
    assert list(tmp_path.iterdir()) == []


# --- what is refused --------------------------------------------------------------------


def closed_store(opened: Opener, *ids: str) -> None:
    db = opened()
    add(db, *(ids or ("a",)))
    db.close()


def set_format(state_dir: Path, number: bytes) -> None:
    on_disk(state_dir, "meta", lambda txn, handle: txn.put(b"format", number, db=handle))


def refused_untouched(state_dir: Path, message: str) -> StoreError:
    before = data_file(state_dir).read_bytes()
    with pytest.raises(StoreError, match=message) as refused:
        DaemonDB.open(state_dir)
    assert data_file(state_dir).read_bytes() == before
    assert refused.value.kind is StoreErrorKind.UNUSABLE
    assert refused.value.fatal
    return refused.value


def test_a_newer_store_is_refused_untouched(opened, state_dir):
    closed_store(opened)
    newer = migrations.FORMAT + 1
    set_format(state_dir, newer.to_bytes(4, "big"))
    refused_untouched(state_dir, f"its format {newer} is newer than this software's")


@pytest.mark.parametrize("number", [b"", b"\0\0\0\0", b"12345"])
def test_a_store_whose_format_makes_no_sense_is_refused_untouched(opened, state_dir, number):
    closed_store(opened)
    set_format(state_dir, number)
    refused_untouched(state_dir, "^cannot use")


def test_an_empty_file_of_a_first_start_that_failed_is_no_loss(opened, state_dir):
    data_file(state_dir).parent.mkdir(parents=True)
    data_file(state_dir).touch()
    add(opened(), "a")


def test_a_first_start_that_was_cut_short_is_begun_again(opened, state_dir):
    place = state_dir / "daemondb"
    place.mkdir(parents=True)
    py_lmdb.open_environment(place, max_dbs=16).close()
    add(opened(), "a")


# --- migrations -------------------------------------------------------------------------


def test_every_older_format_has_a_migration():
    assert set(migrations.MIGRATIONS) == set(range(1, migrations.FORMAT))


def test_migrations_run_in_order_from_the_format_that_is_there(monkeypatch):
    ran: list[int] = []
    steps = {n: lambda _txn, _open, n=n: ran.append(n) for n in (1, 2, 3, 4)}
    monkeypatch.setattr(migrations, "FORMAT", 4)
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    migrations.migrate(None, None, 2)
    assert ran == [2, 3]


def test_an_older_store_is_migrated_when_it_is_opened(opened, state_dir, monkeypatch):
    closed_store(opened)

    def mark(txn: Any, open_table: Any) -> None:
        txn.put(b"migrated", b"yes", db=open_table(b"meta"))

    newer = migrations.FORMAT + 1
    monkeypatch.setattr(migrations, "FORMAT", newer)
    monkeypatch.setattr(migrations, "MIGRATIONS", {newer - 1: mark})
    db = opened()
    assert db.read("a") is not None
    db.close()
    found: list[bytes] = []

    def look(txn: Any, handle: Any) -> None:
        found.extend(txn.get(key, db=handle) for key in (b"migrated", b"format"))

    on_disk(state_dir, "meta", look)
    assert found == [b"yes", newer.to_bytes(4, "big")]


# --- damage -----------------------------------------------------------------------------


def test_a_damaged_record_costs_that_record_and_is_told_once(opened, state_dir, caplog):
    closed_store(opened, "a", "b")
    flip("actions", action_key("a"), state_dir)
    db = opened()
    assert [db.read("a"), db.read("a"), *db.read_keys([action_key("a")])] == [None] * 3
    assert db.read("b") is not None
    assert db.damaged == 1
    assert caplog.text.count("Lost a value") == 1
    records, _ = db.page("", 10, frozenset(ExecutionStatus))
    assert [record.action.id for record in records] == ["b"]
    assert [record.action.id for record in db.open_page("", 10)[0]] == ["b"]


def test_a_change_over_a_damaged_record_loses(opened, state_dir):
    closed_store(opened)
    change = decide(seen("a").after, DUE, NOW, RULES)
    flip("actions", action_key("a"), state_dir)
    assert opened().commit([change], report=True).won == (False,)


@pytest.mark.parametrize("names", [("Chrome",), LONG_NAMES], ids=["short", "long"])
def test_a_damaged_record_makes_room_for_the_next_snapshot(opened, state_dir, names):
    closed_store(opened, "a", "b")
    flip("actions", action_key("a"), state_dir)
    db = opened()
    new = seen("a", app_names=names, from_us=NOW_US)
    assert db.commit([new], report=True).won == (True,)
    assert db.read("a") == new.after
    assert all_edges(db) == [(NOW_US - HOUR_US, action_key("b")), (NOW_US, action_key("a"))]
    assert db.counts()[ExecutionStatus.NULL] == 2
    assert opened().counts()[ExecutionStatus.NULL] == 2


def test_what_gave_way_is_kept_for_whoever_wants_to_look(opened, state_dir):
    closed_store(opened)
    flip("actions", action_key("a"), state_dir)
    db = opened()
    add(db, "a")
    db.close()
    kept: list[bytes] = []

    def look(txn: Any, handle: Any) -> None:
        kept.append(txn.get(b"actions:" + action_key("a"), db=handle))

    on_disk(state_dir, "damaged", look)
    assert len(kept[0]) > 20


def test_a_record_whose_head_is_damaged_is_not_counted(opened, state_dir):
    closed_store(opened, "a", "b")
    flip("actions", action_key("a"), state_dir, byte=0)
    db = opened()
    assert (db.counts()[ExecutionStatus.NULL], db.damaged) == (1, 1)
    add(db, "a")
    assert db.counts()[ExecutionStatus.NULL] == 2


@pytest.mark.parametrize("lost", [True, False])
def test_a_record_without_its_long_configuration_is_damaged(opened, state_dir, lost):
    db = opened()
    add(db, "a", app_names=LONG_NAMES)
    db.close()
    if lost:
        on_disk(state_dir, "details", lambda txn, handle: txn.delete(action_key("a"), db=handle))
    else:
        flip("details", action_key("a"), state_dir)
    db = opened()
    assert (db.read("a"), db.damaged) == (None, 1)
    add(db, "a", app_names=LONG_NAMES)
    assert db.read("a").action.app_names == LONG_NAMES


def test_long_configuration_of_another_time_is_not_believed(opened, state_dir):
    db = opened()
    add(db, "a", app_names=LONG_NAMES)
    add(db, "b", app_names=LONG_NAMES[::-1])
    db.close()

    def mix_up(txn: Any, handle: Any) -> None:
        txn.put(action_key("a"), txn.get(action_key("b"), db=handle), db=handle)

    on_disk(state_dir, "details", mix_up)
    assert opened().read("a") is None


def test_a_damaged_event_and_a_damaged_run_cost_only_themselves(opened, state_dir):
    db = opened()
    add(db, "a", "b")
    start(db, "a", "b")
    db.close()
    flip("events", number_key(1), state_dir)
    flip("runs", action_key("a") + b"\0\0\0\1", state_dir)
    db = opened()
    assert [n for n, _ in db.events(0)] == [2]
    assert (db.runs("a", 20), db.run("a", 1)) == ([], None)
    assert db.run("b", 1) is not None
    happen(db, "b", RunEnded(result(run_id=db.read("b").state.run.run_id)))
    assert [n for n, _ in db.events(0)] == [2, 3]


def test_a_damaged_report_does_not_hold_up_the_others_for_ever(opened, state_dir):
    db = opened()
    add(db, "a", "b")
    start(db, "a", "b")
    db.close()
    flip("outbox", number_key(1), state_dir)
    db = opened()
    assert ([n for n, _ in db.outbox_pending(10)], db.outbox_depth) == ([2], 1)


def test_a_damaged_meta_row_begins_a_new_generation(opened, state_dir):
    db = opened()
    add(db, "a")
    start(db, "a")
    db.commit([], report=True, meta=MetaUpdate(etag="x"))
    generation = db.meta.generation
    db.close()
    flip("meta", b"store", state_dir)
    db = opened()
    assert db.meta.generation != generation
    assert db.meta.etag == ""
    assert (db.read("a").attempt, [n for n, _ in db.events(0)]) == (1, [1])
    assert opened().meta == db.meta


def test_a_value_that_is_sound_but_means_nothing_is_damaged(opened, state_dir):
    closed_store(opened)
    body = b"\x93\x01\x02\x03"
    value = b"\x01\x00" + zlib.crc32(body, 0).to_bytes(4, "big") + body
    on_disk(state_dir, "actions", lambda txn, handle: txn.put(action_key("a"), value, db=handle))
    assert opened().read("a") is None


# --- full and failing disks -------------------------------------------------------------


def test_a_map_at_its_bound_is_an_error_that_can_be_waited_out(opened):
    db = opened(map_bytes=MEBIBYTE)

    def fill() -> None:
        for batch in range(100):
            db.commit([seen(f"{batch}-{n}") for n in range(100)], report=True)

    with pytest.raises(StoreError, match=r"^cannot use") as refused:
        fill()
    assert refused.value.kind is StoreErrorKind.MAP_FULL
    assert not refused.value.fatal
    counted = db.counts()[ExecutionStatus.NULL]
    assert counted == len(all_edges(db)) > 0
    assert opened(map_bytes=4 * MEBIBYTE).counts()[ExecutionStatus.NULL] == counted


def test_a_full_map_takes_what_is_forgotten_and_then_more(opened):
    db = opened(map_bytes=MEBIBYTE)

    def fill() -> None:
        for batch in range(100):
            late = [first_seen(action(f"{batch}-{n}"), AFTER, RULES) for n in range(100)]
            db.commit(late, report=False)

    with pytest.raises(StoreError):
        fill()
    rows, _ = db.ended_page(b"")
    freed = db.room().used_bytes
    db.commit([], report=False, absences={row: True for row, _ in rows[:100]})
    assert db.forget(b"", NOW_US * 2).actions == 100
    assert db.room().used_bytes < freed
    add(db, "another")


@pytest.mark.parametrize(
    ("code", "full", "kind", "fatal"),
    [
        (errno.ENOSPC, False, StoreErrorKind.FULL, False),
        (errno.EDQUOT, False, StoreErrorKind.FULL, False),
        (errno.EIO, True, StoreErrorKind.FULL, False),
        (errno.EIO, False, StoreErrorKind.IO, True),
        (errno.EROFS, False, StoreErrorKind.READ_ONLY, False),
        (-30795, False, StoreErrorKind.IO, True),  # MDB_PANIC
        (-30796, True, StoreErrorKind.IO, True),  # MDB_CORRUPTED
    ],
)
def test_errors_are_told_apart_by_code(db, monkeypatch, code, full, kind, fatal):
    class Failing:
        def begin(self, **_: Any) -> Any:
            raise lmdb_error(code)

        def info(self) -> dict[str, int]:
            return {"last_txnid": 0}

    monkeypatch.setattr(files, "is_full", lambda _: full)
    environment = db._env
    monkeypatch.setattr(db, "_env", Failing())
    for call in (lambda: db.read("a"), lambda: db.commit([seen("a")], report=True)):
        with pytest.raises(StoreError) as refused:
            call()
        assert (refused.value.kind, refused.value.fatal) == (kind, fatal)
    monkeypatch.setattr(db, "_env", environment)


def test_a_failed_commit_changes_nothing_in_memory_either(opened, monkeypatch):
    db = opened()
    add(db, "a")
    change = decided(db, "a", DUE)
    with monkeypatch.context() as broken:
        broken.setattr(db._history, "put_runs", fail)
        with pytest.raises(StoreError):
            db.commit([change], report=True, meta=MetaUpdate(etag="x"))
    assert (db.read("a").status, db.meta.etag, db.outbox_depth) == (ExecutionStatus.NULL, "", 0)
    assert db.counts()[ExecutionStatus.NULL] == 1
    assert db.commit([change], report=True).events[0][0] == 1


def fail(*_: Any) -> None:
    raise lmdb_error(errno.ENOSPC)
