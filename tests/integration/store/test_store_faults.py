"""Every operation of a store fails in turn, and what failed has not happened.

Between daemonDB and its real LMDB stands one that counts: each beginning, reading, writing
and commit of a scenario is the one that fails, once for every kind of failure.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.actions import ExecutionStatus
from geosched.supervisor.core.lifecycle import Rules, first_seen
from geosched.supervisor.core.model import Absent, Event, RunEnded, Running, Sent
from geosched.supervisor.core.restart import RestartMode, RestartPolicy
from geosched.supervisor.core.turn import Turn
from geosched.supervisor.store import files
from geosched.supervisor.store.daemondb import DaemonDB, MetaUpdate
from geosched.supervisor.store.errors import StoreError, StoreErrorKind
from geosched.supervisor.store.tables import history, meta, outbox
from geosched.supervisor.store.tables.codec import action_key
from support.build import DUE, GENERATION, HOUR_US, NOW, NOW_US, action, result
from support.failing_lmdb import FAULTS, Fault, Trouble, opened
from support.store import LONG_NAMES, contents, data_file, flip, on_disk

EVENTS_KEPT, REFUSED_ROWS_MAX = 6, 1
RULES = Rules(GENERATION, {"again": RestartPolicy(RestartMode.ON_FAILURE)})


# --- what there is, in memory and on disk -----------------------------------------------


@dataclass(frozen=True)
class Memory:
    counts: dict[ExecutionStatus, int]
    meta: Any
    last_sequence: int

    @classmethod
    def of(cls, db: DaemonDB) -> "Memory":
        return cls(dict(+db.counts()), db.meta, db._known.last_sequence)


@dataclass(frozen=True)
class Whole:
    tables: dict[str, dict[bytes, bytes]]
    memory: Memory
    outbox_depth: int

    @classmethod
    def of(cls, db: DaemonDB) -> "Whole":
        return cls(contents(db._env.real), Memory.of(db), db.outbox_depth)


# --- the scenario -----------------------------------------------------------------------


def commit(db: DaemonDB, *events: tuple[str, Event], meta: MetaUpdate | None = None) -> None:
    """One turn, as the daemon makes it."""
    turn = Turn(NOW, RULES, db.read, db.counts()[ExecutionStatus.STARTED])
    for action_id, event in events:
        assert turn.happened(action_id, event)
    assert all(db.commit(turn.changes, report=True, meta=meta).won)


def pull(db: DaemonDB, *actions: Any, etag: str) -> None:
    turn = Turn(NOW, RULES, db.read, db.counts()[ExecutionStatus.STARTED])
    for each in actions:
        turn.take(first_seen(each, NOW, RULES))
    meta = MetaUpdate(etag=etag, digest="d", source="s", clock_mark_us=NOW_US)
    assert all(db.commit(turn.changes, report=True, meta=meta).won)


def ended(db: DaemonDB, action_id: str, exit_code: int) -> tuple[str, RunEnded]:
    record = db.read(action_id)
    assert record is not None
    assert isinstance(record.state, Running)
    return action_id, RunEnded(result(run_id=record.state.run.run_id, exit_code=exit_code))


def first_pull(db: DaemonDB) -> None:
    pull(
        db,
        action("ends"),
        action("again", type="again"),
        action("long", app_names=LONG_NAMES),
        action("unwanted", should_be_executed=False),
        action("later", from_us=NOW_US + HOUR_US, to_us=NOW_US + 2 * HOUR_US),
        etag="1",
    )


def what_is_due_starts(db: DaemonDB) -> None:
    assert db.next_edge_after(NOW_US) is not None
    due = db.read_keys([key for _, key in db.due(None, NOW_US, 10)])
    commit(
        db,
        *((record.action.id, DUE) for record in due if record is not None),
    )


def ends_a_withdrawal_and_another_configuration(db: DaemonDB) -> None:
    commit(
        db,
        ended(db, "ends", 0),
        ended(db, "again", 1),
        ("long", Absent()),
        ("later", Sent(action("later", from_us=NOW_US + HOUR_US, app_names=LONG_NAMES[::-1]))),
    )


def the_backend_takes_some_and_refuses_some(db: DaemonDB) -> None:
    sequences = [sequence for sequence, _ in db.outbox_pending(10)]
    db.settle_reports(sequences[:1], sequences[1:3])


def the_stopped_run_ends_and_another_begins(db: DaemonDB) -> None:
    commit(
        db,
        ended(db, "long", 0),
        ("again", DUE),
        ("later", Absent()),
    )


def the_backend_refuses_them(db: DaemonDB) -> None:
    db.settle_reports([], [sequence for sequence, _ in db.outbox_pending(10)])


def a_run_more_than_are_kept(db: DaemonDB) -> None:
    commit(db, ended(db, "again", 1))


def it_is_tried_again(db: DaemonDB) -> None:
    commit(db, ("again", DUE))


def more_reports_than_the_outbox_holds(db: DaemonDB) -> None:
    pull(db, *(action(f"new-{n}") for n in range(8)), etag="2")


def all_of_them_are_withdrawn(db: DaemonDB) -> None:
    commit(db, *((f"new-{n}", Absent()) for n in range(8)))


def only_the_clock_goes_on(db: DaemonDB) -> None:
    commit(db, meta=MetaUpdate(clock_mark_us=NOW_US + 1))


def somebody_looks(db: DaemonDB) -> None:
    everything = frozenset(ExecutionStatus)
    assert db.page("", 10, everything)[0]
    assert [record.action.id for record in db.open_page("", 10)[0]] == ["again"]
    assert [record.action.id for record in db.started()] == ["again"]
    assert len(db.events(0)) == EVENTS_KEPT
    assert [run.attempt for run in db.runs("again", 10)] == [3, 2]
    assert db.run("again", 3) is not None
    assert db.outbox_oldest_us is not None
    assert db.reports.refused == REFUSED_ROWS_MAX
    assert db.outbox_dropped > 0
    db.check_readers()


def a_damaged_record_gives_way(db: DaemonDB) -> None:
    pull(db, action("long", app_names=LONG_NAMES), etag="3")


def the_last_one_is_stopped(db: DaemonDB) -> None:
    commit(db, ("again", Absent()))


def the_last_one_ends(db: DaemonDB) -> None:
    commit(db, ended(db, "again", 0))


def a_snapshot_lacks_what_is_over(db: DaemonDB) -> None:
    rows, _ = db.ended_page(b"")
    db.commit([], report=True, absences={row: True for row, _ in rows})


def what_is_over_and_reported_is_forgotten(db: DaemonDB) -> None:
    before = sum(db.counts().values())
    assert db.forget(b"", 2 * NOW_US).actions > 0
    assert 0 < sum(db.counts().values()) < before


#: Each makes one transaction that writes, or none; rings and bounds are reached by them.
STEPS: tuple[Callable[[DaemonDB], None], ...] = (
    first_pull,
    what_is_due_starts,
    ends_a_withdrawal_and_another_configuration,
    the_backend_takes_some_and_refuses_some,
    the_stopped_run_ends_and_another_begins,
    the_backend_refuses_them,
    the_backend_refuses_them,
    a_run_more_than_are_kept,
    it_is_tried_again,
    more_reports_than_the_outbox_holds,
    all_of_them_are_withdrawn,
    only_the_clock_goes_on,
    somebody_looks,
    a_damaged_record_gives_way,
    the_last_one_is_stopped,
    the_last_one_ends,
    a_snapshot_lacks_what_is_over,
    what_is_over_and_reported_is_forgotten,
)


def prepare(state_dir: Path, step: Callable[[DaemonDB], None]) -> bool:
    """What happens to the disk before a step; False where nothing does."""
    if step is not a_damaged_record_gives_way:
        return False
    flip("actions", action_key("long"), state_dir)
    newest: list[bytes] = []

    def look(txn: Any, handle: Any) -> None:
        newest.extend(key for key, _ in txn.cursor(handle))

    on_disk(state_dir, "outbox", look)
    flip("outbox", newest[-1], state_dir)
    return True


@dataclass(frozen=True)
class Stage:
    """A step as it goes where nothing fails. `place` holds the store before it."""

    step: Callable[[DaemonDB], None]
    place: Path
    before: Whole
    after: Whole
    operations: int


@pytest.fixture(scope="module", autouse=True)
def _small_bounds_and_no_chance() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "EVENTS_KEPT", EVENTS_KEPT)
        patch.setattr(history, "RUNS_KEPT", 2)
        patch.setattr(outbox, "REFUSALS_MAX", 3)
        patch.setattr(outbox, "REFUSED_ROWS_MAX", REFUSED_ROWS_MAX)
        patch.setattr(meta, "new_name", lambda: "5a" * 8)
        yield


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[Stage]:
    root, trouble, found = tmp_path_factory.mktemp("stages"), Trouble(), []
    live = root / "live"
    opened(live, trouble).close()
    for number, step in enumerate(STEPS):
        prepare(live, step)
        place = root / str(number)
        shutil.copytree(live, place)
        db = opened(live, trouble)
        before, trouble.operations = Whole.of(db), 0
        step(db)
        operations = trouble.operations
        found.append(Stage(step, place, before, Whole.of(db), operations))
        db.close()
    return found


@pytest.fixture(params=FAULTS, ids=str)
def fault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fault:
    found: Fault = request.param
    monkeypatch.setattr(files, "is_full", lambda _: found.disk_full)
    return found


class Copies:
    """Stores to try things on; at most one is open."""

    def __init__(self, root: Path) -> None:
        self.trouble = Trouble()
        self._place = root / "copy"
        self._db: DaemonDB | None = None

    def open(self, original: Path | None = None) -> DaemonDB:
        """A copy of `original`, new where there is none of it; without one, the copy that
        is there again."""
        self.close()
        if original is not None:
            self._restore(original)
        self._db = opened(self._place, self.trouble)
        return self._db

    def _restore(self, original: Path) -> None:
        if not original.exists():
            shutil.rmtree(self._place, ignore_errors=True)
        elif not self._place.exists():
            shutil.copytree(original, self._place)
        else:  # in place: ext4 would flush what is made anew
            with data_file(self._place).open("r+b") as file:
                file.write(data_file(original).read_bytes())
                file.truncate()

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = None

    @property
    def place(self) -> Path:
        return self._place


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[Copies]:
    made = Copies(tmp_path)
    yield made
    made.close()


def nothing_has_changed(db: DaemonDB, before: Whole, refused: StoreError, fault: Fault) -> None:
    assert (refused.kind, refused.fatal) == (fault.kind, fault.fatal)
    assert contents(db._env.real) == before.tables
    assert Memory.of(db) == before.memory


# --- what fails -------------------------------------------------------------------------


def test_a_step_that_fails_anywhere_has_not_happened_and_succeeds_when_repeated(
    stages: list[Stage], copies: Copies, fault: Fault
):
    """After an error that is waited out in the same daemon, else in the next one."""
    for stage in stages:
        for number in range(1, stage.operations + 1):
            db = copies.open(stage.place)
            copies.trouble.expect(fault, number)
            with pytest.raises(StoreError) as refused:
                stage.step(db)
            nothing_has_changed(db, stage.before, refused.value, fault)
            copies.trouble.over()
            if fault.fatal:
                db = copies.open()
            assert Whole.of(db) == stage.before
            stage.step(db)
            assert Whole.of(db) == stage.after, (stage.step, number)


def test_a_daemon_to_which_everything_happens_ends_where_any_other_does(
    stages: list[Stage], copies: Copies, fault: Fault
):
    """Of each step the first operation fails, then the second, until there is none left: what is
    held in memory by now needs none."""
    db = copies.open(stages[0].place)
    for stage in stages:
        copies.close()
        prepare(copies.place, stage.step)
        db = copies.open()
        for number in itertools.count(1):
            copies.trouble.expect(fault, number)
            try:
                stage.step(db)
                assert copies.trouble.operations == number - 1
                break
            except StoreError as error:
                nothing_has_changed(db, stage.before, error, fault)
            copies.trouble.over()
            if fault.fatal:
                db = copies.open()
        copies.trouble.over()
    assert Whole.of(db) == stages[-1].after


def test_an_opening_that_fails_anywhere_is_begun_again(
    stages: list[Stage], copies: Copies, fault: Fault, tmp_path: Path
):
    """That of a new store, of one in use, and of one with damage to set aside."""
    damaged = STEPS.index(a_damaged_record_gives_way)
    for place in (tmp_path / "none", stages[0].place, stages[damaged].place):
        copies.trouble.operations = 0
        db = copies.open(place)
        operations, whole = copies.trouble.operations, Whole.of(db)
        for number in range(1, operations + 1):
            copies.trouble.expect(fault, number)
            with pytest.raises(StoreError) as refused:
                copies.open(place)
            assert refused.value.fatal == fault.fatal
            assert refused.value.kind in (fault.kind, StoreErrorKind.UNUSABLE)
            copies.trouble.over()
            assert Whole.of(copies.open()) == whole, number
