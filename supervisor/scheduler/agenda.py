"""Agenda of the scheduler: its position in the index of edges, its queue, and its holds.

daemonDB's index `due` has every edge. The agenda keeps the last edge that was looked at, the
due actions that wait for one of `max_running` slots, and those that a back-off holds. All of
it can be rebuilt from the index at any time (`look_again`), as after a clock step. Durations
are measured by the monotonic clock. Decides about no status.
"""

import heapq

from ...ipc.instants import SECOND_US
from ..core.model import Hold, Instant, Null, Record, Waiting
from ..core.restart import remaining_seconds
from .queue import Queue


class Agenda:
    """The actions to look at, now and later. `cursor` is the last edge looked at in the index
    `due`, None before the first. Holds end at monotonic instants."""

    def __init__(self) -> None:
        self.queue = Queue()
        self.cursor: tuple[int, bytes] | None = None
        self._holds: list[tuple[float, str]] = []
        self._held: dict[str, float] = {}
        self._held_ends: list[tuple[int, str]] = []
        self._not_before_monotonic = 0.0

    def look_again(self, now: Instant, *, in_seconds: float = 0.0) -> None:
        """Look at all edges again, from the first on: now, or later where the store failed.

        Holds stay, because their clock cannot be stepped.
        """
        self.cursor = None
        self.queue.clear()
        self._held_ends.clear()
        self._not_before_monotonic = now.monotonic_seconds + in_seconds

    def may_look(self, now: Instant) -> bool:
        return now.monotonic_seconds >= self._not_before_monotonic

    def note(self, record: Record, now: Instant) -> None:
        """Queue or hold a record that was just written, or found due, if it has to wait."""
        action = record.action
        match record.state:
            case Null(Hold() as hold) | Waiting(hold) if hold.delay_seconds > 0:
                self._hold(action.id, hold, now)
            case _:
                self._held.pop(action.id, None)
        open_now = now.trusted and action.from_us <= now.wall_us
        waits = isinstance(record.state, Null) and open_now
        if waits and action.id not in self._held:
            self.queue.add(action.id, action.from_us, action.to_us)
        else:
            self.queue.discard(action.id)
        if waits and action.id in self._held:
            heapq.heappush(self._held_ends, (action.to_us, action.id))

    def release(self, record: Record, now: Instant) -> None:
        """Queue a NULL action whose hold is over, if its window is open."""
        action = record.action
        if now.trusted and action.from_us <= now.wall_us:
            self.queue.add(action.id, action.from_us, action.to_us)

    def hold_over(self, action_id: str, now: Instant) -> bool:
        return self._held.get(action_id, 0.0) <= now.monotonic_seconds

    def take_ended(self, now: Instant) -> list[str]:
        """Take the actions whose windows ended while they were queued or held. An entry of a held
        one may be stale: the action is looked up before anything is decided."""
        if not now.trusted:
            return []
        ended = self.queue.take_ended(now.wall_us)
        while self._held_ends and self._held_ends[0][0] <= now.wall_us:
            ended.append(heapq.heappop(self._held_ends)[1])
        return ended

    def take_released(self, now: Instant) -> list[str]:
        """Take the actions whose hold is over; they are no longer held."""
        released: list[str] = []
        while self._holds and self._holds[0][0] <= now.monotonic_seconds:
            deadline, action_id = heapq.heappop(self._holds)
            if self._held.get(action_id) == deadline:
                del self._held[action_id]
                released.append(action_id)
        return released

    def next_edge_us(self, stored_us: int | None) -> int | None:
        """Return the next edge: `stored_us`, from daemonDB, or the end of the window of an action
        that is queued or held."""
        held_end_us = self._held_ends[0][0] if self._held_ends else None
        edges = (stored_us, self.queue.next_end_us(), held_end_us)
        return min((edge for edge in edges if edge is not None), default=None)

    def next_deadline(
        self, stored_us: int | None, now: Instant, *, lead_seconds: float = 0.0
    ) -> float | None:
        """Return the monotonic instant of the next look: the end of a hold, or `lead_seconds`
        before an edge; None where nothing is ahead."""
        edge_us = self.next_edge_us(stored_us)
        deadlines = [max(self._holds[0][0], self._not_before_monotonic)] if self._holds else []
        if edge_us is not None and now.trusted:
            ahead = (edge_us - now.wall_us) / SECOND_US - lead_seconds
            deadlines.append(max(now.monotonic_seconds + ahead, self._not_before_monotonic))
        return min(deadlines, default=None)

    def _hold(self, action_id: str, hold: Hold, now: Instant) -> None:
        if action_id in self._held:
            return
        remaining = hold.delay_seconds
        if hold.since_us != now.wall_us:
            remaining = remaining_seconds(hold, now.wall_us) if now.trusted else remaining
        deadline = now.monotonic_seconds + remaining
        self._held[action_id] = deadline
        heapq.heappush(self._holds, (deadline, action_id))
