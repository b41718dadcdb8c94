"""Agenda of the scheduler: its position in the index of edges, its queue, and its holds.

daemonDB's index `due` has every edge. The agenda keeps the last edge that was looked at, the
due actions that wait for a slot or a worker, and those that a back-off holds. All of it can
be rebuilt from the store at any time (`look_again`), as after a clock step. Durations are
measured by the monotonic clock. Decides about no status.
"""

import heapq

from ...ipc.instants import SECOND_US
from ..core.lifecycle import Rules
from ..core.model import Hold, Instant, Null, Record, Waiting
from ..core.restart import remaining_seconds
from .queue import STALE_MAX, Need, Queue


class Agenda:
    """The actions to look at, now and later. `cursor` is the last edge looked at in the index
    `due`, None before the first. Holds end at monotonic instants. `rules` may be replaced
    before a `look_again`."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.queue = Queue()
        self.cursor: tuple[int, bytes] | None = None
        self._holds: list[tuple[float, str]] = []
        self._held: dict[str, float] = {}
        self._ends: list[tuple[int, str]] = []  # of actions that are queued or held
        self._end_of: dict[str, int] = {}
        self._not_before_monotonic = 0.0

    def look_again(self, now: Instant, *, in_seconds: float = 0.0) -> None:
        """Look at all edges again, from the first on: now, or later where the store failed.

        Holds stay, because their clock cannot be stepped; and what is STARTED and waits, because
        it has no edge before `toDate`.
        """
        self.cursor = None
        self.queue.clear_without_slot()
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
        if _waits(record, now):
            self._watch_end(action.id, action.to_us)
        else:
            self._end_of.pop(action.id, None)
        self.release(record, now)

    def release(self, record: Record, now: Instant) -> None:
        """Queue an action that waits, and that no hold delays."""
        action, waits = record.action, _waits(record, now)
        if waits and action.id not in self._held:
            slot, worker = isinstance(record.state, Null), self.rules.has_script(action)
            self.queue.add(action.id, action.from_us, Need(slot=slot, worker=worker))
        else:
            self.queue.discard(action.id)

    def hold_over(self, action_id: str, now: Instant) -> bool:
        return self._held.get(action_id, 0.0) <= now.monotonic_seconds

    def take_ended(self, now: Instant) -> list[str]:
        """Take the actions whose windows ended while they were queued or held, by the clock
        itself. An entry may be stale: the action is looked up before anything is decided."""
        ended: list[str] = []
        while now.trusted and self._ends and self._ends[0][0] <= now.read_us:
            to_us, action_id = heapq.heappop(self._ends)
            if self._end_of.get(action_id) == to_us:
                del self._end_of[action_id]
                self.queue.discard(action_id)
                ended.append(action_id)
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

    def next_end_us(self) -> int | None:
        """Return the earliest end of the window of an action that is queued or held."""
        while self._ends and self._end_of.get(self._ends[0][1]) != self._ends[0][0]:
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def next_deadline(
        self, stored_us: int | None, now: Instant, *, lead_seconds: float = 0.0
    ) -> float | None:
        """Return the monotonic instant of the next look: the end of a hold, the end of the window
        of what waits, or `lead_seconds` before the edge `stored_us`; None where nothing is
        ahead."""
        deadlines = [max(self._holds[0][0], self._not_before_monotonic)] if self._holds else []
        for edge_us, lead in ((stored_us, lead_seconds), (self.next_end_us(), 0.0)):
            if edge_us is not None and now.trusted:
                ahead = (edge_us - now.wall_us) / SECOND_US - lead
                deadlines.append(max(now.monotonic_seconds + ahead, self._not_before_monotonic))
        return min(deadlines, default=None)

    def _watch_end(self, action_id: str, to_us: int) -> None:
        if self._end_of.get(action_id) != to_us:
            self._end_of[action_id] = to_us
            heapq.heappush(self._ends, (to_us, action_id))
            if len(self._ends) > 2 * len(self._end_of) + STALE_MAX:
                self._ends = sorted((end_us, i) for i, end_us in self._end_of.items())

    def _hold(self, action_id: str, hold: Hold, now: Instant) -> None:
        if action_id in self._held:
            return
        remaining = hold.delay_seconds
        if hold.since_us != now.wall_us:
            remaining = remaining_seconds(hold, now.wall_us) if now.trusted else remaining
        deadline = now.monotonic_seconds + remaining
        self._held[action_id] = deadline
        heapq.heappush(self._holds, (deadline, action_id))


def _waits(record: Record, now: Instant) -> bool:
    """It is due, or STARTED between two attempts: a hold, a slot or a worker delays it."""
    if isinstance(record.state, Null):
        return now.trusted and record.action.from_us <= now.wall_us
    return isinstance(record.state, Waiting)
