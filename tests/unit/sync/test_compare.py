"""A snapshot compared with what is known, and not applied."""

from collections import deque
from collections.abc import Iterable
from typing import Any

import pytest
from geosched.ipc.actions import Action, ExecutionStatus
from geosched.ipc.messages.sync import Pulled, SetAside
from geosched.supervisor.core.model import Over, Record
from geosched.supervisor.core.turn import Turn
from geosched.supervisor.sync.apply import ENTRIES_PER_TURN_MIN
from geosched.supervisor.sync.compare import (
    PAGE_ACTIONS_MAX,
    PAGE_BYTES_MAX,
    VALUE_BYTES_MAX,
    Comparison,
    differences,
)
from geosched.supervisor.sync.packed_snapshot import PackedSnapshot, pack
from support.build import HOUR_US, NOW, NOW_US, RULES, action, record

PAGE = 2


class Known:
    """What daemonDB is to a comparison."""

    def __init__(self, *records: Record) -> None:
        self.records = {each.action.id: each for each in records}
        self.turns: list[Turn] = []

    def open_page(self, cursor: str) -> tuple[list[Record], str]:
        still_open = sorted(i for i, r in self.records.items() if r.edge_us is not None)
        rest = [i for i in still_open if i >= cursor]
        return [self.records[i] for i in rest[:PAGE]], rest[PAGE] if len(rest) > PAGE else ""

    def against(
        self, *sent: Action, set_aside: Iterable[SetAside] = (), unreadable_ids: int = 0
    ) -> Comparison:
        named = tuple(set_aside)
        ids = tuple(each.id for each in named if each.id is not None)
        told = Pulled(1, len(sent), "", "", named, len(named), unreadable_ids)
        pages = deque(pack(sent[n : n + 50]) for n in range(0, len(sent), 50))
        comparison = Comparison(1)
        comparison.pulled(PackedSnapshot(pages, told, deque([pack(ids)] if ids else [])))
        while comparison.looking:
            self.turns.append(Turn(NOW, RULES, self.records.get, 0))
            comparison.slice(self.turns[-1], self.open_page)
        assert comparison.done
        assert not any(turn.changes or turn.absences for turn in self.turns)
        return comparison

    def found(self, *sent: Action, **more: Any) -> list[tuple[str, str, str]]:
        views, cursor = self.against(*sent, **more).page(0, self.records.get)
        assert cursor == 0
        return [(each.id, each.field, each.owner) for each in views]


def test_what_is_the_same_differs_in_nothing():
    assert Known(record(action_id="a")).found(action("a")) == []


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("fromDate", {"from_us": NOW_US - 5 * HOUR_US}),
        ("toDate", {"to_us": NOW_US + 7 * HOUR_US}),
        ("shouldBeExecuted", {"should_be_executed": False}),
        ("appNames", {"app_names": ("Other",)}),
        ("type", {"type": "other"}),
        ("args", {"args": '{"x":1}'}),
    ],
)
def test_each_field_is_told_with_both_values(field: str, changes: dict[str, Any]):
    (found,) = differences("a", action("a", **changes), record(action_id="a"))
    assert (found.id, found.field, found.owner) == ("a", field, "backend")
    assert found.backend != found.daemon
    (turned,) = differences("a", action("a"), record(action_id="a", **changes))
    assert (turned.backend, turned.daemon) == (found.daemon, found.backend)


def test_what_one_of_them_does_not_have_is_told():
    known = Known(record(action_id="only here"))
    assert known.found(action("only there")) == [
        ("only there", "id", "backend"),
        ("only here", "id", "backend"),
    ]
    views, _ = known.against(action("only there")).page(0, known.records.get)
    assert [(each.backend, each.daemon) for each in views] == [
        ("only there", None),
        (None, "only here"),
    ]


def test_what_is_over_is_the_daemons_and_need_not_be_sent():
    over = Record(action("over"), True, Over(ExecutionStatus.FINISHED))
    assert Known(over).found() == []
    assert Known(over).found(action("over", app_names=("Other",))) == [
        ("over", "appNames", "daemon")
    ]


def test_what_is_not_wanted_any_more_need_not_be_sent():
    assert Known(record(action_id="a", wanted=False)).found() == []


def test_what_was_set_aside_is_not_compared():
    known = Known(record(action_id="bad"), record(action_id="absent"))
    aside = [SetAside("bad", "no toDate")]
    assert known.found(set_aside=aside) == [("absent", "id", "backend")]
    assert known.against(set_aside=aside).set_aside == 1


def test_while_an_id_cannot_be_read_nothing_is_missing_for_sure():
    known = Known(record(action_id="a"))
    assert known.found(set_aside=[SetAside(None, "no id")], unreadable_ids=1) == []


def test_a_turn_looks_at_no_more_than_its_share():
    sent = [action(f"{n:04}") for n in range(3 * ENTRIES_PER_TURN_MIN)]
    known = Known()
    assert len(known.against(*sent).different) == len(sent)
    assert len(known.turns) == 4


def test_differences_are_told_in_pages():
    known = Known()
    comparison = known.against(*(action(f"{n:04}") for n in range(2 * PAGE_ACTIONS_MAX + 1)))
    ids: list[str] = []
    cursor, pages = 0, 0
    while pages == 0 or cursor:
        views, cursor = comparison.page(cursor, known.records.get)
        ids += [each.id for each in views]
        pages += 1
    assert pages == 3
    assert ids == sorted(comparison.different)
    assert comparison.page(10_000, known.records.get) == ([], 0)


def test_a_page_of_long_values_is_short_and_long_values_are_cut():
    names = tuple(f"{n:04}" + "x" * 250 for n in range(1000))
    known = Known(*(record(action_id=f"{n:02}") for n in range(50)))
    comparison = known.against(*(action(f"{n:02}", app_names=names) for n in range(50)))
    views, cursor = comparison.page(0, known.records.get)
    assert 0 < cursor < 50
    assert len(views) * VALUE_BYTES_MAX < 2 * PAGE_BYTES_MAX
    assert isinstance(views[0].backend, str)
    assert views[0].backend.endswith("bytes)")


def test_what_happened_since_is_told_as_it_is_by_then():
    known = Known(record(action_id="a"))
    comparison = known.against(action("a", app_names=("Other",)))
    known.records["a"] = record(action_id="a", app_names=("Other",))
    assert comparison.page(0, known.records.get) == ([], 0)
