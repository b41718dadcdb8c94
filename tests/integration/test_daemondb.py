"""daemonDB on a real disk: what wins, what is found again, what is reported."""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from geosched.ipc.actions import ExecutionStatus
from geosched.ipc.messages.runs import StopReason
from geosched.supervisor.core.lifecycle import decide, first_seen
from geosched.supervisor.core.model import (
    Absent,
    Change,
    DaemonStarted,
    Due,
    Null,
    Record,
    RunEnded,
    Running,
    RunRow,
    Sent,
    StopAsked,
)
from geosched.supervisor.store.daemondb import DaemonDB, MetaUpdate
from geosched.supervisor.store.tables.codec import action_key
from geosched.supervisor.store.tables.history import EVENTS_KEPT, RUNS_KEPT
from geosched.supervisor.store.tables.outbox import REFUSALS_MAX
from msgspec.structs import replace
from support.build import AFTER, BEFORE, GENERATION, HOUR_US, NOW, NOW_US, RULES, action, result
from support.store import (
    LONG_NAMES,
    Opener,
    add,
    all_edges,
    data_file,
    decided,
    happen,
    on_disk,
    seen,
    start,
    transactions,
)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def opened(state_dir: Path) -> Iterator[Opener]:
    opener = Opener(state_dir)
    yield opener
    opener.close()


@pytest.fixture
def db(opened: Opener) -> DaemonDB:
    return opened()


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


def test_a_turn_without_change_does_not_even_ask_for_the_write_lock(db, monkeypatch):
    add(db, "a")
    monkeypatch.setattr(db, "_write", None)
    assert db.commit([], report=True).won == ()
    assert db.commit([], report=True, meta=MetaUpdate(etag="")).won == ()


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


@pytest.mark.parametrize("seed", range(10))
def test_index_and_counts_follow_the_records_through_anything(opened, seed):
    random = Random(seed)
    db, ids = opened(), [f"id-{n}" for n in range(8)]
    for _ in range(150):
        changes = [change for change in map(partial(anything, db, random), ids) if change]
        twice = random.choices(changes, k=2) if changes else []  # the second of a kind loses
        db.commit(changes + twice, report=True)
    check_index_and_counts(db, ids)
    check_index_and_counts(opened(), ids)


def check_index_and_counts(db: DaemonDB, ids: list[str]) -> None:
    records = [record for record in map(db.read, ids) if record]
    edges = [(r.edge_us, action_key(r.action.id)) for r in records if r.edge_us is not None]
    assert all_edges(db) == sorted(edges)
    assert +db.counts() == Counter(record.status for record in records)


def anything(db: DaemonDB, random: Random, action_id: str) -> Change | None:
    """A change that something that may happen makes of an action, known or not."""
    record = db.read(action_id)
    newer = action(
        action_id,
        from_us=NOW_US - random.randrange(HOUR_US),
        to_us=NOW_US + random.randrange(1, HOUR_US),
        app_names=random.choice([("one",), LONG_NAMES, ()]),
    )
    if record is None:
        return first_seen(newer, NOW, RULES) if random.random() < 0.2 else None
    run_id = record.state.run.run_id if isinstance(record.state, Running) else "none"
    event = random.choice(
        [Sent(newer), Sent(newer), Due(True), DaemonStarted(None), RunEnded(result(run_id=run_id))]
        + [Absent(), StopAsked()] * (random.random() < 0.1)
    )
    return decide(record, event, NOW, RULES)


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
    monkeypatch.setattr("geosched.supervisor.store.tables.actions.PAGE_ROWS_MAX", 10)
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
    with pytest.raises(ValueError, match=r"^cannot go on with the list"):
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


def test_a_record_of_a_stopping_run_keeps_its_reason(opened):
    db = opened()
    add(db, "a")
    start(db, "a")
    happen(db, "a", StopAsked())
    record = opened().read("a")
    assert isinstance(record, Record)
    assert record.state.run.stop is StopReason.OPERATOR


def test_what_was_committed_outlives_kill_minus_nine(state_dir):
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from geosched.supervisor.core.lifecycle import first_seen
from geosched.supervisor.store.daemondb import DaemonDB
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


def test_a_copy_of_the_store_is_a_store(opened, state_dir, tmp_path):
    add(opened(), "a")
    opened.close()
    shutil.copytree(state_dir, tmp_path / "copy")
    copy = DaemonDB.open(tmp_path / "copy")
    assert copy.read("a") == seen("a").after
    copy.close()


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
    assert db.outbox_depth == 1
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
    assert (db.reports.refused, [n for n, _ in db.outbox_pending(10)]) == (0, [1, 2])
    db = opened()
    db.settle_reports([], [1])
    assert (db.reports.refused, db.outbox_depth) == (1, 1)
    db = opened()
    assert (db.reports.refused, [n for n, _ in db.outbox_pending(10)]) == (1, [2])


@pytest.fixture
def refused(opened):
    """A store with three reports set aside (1 to 3) and two pending (4 and 5)."""
    db = opened()
    add(db, *"abcde")
    start(db, *"abcde")
    for _ in range(REFUSALS_MAX):
        db.settle_reports([], [1, 2, 3])
    return db


def page_of(db, *, set_aside, after=0, limit=10):
    rows, cursor = db.reports.page(set_aside=set_aside, after=after, limit=limit)
    return [(number, row.refusals) for number, row in rows], cursor


def test_reports_are_shown_by_pages_each_kind_oldest_first(refused):
    assert page_of(refused, set_aside=False) == ([(4, 0), (5, 0)], 0)
    assert page_of(refused, set_aside=True, limit=2) == ([(1, 10), (2, 10)], 2)
    assert page_of(refused, set_aside=True, limit=2, after=2) == ([(3, 10)], 0)


def test_what_was_set_aside_is_put_back_in_order_and_as_if_never_refused(refused, opened):
    assert refused.reports.put_back() == 3
    db = opened()
    assert (db.reports.refused, db.outbox_depth) == (0, 5)
    assert [n for n, _ in db.outbox_pending(10)] == [1, 2, 3, 4, 5]
    assert page_of(db, set_aside=False) == ([(n, 0) for n in range(1, 6)], 0)
    before = transactions(db)
    assert db.reports.put_back() == 0
    assert transactions(db) == before


def test_no_more_is_put_back_than_the_outbox_holds(refused, opened):
    db = opened(outbox_rows_max=4)
    assert db.reports.put_back() == 2
    assert (db.reports.refused, db.outbox_depth) == (1, 4)
    assert db.reports.put_back() == 0


def test_of_what_was_set_aside_all_that_is_named_is_dropped_or_nothing(refused, opened):
    assert refused.reports.drop([1, 4, 99]) == [4, 99]
    assert refused.reports.refused == 3
    assert refused.reports.drop([1, 3]) == []
    assert page_of(opened(), set_aside=True) == ([(2, 10)], 0)


def test_all_that_was_set_aside_can_be_dropped_and_nothing_else_is(refused, opened):
    assert refused.reports.drop_all() == 3
    assert refused.reports.drop_all() == 0
    db = opened()
    assert (db.reports.refused, db.outbox_depth) == (0, 2)


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
