"""Pace of forks: the number of workers in the making, by how fast the host makes them. Pure.

As many as lately became ready: on a slow host one after the other is ready then, instead of
all of them late.
"""

from collections import deque

#: Fewer than this are never in the making.
MAKING_MIN = 8
LATELY_SECONDS = 0.25
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
        self._from_monotonic = 0.0

    def became_ready(self, now_monotonic: float) -> None:
        self._ready_at.append(now_monotonic)

    def failed(self, now_monotonic: float) -> None:
        """Remember a worker that could not be forked, or died before it was ready."""
        self._from_monotonic = now_monotonic + FORK_AGAIN_SECONDS

    def more(self, making: int, now_monotonic: float) -> int:
        """Return how many workers may be forked now, beside those `making`."""
        if now_monotonic < self._from_monotonic:
            return 0
        while self._ready_at and self._ready_at[0] < now_monotonic - LATELY_SECONDS:
            self._ready_at.popleft()
        most = max(MAKING_MIN, len(self._ready_at))
        return max(0, min(most - making, FORKS_PER_TURN_MAX))

    def next_deadline(self, now_monotonic: float) -> float | None:
        """Return the instant from which on a fork is tried again; None where none is put off."""
        return self._from_monotonic if self._from_monotonic > now_monotonic else None
