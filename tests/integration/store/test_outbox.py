"""The outbox of daemonDB: what is reported, set aside, put back and dropped."""

import pytest
from geosched.ipc.actions import ExecutionStatus
from geosched.supervisor.core.model import Absent, Change, Null, RunEnded
from geosched.supervisor.store.tables.outbox import REFUSALS_MAX
from msgspec.structs import replace
from support.build import DUE, NOW_US, result
from support.store import add, decided, happen, start, transactions


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
    db.commit([decided(db, "a", DUE)], report=False)
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
