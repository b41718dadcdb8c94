"""daemonDB on a real disk: what wins, what is due, what is listed."""

from collections import Counter
from functools import partial
from random import Random

import pytest
from geosched.ipc.actions import ExecutionStatus
from geosched.supervisor.core.lifecycle import decide, first_seen
from geosched.supervisor.core.model import (
    Absent,
    Change,
    DaemonStarted,
    Due,
    RunEnded,
    Running,
    RunRow,
    Sent,
    StopAsked,
)
from geosched.supervisor.store.daemondb import DaemonDB, MetaUpdate
from geosched.supervisor.store.tables.codec import action_key
from geosched.supervisor.store.tables.history import EVENTS_KEPT, RUNS_KEPT
from msgspec.structs import replace
from support.build import AFTER, BEFORE, DUE, HOUR_US, NOW, NOW_US, RULES, action, result
from support.store import (
    LONG_NAMES,
    add,
    all_edges,
    data_file,
    decided,
    happen,
    seen,
    start,
    transactions,
)

# --- compare-and-swap -------------------------------------------------------------------


def test_a_change_wins_on_the_record_it_was_decided_over(db):
    add(db, "a")
    start(db, "a")
    record = db.read("a")
    assert (record.status, record.revision, record.attempt) == (ExecutionStatus.STARTED, 2, 1)


def test_of_two_changes_decided_over_the_same_record_the_second_loses(db):
    add(db, "a")
    started = decided(db, "a", DUE)
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
    change = decide(never_stored, DUE, NOW, RULES)
    assert db.commit([change], report=True).won == (False,)
    assert db.read("a") is None
    assert all_edges(db) == []


def test_changes_of_one_action_follow_one_another_in_one_turn(db):
    new = seen("a")
    started = decide(new.after, DUE, NOW, RULES)
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
    changes = [decided(db, i, DUE) for i in ("a", "b")]
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
    db.commit([decided(db, i, DUE) for i in ids[:40]], report=False)
    db.commit([decided(db, i, DUE) for i in ids[40:]], report=False)
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
