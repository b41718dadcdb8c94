"""daemonDB against any history: decided by the core, stored here, compared after every turn."""

from collections import Counter
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from geosched.ipc.actions import ExecutionStatus
from geosched.supervisor.core.lifecycle import Rules, decide, first_seen, new_run_id
from geosched.supervisor.core.model import (
    Absent,
    Change,
    DaemonStarted,
    Due,
    Event,
    Instant,
    Record,
    RunEnded,
    Sent,
    StatusChange,
    StopAsked,
)
from geosched.supervisor.core.restart import RestartMode, RestartPolicy
from geosched.supervisor.store.daemondb import DaemonDB
from geosched.supervisor.store.tables.codec import action_key
from geosched.supervisor.store.tables.outbox import REFUSALS_MAX, REFUSED_ROWS_MAX
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.build import GENERATION, HOUR_US, NOW, NOW_US, RULES, action, result

IDS = "abc"
ALL = frozenset(ExecutionStatus)
RESTARTING = Rules(GENERATION, {"default": RestartPolicy(RestartMode.ON_FAILURE)})
END = "end"  # of the newest run of the action, whether it is open or not

SENT = st.builds(
    lambda wanted, from_h, to_h, apps: Sent(
        action(
            should_be_executed=wanted,
            from_us=NOW_US + from_h * HOUR_US,
            to_us=NOW_US + to_h * HOUR_US,
            app_names=apps,
        )
    ),
    st.sampled_from([True, True, True, False]),
    st.integers(-3, 1),
    st.integers(2, 4),
    st.sampled_from([("A",), ("long" * 60, "er" * 60), ("long" * 70, "er" * 60)]),
)
#: What makes a long life comes often, what ends it seldom.
EVENTS = st.one_of(
    SENT,
    SENT,
    st.sampled_from([END, END, DaemonStarted(None), StopAsked(), Absent()]),
    st.builds(Due, st.just(True), st.booleans()),
    st.builds(Due, st.booleans(), st.booleans()),
)
HOURS = st.sampled_from([0, 0, 0, 0, 1, -4, 5])
STEPS = st.lists(st.tuples(st.sampled_from(IDS), EVENTS, HOURS), max_size=40)


def decided(
    known: Record | None, action_id: str, event: Event | str, now: Instant
) -> Change | None:
    if isinstance(event, Sent):
        event = Sent(replace(event.action, id=action_id))
    if known is None:
        new = event.action if isinstance(event, Sent) else action(action_id)
        return first_seen(new, now, RESTARTING)
    if isinstance(event, str):
        run_id = new_run_id(GENERATION, action_id, known.attempt)
        event = RunEnded(result(run_id=run_id, exit_code=1))
    return decide(known, event, now, RESTARTING)


def assert_index_follows(db: DaemonDB) -> None:
    """Exactly one entry for each record that is not over, at its edge, and no other."""
    records, _ = db.page("", 100, ALL)
    assert db.due(None, 2**63 - 1, 100) == sorted(
        (record.edge_us, action_key(record.action.id))
        for record in records
        if record.edge_us is not None
    )
    assert db.counts() == Counter(record.status for record in records)


def all_reports(db: DaemonDB) -> list[tuple[int, StatusChange]]:
    """As a backend that takes everything gets them, in the order in which they come."""
    taken = []
    while pending := db.outbox_pending(2):
        taken += pending
        db.settle_reports([sequence for sequence, _ in pending], [])
    return taken


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(1, 4))
def test_the_store_follows_any_history(steps, per_turn):
    with TemporaryDirectory(prefix="gs-") as place, closing(DaemonDB.open(Path(place))) as db:
        model: dict[str, Record] = {}
        changes: list[Change] = []
        told: list[StatusChange] = []
        for number, (action_id, event, hours) in enumerate(steps, 1):
            now = Instant(NOW_US + hours * HOUR_US)
            change = decided(model.get(action_id), action_id, event, now)
            if change is not None:
                model[action_id] = change.after
                changes.append(change)
            if number % per_turn == 0 or number == len(steps):
                done = db.commit(changes, report=True)
                assert all(done.won)
                told += [event for _, event in done.events]
                changes.clear()
                assert_index_follows(db)
        assert {each: db.read(each) for each in model} == model
        assert db.events(0) == list(enumerate(told, 1))
        reports = [row for row in db.events(0) if row[1].new is not ExecutionStatus.NULL]
        sent = all_reports(db)
        assert sorted(sent, key=lambda row: row[0]) == reports
        for each in IDS:  # S18: in order per action
            of_action = [row for row in sent if row[1].action_id == each]
            assert of_action == [row for row in reports if row[1].action_id == each]


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_a_restart_at_any_point_finds_what_was_committed(steps):
    with TemporaryDirectory(prefix="gs-") as place:
        model: dict[str, Record] = {}
        for start in range(0, len(steps), 5):
            with closing(DaemonDB.open(Path(place))) as db:
                assert {each: db.read(each) for each in model} == model
                assert_index_follows(db)
                for action_id, event, hours in steps[start : start + 5]:
                    now = Instant(NOW_US + hours * HOUR_US)
                    change = decided(model.get(action_id), action_id, event, now)
                    if change is not None:
                        assert db.commit([change], report=False).won == (True,)
                        model[action_id] = change.after
                runs = {each: db.runs(each, 100) for each in model}
                # Each attempt has its row, the newest among them.
                for each, record in model.items():
                    attempts = [row.attempt for row in runs[each]]
                    assert attempts == list(range(record.attempt, 0, -1))


@pytest.mark.parametrize("limit", [1, 3, 10, 100])
def test_pages_of_open_records_go_on_while_what_is_on_them_is_withdrawn(tmp_path, limit):
    """As a pull does: every record of a page has left the index before the next page."""
    with closing(DaemonDB.open(tmp_path)) as db:
        news = [first_seen(action(f"id-{n}"), NOW, RULES) for n in range(25)]
        db.commit(news, report=False)
        cursor, count = "", 0
        while True:
            records, cursor = db.open_page(cursor, limit)
            gone = [decide(record, Absent(), NOW, RULES) for record in records]
            assert all(db.commit([each for each in gone if each], report=False).won)
            count += len(records)
            if not cursor:
                break
        assert count == 25
        assert db.counts() == Counter({ExecutionStatus.WONT_START: 25})


def test_of_the_reports_that_were_set_aside_the_newest_are_kept(tmp_path):
    with closing(DaemonDB.open(tmp_path)) as db:
        count = REFUSED_ROWS_MAX + 3
        refused = [action(f"id-{n}", should_be_executed=False) for n in range(count)]
        db.commit([first_seen(each, NOW, RULES) for each in refused], report=True)
        assert db.outbox_depth == count
        for _ in range(REFUSALS_MAX):
            db.settle_reports([], range(1, count + 1))
        assert (db.outbox_depth, db.reports.refused) == (0, REFUSED_ROWS_MAX)
        assert db.outbox_oldest_us is None


def test_a_refusal_of_what_was_taken_is_nothing(tmp_path):
    with closing(DaemonDB.open(tmp_path)) as db:
        db.commit([first_seen(action(should_be_executed=False), NOW, RULES)], report=True)
        db.settle_reports([1], [1])
        db.settle_reports([], [1, 99])
        assert (db.outbox_depth, db.reports.refused) == (0, 0)
