"""Queue of due actions that wait for a slot or for a worker (SPEC S14). Pure.

Only their order is kept in memory, and an action is looked up in daemonDB before it is
started, so a stale entry does no harm. Ten thousand queued actions cost a turn nothing.
"""

import heapq
from collections import Counter
from typing import NamedTuple

#: A heap with more stale entries than this, and more than others, is made anew.
STALE_MAX = 64


def slots_free(max_running: int, started: int) -> int:
    """Return how many more actions may be STARTED; a lowered `max_running` stops none."""
    return max(0, max_running - started)


class Need(NamedTuple):
    """What an action needs before its next attempt begins. One that is STARTED has its slot, and
    one without a script is given to no worker."""

    slot: bool
    worker: bool


class Queue:
    """Due actions that wait: earliest `fromDate` first, then `id`; each is passed over only while
    what it needs is not there, and another does not need it."""

    def __init__(self) -> None:
        self._by_start: dict[Need, list[tuple[int, str]]] = {}
        self._members: dict[str, tuple[int, Need]] = {}
        self._counts: Counter[Need] = Counter()

    def __contains__(self, action_id: str) -> bool:
        return action_id in self._members

    def __len__(self) -> int:
        return len(self._members)

    @property
    def without_slot(self) -> int:
        """Number of actions in it that are not STARTED."""
        return sum(count for need, count in self._counts.items() if need.slot)

    def lack_workers(self, slots: int) -> int:
        """Return how many could begin with these free slots, if each had a worker."""
        first, started = (self._counts[Need(slot=slot, worker=True)] for slot in (True, False))
        return min(first, slots) + started

    def add(self, action_id: str, from_us: int, need: Need) -> None:
        member = (from_us, need)
        if self._members.get(action_id) == member:
            return
        self.discard(action_id)
        self._members[action_id] = member
        self._counts[need] += 1
        heap = self._by_start.setdefault(need, [])
        heapq.heappush(heap, (from_us, action_id))
        if len(heap) > 2 * self._counts[need] + STALE_MAX:
            heap[:] = sorted(
                (start, i) for i, (start, other) in self._members.items() if other == need
            )

    def discard(self, action_id: str) -> None:
        member = self._members.pop(action_id, None)
        if member is not None:
            self._counts[member[1]] -= 1

    def clear_without_slot(self) -> None:
        """Remove what is not STARTED: it is found again by its edge."""
        for action_id in [i for i, (_, need) in self._members.items() if need.slot]:
            self.discard(action_id)

    def take(self, *, slots: int, workers: int) -> str | None:
        """Remove and return the next action that may begin with what is free; None without one."""
        fitting = [
            heap
            for need, heap in self._by_start.items()
            if slots >= need.slot and workers >= need.worker and self._first(need, heap)
        ]
        if not fitting:
            return None
        _, action_id = heapq.heappop(min(fitting, key=lambda heap: heap[0]))
        self.discard(action_id)
        return action_id

    def _first(self, need: Need, heap: list[tuple[int, str]]) -> bool:
        """Drop stale entries from the front; false where none is left."""
        while heap and self._members.get(heap[0][1]) != (heap[0][0], need):
            heapq.heappop(heap)
        return bool(heap)
