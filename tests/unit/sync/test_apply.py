"""A snapshot applied in slices (SPEC S3 to S8, DESIGN 3)."""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import count

import pytest
from geosched.ipc.actions import Action, ExecutionStatus
from geosched.ipc.messages.runs import StopReason
from geosched.ipc.messages.sync import Pulled, SetAside
from geosched.supervisor.core.model import Change, Over, Record, Running, StopRun
from geosched.supervisor.core.reconcile import Verdict
from geosched.supervisor.core.turn import Turn
from geosched.supervisor.store.tables.codec import action_key
from geosched.supervisor.store.tables.ended import row_of
from geosched.supervisor.sync.apply import (
    CALM_SECONDS,
    ENTRIES_PER_TURN_MAX,
    ENTRIES_PER_TURN_MIN,
    ENTRIES_PER_TURN_SHORT,
    QUARANTINE_SHOWN_MAX,
    TURN_CPU_SECONDS_MAX,
    TURN_SECONDS_MAX,
    Applying,
    Pace,
)
from geosched.supervisor.sync.packed_snapshot import PackedSnapshot, pack
from msgspec.structs import replace
from support.build import HOUR_US, NOW, NOW_US, RULES, action, record, running

PAGE = 2


class Store:
    """What daemonDB is to a pull: records by key, and pages of the keys of open ones."""

    def __init__(self, *records: Record) -> None:
        self.records = {each.action.id: each for each in records}
        self.turns: list[list[Change]] = []
        self.absent: dict[bytes, bool] = {}  # of what is over, by row

    def read(self, keys: Sequence[bytes]) -> list[Record | None]:
        by_key = {action_key(i): each for i, each in self.records.items()}
        return [by_key.get(key) for key in keys]

    def open_keys(self, cursor: str, limit: int) -> tuple[list[bytes], str]:
        still_open = sorted(i for i, r in self.records.items() if r.edge_us is not None)
        rest = [i for i in still_open if i >= cursor]
        following = rest[PAGE] if len(rest) > PAGE else ""
        return [action_key(i) for i in rest[:PAGE]], following

    def ended(self, cursor: bytes) -> tuple[list[tuple[bytes, bool]], bytes]:
        over = (r for r in self.records.values() if r.edge_us is None)
        rows = sorted(row_of(each, action_key(each.action.id)) for each in over)
        rest = [row for row in rows if row >= cursor]
        following = rest[PAGE] if len(rest) > PAGE else b""
        return [(row, self.absent.get(row, False)) for row in rest[:PAGE]], following

    def apply(self, applying: Applying, *, turns_max: int = 500) -> None:
        for _ in range(turns_max):
            turn = Turn(NOW, RULES, self.records.get, 0)
            applying.slice(turn)
            self.turns.append(turn.changes)
            self.absent |= turn.absences
            self.records |= {change.after.action.id: change.after for change in turn.changes}
            if applying.done:
                return
        raise AssertionError(f"not done after {turns_max} slices")

    def statuses(self) -> dict[str, str]:
        return {action_id: each.status.value for action_id, each in self.records.items()}


def applying(
    store: Store,
    *pages: Iterable[Action],
    set_aside: Iterable[SetAside] = (),
    unreadable_ids: int = 0,
) -> Applying:
    named = tuple(set_aside)
    ids = tuple(entry.id for entry in named if entry.id is not None)
    told = Pulled(1, 0, "", "", named, len(named), unreadable_ids)
    return Applying(
        PackedSnapshot(
            deque(pack(tuple(page)) for page in pages), told, deque([pack(ids)] if ids else [])
        ),
        store.read,
        store.open_keys,
        store.ended,
    )


def counted(applied: Applying) -> dict[str, int]:
    return {verdict.value: count for verdict, count in applied.counts.items() if count}


def over(action_id: str) -> Record:
    return record(Over(ExecutionStatus.FINISHED), action_id=action_id)


def test_what_is_over_is_marked_when_the_backend_sends_it_no_more_and_when_it_does_again():
    store = Store(*(over(i) for i in "abc"))
    row = {i: row_of(store.records[i], action_key(i)) for i in "abc"}
    store.apply(applying(store, [action("a")]))
    assert store.absent == {row["b"]: True, row["c"]: True}
    store.apply(applying(store, [action("a"), action("c")]))
    assert store.absent == {row["b"]: True, row["c"]: False}
    assert store.statuses() == dict.fromkeys("abc", "FINISHED")


def test_of_what_is_over_nothing_is_marked_absent_where_an_id_cannot_be_read():
    store = Store(over("a"))
    store.apply(applying(store, set_aside=[SetAside(None, "no id")], unreadable_ids=1))
    assert store.absent == {}


def test_s06_what_is_over_and_sent_again_is_not_forgotten_where_another_id_cannot_be_read():
    store = Store(over("a"))
    row = row_of(store.records["a"], action_key("a"))
    store.apply(applying(store))
    assert store.absent == {row: True}
    bad = [SetAside(None, "no id")]
    store.apply(applying(store, [action("a")], set_aside=bad, unreadable_ids=1))
    assert store.absent == {row: False}


def test_additions_come_first_and_absences_last():
    store = Store(record(action_id="old"))
    store.apply(applying(store, [action("new")]))
    decided = [change.after.action.id for turn in store.turns for change in turn]
    assert decided == ["new", "old"]
    assert store.statuses() == {"new": "NULL", "old": "WONT_START"}


def test_absences_come_first_and_few_at_a_time_where_the_store_did_not_take_what_is_new():
    gone = [f"old-{n:02}" for n in range(2 * ENTRIES_PER_TURN_SHORT + 1)]
    store = Store(*(record(action_id=i) for i in gone))
    applied = applying(store, [action("new")])
    applied.short = True
    store.apply(applied)
    decided = [[change.after.action.id for change in turn] for turn in store.turns if turn]
    assert [len(turn) for turn in decided] == [ENTRIES_PER_TURN_SHORT] * 2 + [1, 1]
    assert decided[-1] == ["new"]
    assert {*store.statuses().values()} == {"NULL", "WONT_START"}


def test_what_changes_is_decided_in_the_turn_that_ends_the_snapshot():
    """So that it shares a transaction with the mark: looking writes nothing."""
    known = [f"{n:04}" for n in range(3 * ENTRIES_PER_TURN_MIN)]
    store = Store(*(record(action_id=i) for i in known))
    sent = [action(i) for i in known[1:]] + [action("new")]
    store.apply(applying(store, sent[:300], sent[300:]))
    assert len(store.turns) > 3
    assert [len(turn) for turn in store.turns if turn] == [2]
    assert len(store.turns[-1]) == 2


def test_what_happened_while_it_was_looked_at_counts():
    """An action that was over by then stays as it is; one that was forgotten is new again."""
    store = Store(record(action_id="ends"), record(action_id="absent"))
    moved = action("ends", to_us=NOW_US + 2 * HOUR_US)
    half_way = applying(store, [moved])
    half_way.slice(Turn(NOW, RULES, store.records.get, 0))
    for each in ("ends", "absent"):
        over = Record(action(each), True, Over(ExecutionStatus.FINISHED))
        store.records[each] = over
    store.apply(half_way)
    assert set(store.statuses().values()) == {"FINISHED"}
    assert counted(half_way)["ignored"] == 1


def test_every_kind_of_entry_is_counted_once():
    gone = Record(action("over"), True, Over(ExecutionStatus.FINISHED))
    store = Store(record(action_id="same"), record(action_id="moved"), record(action_id="x"), gone)
    moved = action("moved", to_us=NOW_US + 2 * HOUR_US)
    again = action("over", app_names=("Other",))
    applied = applying(store, [action("same"), moved], [again, action("new")])
    store.apply(applied)
    assert counted(applied) == {
        "added": 1,
        "updated": 1,
        "unchanged": 1,
        "ignored": 1,
        "withdrawn": 1,
    }
    assert set(applied.counts) == set(Verdict)


def test_an_empty_snapshot_withdraws_everything_that_is_open():
    ids = "abcdefg"
    store = Store(*(record(action_id=i) for i in ids))
    applied = applying(store)
    store.apply(applied)
    assert set(store.statuses().values()) == {"WONT_START"}
    assert counted(applied) == {"withdrawn": len(ids)}


def test_what_runs_and_is_absent_is_asked_to_stop():
    store = Store(running())
    store.apply(applying(store))
    state = store.records["a"].state
    assert isinstance(state, Running)
    assert state.run.stop is StopReason.WITHDRAWN
    assert store.turns[-1][0].effects == (StopRun(state.run.run_id, StopReason.WITHDRAWN),)


def test_an_entry_whose_id_cannot_be_read_withdraws_nothing():
    store = Store(record(action_id="absent"))
    applied = applying(store, [action("new")], set_aside=[SetAside(None, "bad")], unreadable_ids=1)
    store.apply(applied)
    assert store.statuses() == {"absent": "NULL", "new": "NULL"}
    assert counted(applied) == {"added": 1}


def test_an_entry_that_is_set_aside_keeps_its_action_as_it_was():
    store = Store(record(action_id="kept"), record(action_id="absent"))
    before = store.records["kept"]
    store.apply(applying(store, set_aside=[SetAside("kept", "toDate is missing")]))
    assert store.records["kept"] == before
    assert store.statuses()["absent"] == "WONT_START"


def test_not_wanted_in_the_snapshot_is_withdrawn_like_an_absence():
    store = Store(record())
    applied = applying(store, [action(should_be_executed=False)])
    store.apply(applied)
    assert store.statuses() == {"a": "WONT_START"}
    assert counted(applied) == {"withdrawn": 1}


def test_the_same_snapshot_twice_changes_nothing_the_second_time():
    store = Store()
    pages = [[action("a"), action("b")], [action("c", should_be_executed=False)]]
    store.apply(applying(store, *pages))
    store.turns.clear()
    applied = applying(store, *pages)
    store.apply(applied)
    assert [change for turn in store.turns for change in turn] == []
    assert counted(applied) == {"unchanged": 3}


def test_a_turn_takes_no_more_than_its_share():
    store = Store()
    pages = [[action(f"{page}-{n}") for n in range(50)] for page in range(9)]
    store.apply(applying(store, *pages))
    assert max(len(turn) for turn in store.turns) == ENTRIES_PER_TURN_MIN
    assert len(store.records) == 450


def paces(
    cpu_seconds: float, *, took: float = 0.0, calm_seconds: float = CALM_SECONDS
) -> list[int]:
    """Of ten turns, each of which uses so much of the processor, and takes longer."""
    pace = Pace(count(0.0, cpu_seconds).__next__)
    instants = (replace(NOW, monotonic_seconds=n * max(took, cpu_seconds)) for n in range(10))
    return [pace.entries(now, calm_seconds) for now in instants]


def test_while_nothing_is_near_turns_take_as_much_as_they_have_time_for():
    found = paces(TURN_CPU_SECONDS_MAX / 4)
    assert found[0] == ENTRIES_PER_TURN_MIN
    assert found == sorted(found)
    assert found[-1] == ENTRIES_PER_TURN_MAX


def test_a_slow_machine_takes_small_slices_and_goes_on():
    assert paces(TURN_CPU_SECONDS_MAX * 2) == [ENTRIES_PER_TURN_MIN] * 10


def test_a_slow_disk_keeps_slices_small():
    assert paces(0.001, took=TURN_SECONDS_MAX * 2) == [ENTRIES_PER_TURN_MIN] * 10


def test_a_slice_is_small_while_something_is_near():
    assert set(paces(0.001, calm_seconds=CALM_SECONDS / 2)) == {ENTRIES_PER_TURN_MIN}


def test_additions_of_one_turn_are_neighbours_in_the_store():
    """So that few of its pages change with each commit."""
    store = Store()
    store.apply(applying(store, [action(f"{n:04}") for n in range(3 * ENTRIES_PER_TURN_MIN)]))
    keys = [action_key(change.after.action.id) for turn in store.turns for change in turn]
    assert len(keys) == 3 * ENTRIES_PER_TURN_MIN
    assert keys == sorted(keys)


def test_a_snapshot_is_not_done_before_its_absences_are_looked_at():
    store = Store(*(record(action_id=i) for i in "abc"))
    applied = applying(store)
    for done in (False, False, False, True):
        applied.slice(Turn(NOW, RULES, store.records.get, 0))
        assert applied.done is done


@pytest.mark.parametrize("count", [0, 3, QUARANTINE_SHOWN_MAX + 5])
def test_what_was_set_aside_is_shown_up_to_a_bound(count):
    entries = [SetAside(f"id-{n}", "why") for n in range(count)]
    shown = applying(Store(), set_aside=entries).quarantine
    assert shown == tuple(f"id-{n}: why" for n in range(min(count, QUARANTINE_SHOWN_MAX)))


def test_an_entry_without_an_id_is_shown_too():
    shown = applying(Store(), set_aside=[SetAside(None, "why")], unreadable_ids=1).quarantine
    assert shown == ("unreadable id: why",)
