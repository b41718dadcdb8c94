"""What is forgotten of actions that are over, and what never is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc.actions import ExecutionStatus
from geosched.ipc.instants import SECOND_US
from geosched.supervisor.config.sections import DaemonSettings
from geosched.supervisor.core.lifecycle import first_seen
from geosched.supervisor.core.model import Absent, Instant, RunEnded, Sent, StopAsked
from geosched.supervisor.participant import News
from geosched.supervisor.store.daemondb import DaemonDB
from geosched.supervisor.store.tables.codec import action_key
from geosched.supervisor.store.tables.ended import ROWS_PER_TURN_MAX
from geosched.supervisor.upkeep.retention import SOFT_LIMIT, Retention
from support.build import AFTER, DUE, HOUR_US, NOW_US, RULES, action, result
from support.daemon import Daemon, daemon_installation, entry
from support.store import Opener, add, decided, happen, start, transactions
from support.wait import wait_for

END_US = NOW_US + HOUR_US  # of every window here
LONG_AFTER_US = NOW_US + 1_000 * HOUR_US


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(tmp_path / "state")
    yield opener
    opener.close()


@pytest.fixture
def db(opened: Opener) -> DaemonDB:
    return opened()


def run_to_its_end(db: DaemonDB, *ids: str) -> None:
    add(db, *ids)
    start(db, *ids)
    for action_id in ids:
        state = db.read(action_id).state
        happen(db, action_id, RunEnded(result(run_id=state.run.run_id)))


def report_all(db: DaemonDB) -> None:
    while pending := db.outbox_pending(1000):
        db.settle_reports([sequence for sequence, _ in pending], [])


def mark(db: DaemonDB, *ids: str, absent: bool = True) -> None:
    """The newest snapshot lacks these of the actions that are over."""
    keys = {action_key(action_id) for action_id in ids}
    rows, _ = db.ended_page(b"")
    db.commit([], report=True, absences={row: absent for row, _ in rows if row[-16:] in keys})


def forget(db: DaemonDB, until_us: int = LONG_AFTER_US) -> int:
    return db.forget(b"", until_us).actions


def test_what_is_over_reported_and_absent_is_forgotten_with_its_runs(db):
    run_to_its_end(db, "a", "b")
    report_all(db)
    mark(db, "a")
    gone = db.forget(b"", LONG_AFTER_US)
    assert (gone.actions, len(gone.runs), gone.cursor) == (1, 1, b"")
    assert (db.read("a"), db.runs("a", 20)) == (None, [])
    assert db.read("b").status is ExecutionStatus.FINISHED
    assert db.counts()[ExecutionStatus.FINISHED] == 1
    assert [row[-16:] for row, _ in db.ended_page(b"")[0]] == [action_key("b")]


def test_what_is_not_reported_is_never_forgotten(db):
    run_to_its_end(db, "a")
    mark(db, "a")
    assert forget(db) == 0
    report_all(db)
    assert forget(db) == 1


def test_where_nothing_is_reported_nothing_has_to_be(db):
    new = first_seen(action("a"), AFTER, RULES)
    db.commit([new], report=False)
    mark(db, "a")
    assert forget(db) == 1


def test_a_report_that_the_backend_refused_for_good_holds_nothing_back(db):
    run_to_its_end(db, "a")
    mark(db, "a")
    for _ in range(100):
        db.settle_reports([], [sequence for sequence, _ in db.outbox_pending(10)])
    assert db.outbox_depth == 0
    assert forget(db) == 1
    assert db.reports.refused == 2


def test_what_the_backend_still_sends_is_kept(db):
    run_to_its_end(db, "a")
    report_all(db)
    assert forget(db) == 0
    mark(db, "a")
    mark(db, "a", absent=False)
    assert forget(db) == 0


def test_an_id_is_kept_until_its_old_window_is_over(db):
    """Else it could come back with the same window, and run twice."""
    add(db, "a")
    happen(db, "a", Absent())  # withdrawn long before its toDate
    report_all(db)
    assert forget(db, END_US - 1) == 0
    assert forget(db, END_US) == 1


def test_an_action_counts_from_its_end_where_that_is_later_than_its_window(db):
    late = Instant(END_US + 5 * HOUR_US)
    db.commit([first_seen(action("a"), late, RULES)], report=False)
    mark(db, "a")
    assert forget(db, late.wall_us - 1) == 0
    assert forget(db, late.wall_us) == 1


def test_what_ends_after_the_snapshot_that_lacked_it_is_known_to_be_absent(db):
    """No later snapshot says so again while the backend answers that nothing changed."""
    add(db, "a")
    start(db, "a")
    happen(db, "a", Absent())
    happen(db, "a", RunEnded(result(run_id=db.read("a").state.run.run_id)))
    report_all(db)
    assert forget(db) == 1


def test_what_the_backend_sends_as_not_to_be_executed_is_not_absent(db):
    add(db, "a")
    start(db, "a")
    happen(db, "a", Sent(action("a", should_be_executed=False)))
    happen(db, "a", RunEnded(result(run_id=db.read("a").state.run.run_id)))
    report_all(db)
    assert forget(db) == 0


def test_what_is_open_is_never_forgotten(db):
    add(db, "a", "b", "c")
    start(db, "b", "c")
    happen(db, "c", StopAsked())
    assert forget(db) == 0
    assert sum(db.counts().values()) == 3


def test_much_is_forgotten_in_shares_that_a_turn_can_bear(db):
    ids = [f"id-{n}" for n in range(ROWS_PER_TURN_MAX + 100)]
    db.commit([first_seen(action(i), AFTER, RULES) for i in ids], report=False)
    rows, cursor = db.ended_page(b"")
    rest, _ = db.ended_page(cursor)
    db.commit([], report=False, absences={row: True for row, _ in (*rows, *rest)})
    first = db.forget(b"", LONG_AFTER_US)
    assert (first.actions, bool(first.cursor)) == (ROWS_PER_TURN_MAX, True)
    second = db.forget(first.cursor, LONG_AFTER_US)
    assert (second.actions, second.cursor) == (100, b"")
    assert sum(db.counts().values()) == 0


def test_where_there_is_nothing_to_forget_nothing_is_written(db):
    run_to_its_end(db, "a")
    before = transactions(db)
    assert forget(db) == 0
    assert transactions(db) == before


def test_a_forgotten_id_is_as_new(opened):
    db = opened()
    run_to_its_end(db, "a")
    report_all(db)
    mark(db, "a")
    forget(db)
    db = opened()
    assert db.commit([first_seen(action("a"), AFTER, RULES)], report=True).won == (True,)
    assert db.read("a").status is ExecutionStatus.WONT_START  # its window is over: S3
    assert sum(db.counts().values()) == 1


# --- when a store is nearly full --------------------------------------------------------


#: Each commit needs room for all the pages that it touches, beside those it replaces.
MAP_BYTES = 8 * 1024**2


def retention(db: DaemonDB, state_dir: Path, **settings: float) -> Retention:
    kept = DaemonSettings(state_dir=state_dir, log_dir=state_dir, **settings)
    return Retention(db, kept, lambda: False, lambda _: None)


def forget_all(keeping: Retention, now: Instant) -> None:
    keeping.look_for_old()
    while keeping.next_deadline(now) is not None:
        keeping.gather(News(), now)


def fill_with_the_past(db: DaemonDB, share: float) -> int:
    """Actions that are over, absent and reported; how many."""
    count = 0
    while db.room().used_share < share:
        ids = [f"id-{n:06}" for n in range(count, count + 100)]
        db.commit([first_seen(action(i), AFTER, RULES) for i in ids], report=False)
        count += len(ids)
    cursor = b""
    while True:
        rows, cursor = db.ended_page(cursor)
        db.commit([], report=False, absences={row: True for row, _ in rows})
        if not cursor:
            return count


def test_a_store_that_fills_forgets_before_its_time_and_no_more_than_it_has_to(opened, tmp_path):
    db = opened(map_bytes=MAP_BYTES)
    count = fill_with_the_past(db, SOFT_LIMIT + 0.1)
    keeping = retention(db, tmp_path, retention_seconds=14 * 86_400.0)
    forget_all(keeping, AFTER)
    left = sum(db.counts().values())
    assert 0 < left < count
    assert SOFT_LIMIT - 0.2 < db.room().used_share <= SOFT_LIMIT


def test_a_store_with_room_forgets_nothing_before_its_time(opened, tmp_path):
    db = opened(map_bytes=MAP_BYTES)
    count = fill_with_the_past(db, SOFT_LIMIT - 0.2)
    keeping = retention(db, tmp_path, retention_seconds=14 * 86_400.0)
    forget_all(keeping, AFTER)
    assert sum(db.counts().values()) == count
    forget_all(keeping, Instant(AFTER.wall_us + 15 * 86_400 * SECOND_US))
    assert sum(db.counts().values()) == 0


def test_a_store_that_fills_forgets_nothing_that_is_not_reported(opened, tmp_path):
    db = opened(map_bytes=MAP_BYTES)
    while db.room().used_share < SOFT_LIMIT + 0.1:
        count = sum(db.counts().values())
        ids = [f"id-{n:06}" for n in range(count, count + 100)]
        db.commit([first_seen(action(i), AFTER, RULES) for i in ids], report=True)
    rows, _ = db.ended_page(b"")
    db.commit([], report=True, absences={row: True for row, _ in rows[:100]})
    before = sum(db.counts().values())
    forget_all(retention(db, tmp_path, retention_seconds=0.0), AFTER)
    assert sum(db.counts().values()) == before


def test_a_clock_that_is_not_trusted_makes_nothing_old(opened, tmp_path):
    db = opened()
    run_to_its_end(db, "a")
    report_all(db)
    mark(db, "a")
    far = Instant(LONG_AFTER_US, trusted=False)
    forget_all(retention(db, tmp_path, retention_seconds=0.0), far)
    assert db.read("a") is not None


# --- in the daemon ----------------------------------------------------------------------


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        script = installed.script("s", "note began\necho hello")
        installed.configure(scripts={"default": {"command": [script]}}, retention="0s")
        yield installed


def test_the_daemon_forgets_what_the_backend_has_forgotten_and_its_output(daemon: Daemon):
    daemon.start()
    known = [entry("a", -1, 3), entry("kept", -1, 3)]
    daemon.send(known)
    run = daemon.wait_status("a", "FINISHED")["run"]
    output = daemon.root / "log" / f"{run['runId']}.log"
    assert output.read_text() == "hello\n"
    daemon.send(known[1:])
    wait_for(lambda: daemon.action("a") is None, what=daemon.log_text())
    wait_for(lambda: not output.exists(), what="its output to go")
    assert daemon.action("kept")["executionStatus"] == "FINISHED"
    assert {report["id"] for report in daemon.reports()} == {"a", "kept"}
    assert daemon.json("db", "check")["good"]


def test_output_goes_with_the_rows_of_runs_that_made_room(db):
    add(db, "a")
    for _ in range(20):
        start(db, "a")
        happen(db, "a", Sent(action("a", app_names=(str(db.read("a").attempt),))))
        happen(db, "a", RunEnded(result(run_id=db.read("a").state.run.run_id)))
    first = db.runs("a", 20)[-1].run_id
    committed = db.commit([decided(db, "a", DUE)], report=True)
    assert committed.runs_forgotten == (first,)
