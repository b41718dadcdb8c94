"""Pace of forks: the number of workers in the making, by how fast the host makes them. Pure.

As many as lately became ready: on a slow host one after the other is ready then, instead of
all of them late. And as many more than there are slots as runs lately ended: where short runs
queue for slots, a slot then finds its next worker ready.
"""

from collections import deque
from itertools import takewhile

#: Fewer than this are never in the making.
MAKING_MIN = 8
LATELY_SECONDS = 0.25
TURNOVER_KEPT_SECONDS = 2.0
#: Forked in one turn, so that an edge with many starts does not hold up the loop.
FORKS_PER_TURN_MAX = 32
#: Nothing is forked for this long after a worker failed to become ready.
FORK_AGAIN_SECONDS = 1.0
#: More workers than become ready lately on any host.
READY_REMEMBERED = 10_000


class ForkPace:
    """Paces the forks of workers. Instants are monotonic."""

    def __init__(self) -> None:
        self._ready_at: deque[float] = deque(maxlen=READY_REMEMBERED)
        self._ended_at: deque[float] = deque(maxlen=READY_REMEMBERED)
        self._from_monotonic = 0.0

    def became_ready(self, now_monotonic: float) -> None:
        self._ready_at.append(now_monotonic)

    def ended(self, now_monotonic: float) -> None:
        self._ended_at.append(now_monotonic)

    def failed(self, now_monotonic: float) -> None:
        """Remember a worker that could not be forked, or died before it was ready."""
        self._from_monotonic = now_monotonic + FORK_AGAIN_SECONDS

    def more(self, making: int, now_monotonic: float) -> int:
        """Return how many workers may be forked now, beside those `making`."""
        if now_monotonic < self._from_monotonic:
            return 0
        _forget_before(self._ready_at, now_monotonic - LATELY_SECONDS)
        most = max(MAKING_MIN, len(self._ready_at))
        return max(0, min(most - making, FORKS_PER_TURN_MAX))

    def turnover(self, idle: int, now_monotonic: float) -> int:
        """Return how many workers to have for slots that become free: as many as runs ended while
        one is made. Those that are `idle` go no sooner than runs end more seldom for a while."""
        _forget_before(self._ended_at, now_monotonic - TURNOVER_KEPT_SECONDS)
        lately_from = now_monotonic - LATELY_SECONDS
        lately = takewhile(lambda instant: instant >= lately_from, reversed(self._ended_at))
        return max(sum(1 for _ in lately), min(idle, len(self._ended_at)))

    def next_deadline(self, now_monotonic: float) -> float | None:
        """Return the instant from which on a fork is tried again; None where none is put off."""
        return self._from_monotonic if self._from_monotonic > now_monotonic else None


def _forget_before(instants: deque[float], from_monotonic: float) -> None:
    while instants and instants[0] < from_monotonic:
        instants.popleft()
