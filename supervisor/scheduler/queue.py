"""Queue of due actions that wait for a slot, because `max_running` are STARTED (SPEC S14). Pure.

Only their windows are kept in memory, and an action is looked up in daemonDB before it is
started, so a stale entry does no harm. Ten thousand queued actions cost a turn nothing.
"""

import heapq


def slots_free(max_running: int, started: int) -> int:
    """Return how many more actions may be STARTED; a lowered `max_running` stops none."""
    return max(0, max_running - started)


class Queue:
    """Due actions beyond the free slots: earliest `fromDate` first, then `id`.

    Each leaves the queue at the end of its window, without a start (S10).
    """

    def __init__(self) -> None:
        self._by_start: list[tuple[int, str]] = []
        self._by_end: list[tuple[int, str]] = []
        self._members: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, action_id: str) -> bool:
        return action_id in self._members

    def add(self, action_id: str, from_us: int, to_us: int) -> None:
        if self._members.get(action_id) == (from_us, to_us):
            return
        self._members[action_id] = (from_us, to_us)
        heapq.heappush(self._by_start, (from_us, action_id))
        heapq.heappush(self._by_end, (to_us, action_id))

    def discard(self, action_id: str) -> None:
        self._members.pop(action_id, None)

    def clear(self) -> None:
        self._by_start.clear()
        self._by_end.clear()
        self._members.clear()

    def take(self, count: int) -> list[str]:
        """Remove and return the next `count` actions to start, in order."""
        taken: list[str] = []
        while self._by_start and len(taken) < count:
            from_us, action_id = heapq.heappop(self._by_start)
            if self._members.get(action_id, (None,))[0] == from_us:
                del self._members[action_id]
                taken.append(action_id)
        return taken

    def take_ended(self, now_us: int) -> list[str]:
        """Remove and return the actions whose window is over."""
        taken: list[str] = []
        while self._by_end and self._by_end[0][0] <= now_us:
            to_us, action_id = heapq.heappop(self._by_end)
            if self._members.get(action_id, (None, None))[1] == to_us:
                del self._members[action_id]
                taken.append(action_id)
        return taken

    def next_end_us(self) -> int | None:
        """Return the earliest end of a queued action's window."""
        while self._by_end:
            to_us, action_id = self._by_end[0]
            if self._members.get(action_id, (None, None))[1] == to_us:
                return to_us
            heapq.heappop(self._by_end)
        return None
