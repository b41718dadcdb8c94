"""Who may start, and in which order (SPEC S14)."""

import pytest
from geosched.supervisor.scheduler.queue import Queue, slots_free
from hypothesis import given
from hypothesis import strategies as st


def queue_of(*entries: tuple[str, int, int]) -> Queue:
    queue = Queue()
    for entry in entries:
        queue.add(*entry)
    return queue


@pytest.mark.parametrize(
    ("max_running", "started", "free"),
    [(3, 0, 3), (3, 2, 1), (3, 3, 0), (1, 0, 1), (2, 5, 0)],
    ids=["all", "one", "none", "only-one", "lowered-below-what-runs"],
)
def test_slots_are_what_max_running_leaves(max_running, started, free):
    assert slots_free(max_running, started) == free


def test_the_earliest_start_goes_first_and_the_id_decides_between_equals():
    queue = queue_of(("c", 10, 99), ("b", 5, 99), ("a", 10, 99), ("d", 1, 99))
    assert queue.take(3) == ["d", "b", "a"]
    assert queue.take(3) == ["c"]
    assert queue.take(3) == []


def test_what_is_taken_is_no_longer_queued():
    queue = queue_of(("a", 1, 9), ("b", 2, 9))
    assert queue.take(1) == ["a"]
    assert len(queue) == 1
    assert "a" not in queue
    assert "b" in queue


@pytest.mark.parametrize("count", [0, -1])
def test_without_a_free_slot_nothing_is_taken(count):
    queue = queue_of(("a", 1, 9))
    assert queue.take(count) == []
    assert "a" in queue


def test_adding_the_same_twice_queues_it_once():
    queue = queue_of(("a", 1, 9), ("a", 1, 9))
    assert len(queue) == 1
    assert queue.take(5) == ["a"]


def test_a_moved_window_counts_and_the_old_one_does_not():
    queue = queue_of(("a", 1, 9), ("b", 2, 99), ("a", 3, 30))
    assert queue.take(5) == ["b", "a"]
    assert queue_of(("a", 1, 9), ("a", 1, 30)).take_ended(9) == []


def test_what_was_discarded_is_neither_taken_nor_ended():
    queue = queue_of(("a", 1, 9), ("b", 2, 9))
    queue.discard("a")
    queue.discard("never-there")
    assert queue.take_ended(9) == ["b"]
    assert queue.take(5) == []


def test_what_comes_back_after_a_discard_is_taken_once():
    queue = queue_of(("a", 1, 9))
    queue.discard("a")
    queue.add("a", 1, 9)
    assert queue.take(5) == ["a"]
    assert queue.take_ended(9) == []


def test_an_end_is_reached_at_its_very_microsecond():
    queue = queue_of(("a", 1, 10), ("b", 2, 11))
    assert queue.take_ended(9) == []
    assert queue.take_ended(10) == ["a"]
    assert len(queue) == 1
    assert queue.take(5) == ["b"]


def test_the_next_end_skips_what_left_the_queue():
    queue = queue_of(("a", 1, 5), ("b", 2, 7), ("c", 3, 9))
    assert queue.next_end_us() == 5
    queue.discard("a")
    assert queue.next_end_us() == 7
    assert queue.take(1) == ["b"]
    assert queue.next_end_us() == 9
    queue.clear()
    assert queue.next_end_us() is None
    assert len(queue) == 0


IDS = st.sampled_from("abcde")
STEPS = st.lists(
    st.tuples(st.just("add"), IDS, st.integers(0, 9), st.integers(10, 20))
    | st.tuples(st.just("discard"), IDS)
    | st.tuples(st.just("take"), st.integers(0, 3))
    | st.tuples(st.just("end"), st.integers(0, 20))
)


@given(STEPS)
def test_the_queue_is_a_sorted_table_whatever_happens_to_it(steps):
    queue, table = Queue(), {}
    for step in steps:
        match step:
            case ("add", action_id, from_us, to_us):
                queue.add(action_id, from_us, to_us)
                table[action_id] = (from_us, to_us)
            case ("discard", action_id):
                queue.discard(action_id)
                table.pop(action_id, None)
            case ("take", count):
                expected = sorted(table, key=lambda i: (table[i][0], i))[:count]
                assert queue.take(count) == expected
                table = {i: table[i] for i in table if i not in expected}
            case ("end", now_us):
                over = sorted((i for i in table if table[i][1] <= now_us), key=lambda i: table[i])
                assert sorted(queue.take_ended(now_us)) == sorted(over)
                table = {i: table[i] for i in table if i not in over}
        assert len(queue) == len(table)
        assert queue.next_end_us() == min((to for _, to in table.values()), default=None)
