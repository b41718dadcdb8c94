"""The judge is judged: it finds each fault in a forged history, and none in a good one."""

from dataclasses import replace

import pytest

from .checker import (
    Action,
    Begun,
    Changed,
    Doubled,
    Ended,
    History,
    Left,
    Reported,
    Seen,
    Struck,
    faults,
)


def good() -> History:
    """One action that ran well, one that was killed and ran again because nobody saw its end."""
    return History(
        actions={"a": Action("a", 0), "b": Action("b", 0)},
        begun=[Begun(1.0, "a", "a-1"), Begun(1.0, "b", "b-1"), Begun(5.0, "b", "b-2")],
        ended=[Ended(2.0, "a", "a-1"), Ended(6.0, "b", "b-2")],
        struck=[Struck(3.0, "supervisor", frozenset({"b-1"}))],
        seen=[Seen(1.0, "a", "STARTED"), Seen(2.5, "a", "FINISHED"), Seen(4.0, "b", "NULL")],
        reported=[
            Reported("g-1", "a", "STARTED"),
            Reported("g-1", "a", "STARTED"),
            Reported("g-2", "b", "STARTED"),
            Reported("g-3", "a", "FINISHED"),
            Reported("g-1", "a", "STARTED"),
            Reported("g-4", "b", "FINISHED"),
        ],
        left=[Left(100, "b-1", 4.9)],
        final={"a": "FINISHED", "b": "FINISHED"},
    )


def test_a_good_history_has_no_fault():
    assert faults(good()) == []


@pytest.mark.parametrize(
    ("kind", "forged"),
    [
        ("double-run", {"doubled": [Doubled(1.5, "a", "a-2")]}),
        ("double-run", {"begun": [Begun(1.0, "a", "a-1"), Begun(9.0, "a", "a-1")]}),
        ("illegal-transition", {"seen": [Seen(1, "a", "FINISHED"), Seen(2, "a", "NULL")]}),
        (
            "illegal-transition",
            {"reported": [Reported("g-1", "a", "FAILED"), Reported("g-2", "a", "FINISHED")]},
        ),
        ("lost-result", {"begun": [Begun(1.0, "a", "a-1"), Begun(3.0, "a", "a-2")]}),
        ("orphan", {"left": [Left(100, "b-1", 5.1)]}),
        ("lost-report", {"reported": []}),
        ("lost-report", {"reported": good().reported[:4]}),
        ("lost-report", {"seen": [Seen(1.0, "a", "FAILED")], "final": {}}),
        ("lost-report", {"reported": good().reported[::-1]}),
        ("wrong-status", {"final": {"a": "FAILED"}}),
        ("wrong-status", {"final": {"b": "STARTED"}}),
    ],
)
def test_each_forged_fault_is_found(kind: str, forged: dict):
    if forged.get("final") == {}:
        forged = {"seen": forged["seen"], "final": {"a": "FINISHED"}}
    assert kind in {fault.kind for fault in faults(replace(good(), **forged))}


@pytest.mark.parametrize(
    "excuse",
    [
        {"struck": [Struck(1.5, "worker", frozenset({"a-1"}))]},
        {"struck": [Struck(2.3, "supervisor", frozenset({"a-1"}))]},
        {"changed": [Changed(1.5, "a")]},
    ],
)
def test_a_run_again_is_excused_where_nobody_could_have_kept_its_end(excuse: dict):
    again = {"begun": [*good().begun, Begun(3.0, "a", "a-2")]} | excuse
    assert "lost-result" not in {fault.kind for fault in faults(replace(good(), **again))}


def test_a_blow_to_the_supervisor_long_after_the_end_excuses_nothing():
    again = {
        "begun": [*good().begun, Begun(9.0, "a", "a-2")],
        "struck": [Struck(5.0, "supervisor", frozenset({"a-1"}))],
    }
    assert "lost-result" in {fault.kind for fault in faults(replace(good(), **again))}
