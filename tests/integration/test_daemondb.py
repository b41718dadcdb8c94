"""daemonDB on a real disk: what wins, what stays, what is refused, what damage costs."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from geosched.ipc.actions import ExecutionStatus
from geosched.ipc.messages import StopReason
from geosched.supervisor import migrations, storefile
from geosched.supervisor.core.lifecycle import decide, first_seen
from geosched.supervisor.core.model import (
    Absent,
    Change,
    Due,
    Null,
    Record,
    RunEnded,
    RunRow,
    Sent,
    StopAsked,
)
from geosched.supervisor.daemondb import DaemonDB, MetaUpdate, StoreError, StoreErrorKind
from geosched.supervisor.history import EVENTS_KEPT, RUNS_KEPT
from geosched.supervisor.outbox import REFUSALS_MAX
from geosched.supervisor.records import action_key, number_key
from msgspec.structs import replace
from support.build import AFTER, BEFORE, GENERATION, HOUR_US, NOW, NOW_US, RULES, action, result

Open = Callable[..., DaemonDB]
LONG_NAMES = tuple(f"app number {n}" for n in range(100))


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def opened(state_dir: Path) -> Iterator[Open]:
    """Opens the store of this test; a second call is a restart."""
    stores: list[DaemonDB] = []

    def open_store(**settings: Any) -> DaemonDB:
        for store in stores:
            store.close()
        stores.append(DaemonDB.open(state_dir, **settings))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def db(opened: Open) -> DaemonDB:
    return opened()


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
        happen(db, action_id, Due(slot_free=True))


def all_edges(db: DaemonDB) -> list[tuple[int, bytes]]:
    return db.due(None, 2**63 - 1, 10_000)


def data_file(state_dir: Path) -> Path:
    return state_dir / "daemondb" / "data.mdb"


def on_disk(state_dir: Path, table: str, change: Callable[[Any, Any], None]) -> None:
    """Do something to a table that the product would not; its store must be closed."""
    with lmdb.open(str(state_dir / "daemondb"), max_dbs=16, lib_version=0) as env:
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


def transactions(db: DaemonDB) -> int:
    """The number of the last write transaction that wrote anything."""
    return int(db._env.info()["last_txnid"])


# --- compare-and-swap -------------------------------------------------------------------


def test_a_change_wins_on_the_record_it_was_decided_over(db):
    add(db, "a")
    start(db, "a")
    record = db.read("a")
    assert (record.status, record.revision, record.attempt) == (ExecutionStatus.STARTED, 2, 1)


def test_of_two_changes_decided_over_the_same_record_the_second_loses(db):
    add(db, "a")
    started = decided(db, "a", Due(slot_free=True))
    withdrawn = decided(db, "a", Absent())
    committed = db.commit([started, withdrawn], report=True)
    assert committed.won == (True, False)
    assert db.read("a") == started.after
    assert [event.new for _, event in committed.events] == [ExecutionStatus.STARTED]
    assert db.counts()[ExecutionStatus.STARTED] == 1


def test_a_revision_is_compared_even_where_the_status_is_the_same(db):
    add(db, "a")
    stale = decided(db, "a", Sent(action("a", to_us=NOW_US + 2 * HOUR_US)), BEFORE)
    happen(db, "a", Sent(action("a", app_names=("Other",))), BEFORE)
    assert db.commit([stale], report=True).won == (False,)
    assert db.read("a").action.app_names == ("Other",)


def test_a_new_action_loses_where_its_id_is_known(db):
    add(db, "a")
    start(db, "a")
    assert db.commit([seen("a")], report=True).won == (False,)
    assert db.read("a").status is ExecutionStatus.STARTED


def test_a_change_of_an_unknown_action_loses(db):
    never_stored = seen("a").after
    change = decide(never_stored, Due(slot_free=True), NOW, RULES)
    assert db.commit([change], report=True).won == (False,)
    assert db.read("a") is None
    assert all_edges(db) == []


def test_changes_of_one_action_follow_one_another_in_one_turn(db):
    new = seen("a")
    started = decide(new.after, Due(slot_free=True), NOW, RULES)
    asked = decide(started.after, StopAsked(), NOW, RULES)
    committed = db.commit([new, started, asked], report=True)
    assert committed.won == (True, True, True)
    assert db.read("a") == asked.after
    assert [sequence for sequence, _ in committed.events] == [1]


def test_a_turn_without_change_writes_nothing(db, state_dir):
    add(db, "a")
    before, stamp = transactions(db), data_file(state_dir).stat().st_mtime_ns
    known = MetaUpdate(etag="", clock_mark_us=0)
    assert db.commit([], report=True).won == ()
    assert db.commit([], report=True, meta=known).won == ()
    assert db.commit([seen("a")], report=True, meta=known).won == (False,)
    db.settle_reports([], [])
    assert (transactions(db), data_file(state_dir).stat().st_mtime_ns) == (before, stamp)


def test_all_changes_of_a_turn_are_one_transaction(db):
    add(db, "a", "b")
    before = transactions(db)
    changes = [decided(db, i, Due(slot_free=True)) for i in ("a", "b")]
    db.commit(changes, report=True, meta=MetaUpdate(etag="x", clock_mark_us=NOW_US))
    assert transactions(db) == before + 1


# --- the index of edges -----------------------------------------------------------------


def test_every_open_record_has_one_edge_and_a_terminal_one_has_none(db):
    add(db, "a")
    key = action_key("a")
    assert all_edges(db) == [(NOW_US - HOUR_US, key)]
    start(db, "a")
    assert all_edges(db) == [(NOW_US + HOUR_US, key)]
    happen(db, "a", RunEnded(result(run_id=db.read("a").state.run.run_id)))
    assert all_edges(db) == []
    assert db.read("a").status is ExecutionStatus.FINISHED


def test_an_edge_moves_with_the_dates(db):
    add(db, "a")
    happen(db, "a", Sent(action("a", from_us=NOW_US, to_us=NOW_US + HOUR_US)), BEFORE)
    assert all_edges(db) == [(NOW_US, action_key("a"))]


def test_what_is_due_comes_earliest_first_up_to_the_instant_asked_for(db):
    for number in (3, 1, 2, 4):
        add(db, str(number), from_us=number)
    assert [edge for edge, _ in db.due(None, 3, 10)] == [1, 2, 3]
    assert [edge for edge, _ in db.due(None, 3, 2)] == [1, 2]


def test_what_was_looked_at_is_not_due_again(db):
    add(db, "a", "b", "c", from_us=7)
    first = db.due(None, 7, 2)
    rest = db.due(first[-1], 7, 2)
    assert sorted(first + rest) == sorted((7, action_key(i)) for i in "abc")
    assert db.due(rest[-1], 7, 2) == []


def test_the_next_edge_is_the_first_one_later(db):
    assert db.next_edge_after(0) is None
    add(db, "a", from_us=5)
    add(db, "b", from_us=9)
    assert [db.next_edge_after(at) for at in (-1, 4, 5, 9)] == [5, 5, 9, None]


def test_open_records_are_paged_without_the_terminal_ones(db):
    ids = [f"id-{n}" for n in range(25)]
    add(db, *ids)
    happen(db, "id-3", Absent())
    found, cursor = [], ""
    for _ in range(3):
        records, cursor = db.open_page(cursor, 10)
        found += [record.action.id for record in records]
    assert cursor == ""
    assert sorted(found) == sorted(set(ids) - {"id-3"})


def test_started_records_are_found_among_many(db):
    add(db, *(f"id-{n}" for n in range(50)))
    start(db, "id-7", "id-31")
    assert sorted(record.action.id for record in db.started()) == ["id-31", "id-7"]


# --- lists, runs, events ----------------------------------------------------------------


def test_a_list_is_paged_and_whole(db):
    ids = [f"id-{n}" for n in range(45)]
    add(db, *ids)
    found, cursor, pages = [], "", 0
    while pages == 0 or cursor:
        records, cursor = db.page(cursor, 20, frozenset(ExecutionStatus))
        found += [record.action.id for record in records]
        pages += 1
    assert (sorted(found), pages) == (sorted(ids), 3)


def test_a_list_of_one_status_holds_that_one_only(db):
    add(db, "a", "b", "c")
    start(db, "b")
    records, cursor = db.page("", 20, {ExecutionStatus.STARTED})
    assert ([record.action.id for record in records], cursor) == (["b"], "")


def test_a_page_looks_at_a_bounded_number_of_rows_and_can_be_gone_on_from(db, monkeypatch):
    monkeypatch.setattr("geosched.supervisor.actionrows.PAGE_ROWS_MAX", 10)
    add(db, *(f"id-{n}" for n in range(25)))
    start(db, "id-0", "id-1", "id-2")
    found, cursor, pages = [], "", 0
    while pages == 0 or cursor:
        records, cursor = db.page(cursor, 20, {ExecutionStatus.STARTED})
        found += [record.action.id for record in records]
        pages += 1
    assert (sorted(found), pages) == (["id-0", "id-1", "id-2"], 3)


@pytest.mark.parametrize("cursor", ["zz", "00", "00" * 17, "00" * 600, "ü"])
def test_a_cursor_of_a_stranger_is_refused(db, cursor):
    with pytest.raises(ValueError, match="^cannot go on with the list"):
        db.page(cursor, 20, frozenset(ExecutionStatus))


def test_the_newest_twenty_runs_are_kept_newest_first(db):
    add(db, "a", "b")
    record = db.read("a")
    for attempt in range(1, RUNS_KEPT + 4):
        after = replace(record, revision=record.revision + 1, attempt=attempt)
        row = RunRow(f"run-{attempt}", attempt, NOW_US)
        assert db.commit([Change(record, after, row)], report=False).won == (True,)
        record = after
    rows = db.runs("a", 50)
    assert [row.attempt for row in rows] == list(range(RUNS_KEPT + 3, 3, -1))
    assert db.runs("a", 2) == rows[:2]
    assert db.runs("b", 50) == []
    assert db.run("a", RUNS_KEPT) == RunRow(f"run-{RUNS_KEPT}", RUNS_KEPT, NOW_US)


@pytest.mark.parametrize("attempt", [0, 1, -1, 2**32, 2**70])
def test_a_run_that_never_was_is_none(db, attempt):
    add(db, "a")
    assert db.run("a", attempt) is None


def test_the_last_hundred_events_are_kept_in_order(db):
    ids = [f"id-{n}" for n in range(EVENTS_KEPT + 30)]
    add(db, *ids)
    db.commit([decided(db, i, Due(slot_free=True)) for i in ids[:40]], report=False)
    db.commit([decided(db, i, Due(slot_free=True)) for i in ids[40:]], report=False)
    events = db.events(0)
    assert [sequence for sequence, _ in events] == list(range(31, EVENTS_KEPT + 31))
    assert [change.action_id for _, change in events] == ids[30:]
    assert [sequence for sequence, _ in db.events(128)] == [129, 130]


@pytest.mark.parametrize(("after", "found"), [(-(2**70), 1), (-1, 1), (1, 0), (2**64, 0)])
def test_events_after_any_number_are_answered(db, after, found):
    add(db, "a")
    start(db, "a")
    assert len(db.events(after)) == found


def test_a_new_action_is_no_event_but_one_that_wont_start_is(db):
    missed = first_seen(action("late"), AFTER, RULES)
    committed = db.commit([seen("a"), missed], report=True)
    assert [(n, event.new) for n, event in committed.events] == [(1, ExecutionStatus.WONT_START)]


# --- reopening --------------------------------------------------------------------------


def test_everything_is_as_it_was_after_reopening(opened):
    db = opened()
    add(db, "a", "b", "c")
    start(db, "a", "b")
    happen(db, "b", RunEnded(result(run_id=db.read("b").state.run.run_id, exit_code=3)))
    db.commit([], report=True, meta=MetaUpdate("e", "d", "s", NOW_US))
    told = [
        lambda s: [s.read(i) for i in "abc"],
        lambda s: (s.meta, s.counts(), s.events(0), s.outbox_pending(10), s.outbox_depth),
        lambda s: (all_edges(s), s.started(), s.runs("b", 20), s.counts_line()),
    ]
    before = [tell(db) for tell in told]
    db = opened()
    assert [tell(db) for tell in told] == before
    assert db.counts() == {
        ExecutionStatus.NULL: 1,
        ExecutionStatus.STARTED: 1,
        ExecutionStatus.FAILED: 1,
    }


def test_opening_a_store_again_does_not_write_to_it(opened):
    db = opened()
    add(db, "a")
    before = transactions(db)
    assert transactions(opened()) == before


def test_sequence_numbers_never_restart(opened):
    db = opened()
    add(db, "a", "b")
    start(db, "a")
    db.settle_reports([1], [])
    db = opened()
    assert db.commit([decided(db, "b", Due(True))], report=False).events[0][0] == 2
    db = opened()
    assert db.commit([decided(db, "b", Absent())], report=False).events == ()  # only a stop
    ended = RunEnded(result(run_id=db.read("b").state.run.run_id))
    assert db.commit([decided(db, "b", ended)], report=True).events[0][0] == 3


def test_generation_and_device_are_made_once_and_differ_between_stores(opened, tmp_path):
    first = opened().meta
    again = opened().meta
    other = DaemonDB.open(tmp_path / "other")
    other.close()
    assert first == again
    assert len({first.generation, first.device, other.meta.generation, other.meta.device}) == 4
    assert len(first.generation) == len(GENERATION)
    assert int(first.generation, 16) >= 0


def test_what_was_committed_outlives_kill_minus_nine(state_dir):
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from geosched.supervisor.core.lifecycle import first_seen
from geosched.supervisor.daemondb import DaemonDB
from support.build import BEFORE, RULES, action
db = DaemonDB.open(Path({str(state_dir)!r}))
db.commit([first_seen(action("a"), BEFORE, RULES)], report=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script], timeout=30, check=False)
    assert ended.returncode == -9
    db = DaemonDB.open(state_dir)
    assert db.read("a") == seen("a").after
    db.close()


# --- long configuration -----------------------------------------------------------------


def test_long_configuration_is_invisible_to_callers(opened):
    db = opened()
    add(db, "a", app_names=LONG_NAMES, args='{"strict":true}')
    start(db, "a")
    assert opened().read("a").action == action("a", app_names=LONG_NAMES, args='{"strict":true}')


def test_a_change_of_status_does_not_write_long_configuration_again(opened, state_dir):
    db = opened()
    add(db, "a", app_names=LONG_NAMES)
    db.close()
    lost: list[bytes] = []

    def take_away(txn: Any, handle: Any) -> None:
        lost.append(txn.pop(action_key("a"), db=handle))

    record = seen("a", app_names=LONG_NAMES).after
    on_disk(state_dir, "details", take_away)
    assert len(lost[0]) > 1000
    db = opened()
    change = decide(record, Due(slot_free=True), NOW, RULES)
    assert db.commit([change], report=True).won == (True,)
    db.close()
    on_disk(
        state_dir, "details", lambda txn, handle: lost.append(txn.get(action_key("a"), db=handle))
    )
    assert lost[1] is None


def test_configuration_may_grow_and_shrink(db):
    add(db, "a")
    for names in (LONG_NAMES, LONG_NAMES[:-1], ("one",), (), LONG_NAMES):
        happen(db, "a", Sent(action("a", app_names=names)), BEFORE)
        assert db.read("a").action.app_names == names


# --- the outbox -------------------------------------------------------------------------


def test_reports_are_recorded_with_the_change_and_oldest_first(db):
    add(db, "a", "b")
    start(db, "b", "a")
    pending = db.outbox_pending(10)
    assert [(n, change.action_id, change.new) for n, change in pending] == [
        (1, "b", ExecutionStatus.STARTED),
        (2, "a", ExecutionStatus.STARTED),
    ]
    assert [change for _, change in pending] == [change for _, change in db.events(0)]
    assert (db.outbox_depth, db.outbox_oldest_us) == (2, NOW_US)


def test_nothing_is_recorded_for_a_backend_that_takes_no_reports(db):
    add(db, "a")
    db.commit([decided(db, "a", Due(slot_free=True))], report=False)
    assert (db.outbox_depth, db.outbox_oldest_us, len(db.events(0))) == (0, None, 1)


def test_null_after_a_restart_is_an_event_but_not_reported(db):
    add(db, "a")
    start(db, "a")
    record = db.read("a")
    again = replace(record, state=Null(), revision=record.revision + 1)
    committed = db.commit([Change(record, again)], report=True)
    assert [event.new for _, event in committed.events] == [ExecutionStatus.NULL]
    assert [change.new for _, change in db.outbox_pending(10)] == [ExecutionStatus.STARTED]


def test_a_later_report_of_an_action_waits_for_the_earlier_one(db):
    add(db, "a", "b")
    start(db, "a", "b")
    happen(db, "a", RunEnded(result(run_id=db.read("a").state.run.run_id)))
    assert [n for n, _ in db.outbox_pending(10)] == [1, 2]
    db.settle_reports([2], [1])
    assert [n for n, _ in db.outbox_pending(10)] == [1]
    db.settle_reports([1], [])
    assert [n for n, _ in db.outbox_pending(10)] == [3]


def test_a_batch_is_no_longer_than_asked_for(db):
    add(db, *"abcde")
    start(db, *"abcde")
    assert [n for n, _ in db.outbox_pending(3)] == [1, 2, 3]


def test_settled_reports_are_gone_and_the_others_stay(opened):
    db = opened()
    add(db, "a", "b", "c")
    start(db, "a", "b", "c")
    db.settle_reports([1, 3, 77], [78])
    assert [n for n, _ in opened().outbox_pending(10)] == [2]


def test_a_report_refused_too_often_is_set_aside_and_counted(opened):
    db = opened()
    add(db, "a", "b")
    start(db, "a", "b")
    for _ in range(REFUSALS_MAX - 1):
        db.settle_reports([], [1])
    assert (db.outbox_refused, [n for n, _ in db.outbox_pending(10)]) == (0, [1, 2])
    db = opened()
    db.settle_reports([], [1])
    assert (db.outbox_refused, db.outbox_depth) == (1, 1)
    db = opened()
    assert (db.outbox_refused, [n for n, _ in db.outbox_pending(10)]) == (1, [2])


def test_a_full_outbox_drops_the_oldest_that_say_started_and_then_the_oldest(opened):
    db = opened(outbox_rows_max=3)
    add(db, "a", "b", "c")
    happen(db, "a", Absent())  # 1, final
    start(db, "b")  # 2, not final
    happen(db, "c", Absent())  # 3, final
    add(db, "d", "e")
    happen(db, "d", Absent())
    assert ([n for n, _ in db.outbox_pending(10)], db.outbox_dropped) == ([1, 3, 4], 1)
    happen(db, "e", Absent())
    assert [n for n, _ in db.outbox_pending(10)] == [3, 4, 5]
    assert opened().outbox_dropped == 2


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
    assert (state_dir / "daemondb" / "lock.mdb").stat().st_blocks * 512 >= storefile.LOCK_BYTES


def test_a_second_opener_in_this_process_is_refused_and_the_first_goes_on(db, state_dir):
    with pytest.raises(StoreError, match="^cannot use"):
        DaemonDB.open(state_dir)
    add(db, "a")


def test_the_file_system_of_a_directory_is_known():
    assert storefile.file_system(Path("/proc/self")) == "proc"


@pytest.mark.parametrize("kind", sorted(storefile.REFUSED_FILE_SYSTEMS))
def test_a_file_system_that_cannot_hold_it_is_refused(state_dir, monkeypatch, kind):
    monkeypatch.setattr(storefile, "file_system", lambda _: kind)
    with pytest.raises(StoreError, match=f"cannot keep daemonDB in .*: {kind} cannot hold it"):
        DaemonDB.open(state_dir)
    assert not data_file(state_dir).exists()


def test_a_disk_that_forgets_is_warned_of(opened, monkeypatch, caplog):
    monkeypatch.setattr(storefile, "file_system", lambda _: "tmpfs")
    opened()
    assert "may not outlive a reboot" in caplog.text


def test_a_parent_that_is_missing_is_not_made(tmp_path):
    with pytest.raises(StoreError, match="^cannot use"):
        DaemonDB.open(tmp_path / "no" / "state")
    assert list(tmp_path.iterdir()) == []


# --- what is refused --------------------------------------------------------------------


def closed_store(opened: Open, *ids: str) -> None:
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


def test_a_store_that_lost_its_data_is_refused(opened, state_dir):
    closed_store(opened)
    data_file(state_dir).write_bytes(b"")
    refused_untouched(state_dir, "it is missing or empty, and it was not before")


def test_a_store_whose_data_is_missing_is_refused(opened, state_dir):
    closed_store(opened)
    data_file(state_dir).unlink()
    with pytest.raises(StoreError, match="it is missing or empty, and it was not before"):
        DaemonDB.open(state_dir)
    assert not data_file(state_dir).exists()


def test_an_empty_file_of_a_first_start_that_failed_is_no_loss(opened, state_dir):
    data_file(state_dir).parent.mkdir(parents=True)
    data_file(state_dir).touch()
    add(opened(), "a")


def test_a_first_start_that_was_cut_short_is_begun_again(opened, state_dir):
    place = state_dir / "daemondb"
    place.mkdir(parents=True)
    lmdb.open(str(place), max_dbs=16, lib_version=0).close()
    add(opened(), "a")


def test_an_empty_store_in_the_place_of_a_full_one_is_refused(opened, state_dir):
    closed_store(opened)
    place = state_dir / "daemondb"
    data_file(state_dir).unlink()
    lmdb.open(str(place), max_dbs=16, lib_version=0).close()
    refused_untouched(state_dir, "what it holds is no daemonDB")


def test_a_foreign_lmdb_file_is_refused_untouched(state_dir):
    place = state_dir / "daemondb"
    place.mkdir(parents=True)
    with lmdb.open(str(place), lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"somebody", b"else's")
    refused_untouched(state_dir, "what it holds is no daemonDB")


def test_bytes_that_are_no_lmdb_file_are_refused_untouched(opened, state_dir):
    closed_store(opened)
    data_file(state_dir).write_bytes(b"\0" * 20_000)
    refused_untouched(state_dir, "^cannot use")


def test_a_truncated_store_is_refused_and_does_not_kill_the_process(opened, state_dir):
    closed_store(opened, *(f"id-{n}" for n in range(500)))
    with data_file(state_dir).open("r+b") as file:
        file.truncate(3 * 4096)
    refused_untouched(state_dir, "it is damaged")


def test_a_zeroed_page_is_refused_and_does_not_kill_the_process(opened, state_dir):
    closed_store(opened, *(f"id-{n}" for n in range(500)))
    with data_file(state_dir).open("r+b") as file:
        data = file.read()
        live = data.index(b"id-250") // 4096
        file.seek(live * 4096)
        file.write(b"\0" * 4096)
    refused_untouched(state_dir, "it is damaged")


# --- migrations -------------------------------------------------------------------------


def test_every_older_format_has_a_migration():
    assert set(migrations.MIGRATIONS) == set(range(1, migrations.FORMAT))


def test_migrations_run_in_order_from_the_format_that_is_there():
    ran: list[int] = []
    steps = {n: lambda _txn, _open, n=n: ran.append(n) for n in (1, 2, 3, 4)}
    migrations.migrate(None, None, 2, newest=4, migrations=steps)
    assert ran == [2, 3]


def test_an_older_store_is_migrated_when_it_is_opened(opened, state_dir, monkeypatch):
    closed_store(opened)

    def mark(txn: Any, open_table: Any) -> None:
        txn.put(b"migrated", b"yes", db=open_table(b"meta"))

    monkeypatch.setattr(migrations, "FORMAT", 2)
    monkeypatch.setattr(migrations, "MIGRATIONS", {1: mark})
    db = opened()
    assert db.read("a") is not None
    db.close()
    found: list[bytes] = []

    def look(txn: Any, handle: Any) -> None:
        found.extend(txn.get(key, db=handle) for key in (b"migrated", b"format"))

    on_disk(state_dir, "meta", look)
    assert found == [b"yes", b"\0\0\0\2"]


# --- damage -----------------------------------------------------------------------------


def test_a_damaged_record_costs_that_record_and_is_told_once(opened, state_dir, caplog):
    closed_store(opened, "a", "b")
    flip("actions", action_key("a"), state_dir)
    db = opened()
    assert [db.read("a"), db.read("a"), db.read_key(action_key("a"))] == [None] * 3
    assert db.read("b") is not None
    assert db.damaged == 1
    assert caplog.text.count("Lost a value") == 1
    records, _ = db.page("", 10, frozenset(ExecutionStatus))
    assert [record.action.id for record in records] == ["b"]
    assert [record.action.id for record in db.open_page("", 10)[0]] == ["b"]


def test_a_change_over_a_damaged_record_loses(opened, state_dir):
    closed_store(opened)
    change = decide(seen("a").after, Due(slot_free=True), NOW, RULES)
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


# --- full and failing disks -------------------------------------------------------------


def test_a_full_map_grows_and_the_turn_is_committed_once(opened):
    db = opened(map_bytes=128 * 1024, map_bytes_max=4 * 1024**2)
    for batch in range(10):
        ids = [f"{batch}-{n}" for n in range(100)]
        assert all(db.commit([seen(i) for i in ids], report=True).won)
    assert db.counts()[ExecutionStatus.NULL] == 1000
    assert len(all_edges(db)) == 1000


def test_a_map_at_its_bound_is_an_error_that_can_be_waited_out(opened):
    db = opened(map_bytes=128 * 1024, map_bytes_max=128 * 1024)
    with pytest.raises(StoreError, match="^cannot use") as refused:
        for batch in range(100):
            db.commit([seen(f"{batch}-{n}") for n in range(100)], report=True)
    assert refused.value.kind is StoreErrorKind.MAP_FULL
    assert not refused.value.fatal
    counted = db.counts()[ExecutionStatus.NULL]
    assert counted == len(all_edges(db)) > 0
    assert opened(map_bytes_max=1024**2).counts()[ExecutionStatus.NULL] == counted


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
        def begin(self, write: bool = False) -> Any:
            raise lmdb.Error("begin", code)

    monkeypatch.setattr(storefile, "is_full", lambda _: full)
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
    change = decided(db, "a", Due(slot_free=True))
    with monkeypatch.context() as broken:
        broken.setattr(db._history, "put_run", fail)
        with pytest.raises(StoreError):
            db.commit([change], report=True, meta=MetaUpdate(etag="x"))
    assert (db.read("a").status, db.meta.etag, db.outbox_depth) == (ExecutionStatus.NULL, "", 0)
    assert db.counts()[ExecutionStatus.NULL] == 1
    assert db.commit([change], report=True).events[0][0] == 1


def fail(*_: Any) -> None:
    raise lmdb.Error("put", errno.ENOSPC)


def test_a_record_of_a_stopping_run_keeps_its_reason(opened):
    db = opened()
    add(db, "a")
    start(db, "a")
    happen(db, "a", StopAsked())
    record = opened().read("a")
    assert isinstance(record, Record)
    assert record.state.run.stop is StopReason.OPERATOR


def test_a_copy_of_the_store_is_a_store(opened, state_dir, tmp_path):
    closed_store(opened)
    shutil.copytree(state_dir, tmp_path / "copy")
    copy = DaemonDB.open(tmp_path / "copy")
    assert copy.read("a") == seen("a").after
    copy.close()


def test_a_value_that_is_sound_but_means_nothing_is_damaged(opened, state_dir):
    closed_store(opened)
    body = b"\x93\x01\x02\x03"
    value = b"\x01\x00" + zlib.crc32(body, 0).to_bytes(4, "big") + body
    on_disk(state_dir, "actions", lambda txn, handle: txn.put(action_key("a"), value, db=handle))
    assert opened().read("a") is None
