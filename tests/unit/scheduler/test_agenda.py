"""What to look at now, and when to look again."""

from typing import Any

import pytest
from geosched.ipc.instants import SECOND_US
from geosched.supervisor.core.model import Hold, Instant, Null, Record, Waiting
from geosched.supervisor.scheduler.agenda import Agenda
from geosched.supervisor.scheduler.queue import STALE_MAX
from support.build import HOUR_US, NOW_US, RULES, record, running

FROM_US, TO_US = NOW_US - HOUR_US, NOW_US + HOUR_US


def at(seconds: float = 0.0, *, stepped: float = 0.0, trusted: bool = True) -> Instant:
    """So long after the start of the test; `stepped` moves only the wall clock."""
    wall_us = NOW_US + round((seconds + stepped) * SECOND_US)
    return Instant(wall_us, 1000.0 + seconds, 1000.0 + seconds, trusted)


def held(seconds: float, *, waiting: bool = True, since: float = 0.0, **changes: Any) -> Record:
    hold = Hold(NOW_US + round(since * SECOND_US), seconds)
    return record(Waiting(hold, True) if waiting else Null(hold), attempt=5, **changes)


def noted(*records: Record, now: Instant | None = None) -> Agenda:
    agenda = Agenda(RULES)
    for each in records:
        agenda.note(each, now or at())
    return agenda


# --- the queue --------------------------------------------------------------------------


def test_what_is_due_is_queued_and_what_is_not_yet_due_is_not():
    agenda = noted(record(action_id="due"), record(action_id="later", from_us=NOW_US + 1))
    assert "due" in agenda.queue
    assert "later" not in agenda.queue


def test_an_untrusted_clock_queues_nothing():
    agenda = noted(record(), now=at(trusted=False))
    agenda.release(record(), at(trusted=False))
    assert agenda.queue.without_slot == 0


def test_what_started_leaves_the_queue():
    agenda = noted(record())
    agenda.note(running(), at())
    assert agenda.queue.without_slot == 0


def test_what_moved_into_the_future_leaves_the_queue():
    agenda = noted(record())
    agenda.note(record(from_us=NOW_US + HOUR_US, to_us=NOW_US + 2 * HOUR_US), at())
    assert agenda.queue.without_slot == 0


# --- holds ------------------------------------------------------------------------------


def test_a_hold_is_over_when_it_has_lasted_and_not_before():
    agenda = noted(held(30.0))
    assert not agenda.hold_over("a", at(29.9))
    assert agenda.take_released(at(29.9)) == []
    assert agenda.hold_over("a", at(30.0))
    assert agenda.take_released(at(30.0)) == ["a"]
    assert agenda.take_released(at(31.0)) == []


@pytest.mark.parametrize("stepped", [-1e6, -10.0, 10.0, 1e6])
def test_a_hold_runs_on_a_clock_that_cannot_be_stepped(stepped):
    agenda = noted(held(30.0))
    assert agenda.take_released(at(29.0, stepped=stepped)) == []
    assert agenda.take_released(at(30.0, stepped=stepped)) == ["a"]


@pytest.mark.parametrize("stepped", [-1e6, 1e6])
def test_looking_again_after_a_step_keeps_the_holds(stepped):
    agenda = noted(held(30.0))
    agenda.look_again(at(10.0, stepped=stepped))
    agenda.note(held(30.0), at(10.0, stepped=stepped))
    assert not agenda.hold_over("a", at(29.0, stepped=stepped))
    assert agenda.take_released(at(30.0, stepped=stepped)) == ["a"]


def test_a_daemon_that_starts_waits_what_is_left_of_a_hold():
    agenda = noted(held(30.0, since=-20.0))
    assert agenda.take_released(at(9.9)) == []
    assert agenda.take_released(at(10.0)) == ["a"]


@pytest.mark.parametrize("since", [-1000.0, 1000.0], ids=["long-over", "in-the-future"])
def test_no_clock_at_start_makes_a_hold_longer_than_it_was(since):
    agenda = noted(held(30.0, since=since))
    assert agenda.take_released(at(30.0)) == ["a"]


def test_an_untrusted_clock_at_start_waits_the_whole_hold():
    agenda = noted(held(30.0, since=-20.0), now=at(trusted=False))
    assert agenda.take_released(at(29.0)) == []
    assert agenda.take_released(at(30.0)) == ["a"]


def test_a_null_action_is_not_queued_while_it_is_held():
    agenda = noted(held(30.0, waiting=False))
    assert agenda.queue.without_slot == 0
    assert agenda.take_released(at(30.0)) == ["a"]
    agenda.release(held(30.0, waiting=False), at(30.0))
    assert agenda.queue.take(slots=1, workers=0) == "a"


def test_a_released_action_waits_for_its_window():
    later = held(30.0, waiting=False, from_us=NOW_US + HOUR_US, to_us=NOW_US + 2 * HOUR_US)
    agenda = noted(later)
    agenda.release(later, at(30.0))
    assert agenda.queue.without_slot == 0


def test_a_hold_of_what_started_meanwhile_counts_no_more():
    agenda = noted(held(30.0))
    agenda.note(running(), at(1.0))
    assert agenda.hold_over("a", at(1.0))
    assert agenda.take_released(at(31.0)) == []


def test_the_next_hold_of_an_action_is_a_new_one():
    agenda = noted(held(30.0))
    agenda.note(running(), at(1.0))
    agenda.note(held(60.0, since=2.0), at(2.0))
    assert agenda.take_released(at(61.9)) == []
    assert agenda.take_released(at(62.0)) == ["a"]


def test_a_hold_of_no_length_holds_nothing():
    agenda = noted(held(0.0))
    assert agenda.hold_over("a", at())


# --- looking again ----------------------------------------------------------------------


def test_looking_again_begins_at_the_first_edge():
    agenda = noted(record())
    agenda.cursor = (NOW_US, b"key")
    agenda.look_again(at())
    assert agenda.cursor is None
    assert agenda.queue.without_slot == 0
    assert agenda.may_look(at())


def test_a_store_that_failed_is_looked_at_after_a_while():
    agenda = Agenda(RULES)
    agenda.look_again(at(), in_seconds=5.0)
    assert not agenda.may_look(at(4.9))
    assert agenda.may_look(at(5.0))
    assert agenda.next_deadline(NOW_US + SECOND_US, at()) == 1005.0


# --- the next deadline ------------------------------------------------------------------


def test_with_nothing_ahead_there_is_no_deadline():
    assert Agenda(RULES).next_deadline(None, at()) is None


def test_the_deadline_is_the_earliest_of_edge_end_and_hold():
    agenda = noted(record(to_us=NOW_US + 20 * SECOND_US), held(30.0, action_id="b"))
    assert agenda.next_deadline(NOW_US + 10 * SECOND_US, at()) == 1010.0
    assert agenda.next_deadline(NOW_US + 25 * SECOND_US, at()) == 1020.0
    assert noted(held(5.0)).next_deadline(NOW_US + 10 * SECOND_US, at()) == 1005.0


def test_while_the_clock_is_not_trusted_no_edge_wakes_the_loop():
    agenda = noted(held(30.0))
    assert agenda.next_deadline(NOW_US - SECOND_US, at(trusted=False)) == 1030.0
    assert Agenda(RULES).next_deadline(NOW_US - SECOND_US, at(trusted=False)) is None


@pytest.mark.parametrize(
    "blocked",
    [
        noted(record()),  # no slot is free
        noted(held(30.0)),
        noted(held(30.0, waiting=False)),
        noted(record(from_us=NOW_US - HOUR_US), now=at(trusted=False)),
    ],
    ids=["no-slot", "back-off", "back-off-of-a-null", "untrusted"],
)
def test_what_is_past_and_cannot_be_acted_on_never_makes_the_loop_spin(blocked):
    deadline = blocked.next_deadline(None, at())
    assert deadline is None or deadline > at().monotonic_seconds


def test_a_hold_that_was_dropped_wakes_the_loop_at_most_once():
    agenda = noted(held(30.0))
    agenda.note(running(), at(1.0))
    agenda.take_released(at(30.0))
    assert agenda.next_deadline(None, at(30.0)) is None


def test_a_hold_that_is_over_does_not_spin_the_loop_while_the_store_cannot_be_written():
    agenda = noted(held(1.0))
    agenda.look_again(at(2.0), in_seconds=1.0)
    assert agenda.next_deadline(None, at(2.0)) == 1003.0


def test_s10_the_window_of_what_is_held_ends_all_the_same():
    agenda = noted(held(2 * 3600.0, waiting=False))
    assert agenda.next_deadline(None, at()) == at(3600).monotonic_seconds
    assert agenda.take_ended(at(3599)) == []
    assert agenda.take_ended(at(3600)) == ["a"]


def test_an_action_that_is_restarted_again_and_again_takes_no_more_room():
    agenda = noted()
    for number in range(1000):
        agenda.note(held(1.0, since=float(number)), at(number))
        agenda.note(running(), at(number + 0.5))
    assert len(agenda._ends) <= STALE_MAX + 1


def test_an_untrusted_clock_ends_no_window_of_what_is_held():
    agenda = noted(held(2 * 3600.0, waiting=False))
    assert agenda.take_ended(at(3600, trusted=False)) == []
