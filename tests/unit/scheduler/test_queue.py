"""Who may begin, and in which order (SPEC S14)."""

import pytest
from geosched.supervisor.scheduler.queue import STALE_MAX, Need, Queue, slots_free
from hypothesis import given
from hypothesis import strategies as st

FIRST = Need(slot=True, worker=True)
LATER = Need(slot=False, worker=True)
NO_SCRIPT = Need(slot=True, worker=False)
MANY = 100


def queue_of(*entries: tuple[str, int] | tuple[str, int, Need]) -> Queue:
    queue = Queue()
    for action_id, from_us, *need in entries:
        queue.add(action_id, from_us, need[0] if need else FIRST)
    return queue


def taken(queue: Queue, slots: int = MANY, workers: int = MANY) -> list[str]:
    """What begins with these, as a turn takes it: what each needs is gone then."""
    found: list[str] = []
    needs = {action_id: need for action_id, (_, need) in queue._members.items()}
    while (action_id := queue.take(slots=slots, workers=workers)) is not None:
        found.append(action_id)
        slots, workers = slots - needs[action_id].slot, workers - needs[action_id].worker
    return found


@pytest.mark.parametrize(
    ("max_running", "started", "free"),
    [(3, 0, 3), (3, 2, 1), (3, 3, 0), (1, 0, 1), (2, 5, 0)],
    ids=["all", "one", "none", "only-one", "lowered-below-what-runs"],
)
def test_slots_are_what_max_running_leaves(max_running, started, free):
    assert slots_free(max_running, started) == free


def test_the_earliest_start_goes_first_and_the_id_decides_between_equals():
    queue = queue_of(("c", 10), ("b", 5), ("a", 10), ("d", 1))
    assert taken(queue, slots=3) == ["d", "b", "a"]
    assert taken(queue) == ["c"]
    assert taken(queue) == []


def test_what_is_taken_is_no_longer_queued():
    queue = queue_of(("a", 1), ("b", 2))
    assert taken(queue, workers=1) == ["a"]
    assert "a" not in queue
    assert "b" in queue


@pytest.mark.parametrize(("slots", "workers"), [(0, 5), (5, 0), (0, 0)])
def test_without_a_slot_or_without_a_worker_no_script_begins(slots, workers):
    queue = queue_of(("a", 1))
    assert taken(queue, slots, workers) == []
    assert "a" in queue


def test_a_later_attempt_needs_a_worker_and_no_slot():
    queue = queue_of(("first", 1), ("later", 2, LATER))
    assert taken(queue, slots=0, workers=1) == ["later"]


def test_what_has_no_script_needs_a_slot_and_no_worker():
    queue = queue_of(("first", 1), ("no-script", 2, NO_SCRIPT))
    assert taken(queue, slots=1, workers=0) == ["no-script"]


def test_first_and_later_attempts_share_one_order():
    queue = queue_of(("d", 4), ("c", 3, LATER), ("b", 2), ("a", 1, LATER))
    assert taken(queue, workers=3) == ["a", "b", "c"]


def test_workers_are_wanted_for_what_lacks_nothing_else():
    queue = queue_of(("a", 1), ("b", 2), ("c", 3, LATER), ("d", 4, NO_SCRIPT))
    assert [queue.lack_workers(slots) for slots in (0, 1, 5)] == [1, 2, 3]
    assert queue.without_slot == 3


def test_adding_the_same_twice_queues_it_once():
    queue = queue_of(("a", 1), ("a", 1))
    assert taken(queue) == ["a"]


def test_a_moved_window_counts_and_the_old_one_does_not():
    queue = queue_of(("a", 1), ("b", 2), ("a", 3))
    assert taken(queue) == ["b", "a"]


def test_what_was_discarded_is_not_taken():
    queue = queue_of(("a", 1), ("b", 2))
    queue.discard("a")
    queue.discard("never-there")
    assert taken(queue) == ["b"]


def test_what_comes_back_after_a_discard_is_taken_once():
    queue = queue_of(("a", 1))
    queue.discard("a")
    queue.add("a", 1, FIRST)
    assert taken(queue) == ["a"]


def test_what_is_started_stays_when_the_rest_is_looked_up_again():
    queue = queue_of(("a", 1), ("b", 2, LATER), ("c", 3, NO_SCRIPT))
    queue.clear_without_slot()
    assert queue.without_slot == 0
    assert taken(queue) == ["b"]


def test_what_leaves_and_comes_back_again_and_again_takes_no_more_room():
    queue = queue_of()
    for _ in range(1000):
        for number in range(10):
            queue.add(str(number), number, FIRST)
        queue.clear_without_slot()
    assert sum(map(len, queue._by_start.values())) <= 2 * 10 + STALE_MAX + 10


IDS = st.sampled_from("abcde")
NEEDS = st.sampled_from([FIRST, LATER, NO_SCRIPT])
STEPS = st.lists(
    st.tuples(st.just("add"), IDS, st.integers(0, 9), NEEDS)
    | st.tuples(st.just("discard"), IDS)
    | st.tuples(st.just("take"), st.integers(0, 2), st.integers(0, 2))
)


@given(STEPS)
def test_the_queue_is_a_sorted_table_whatever_happens_to_it(steps):
    queue, table = Queue(), {}
    for step in steps:
        match step:
            case ("add", action_id, from_us, need):
                queue.add(action_id, from_us, need)
                table[action_id] = (from_us, need)
            case ("discard", action_id):
                queue.discard(action_id)
                table.pop(action_id, None)
            case ("take", slots, workers):
                fit = (i for i, (_, n) in table.items() if slots >= n.slot and workers >= n.worker)
                expected = min(fit, key=lambda i: (table[i][0], i), default=None)
                assert queue.take(slots=slots, workers=workers) == expected
                table.pop(expected, None)
        assert queue.without_slot == sum(need.slot for _, need in table.values())
        assert {i for i in "abcde" if i in queue} == table.keys()
