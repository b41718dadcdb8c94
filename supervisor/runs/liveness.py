"""Judgement of silence: when a worker that does not beat counts as dead (DESIGN law 16). Pure.

Silence counts only while the judge itself ran: a long gap between two turns of the loop
counts next to nothing, so neither a suspended host, nor a stopped daemon, nor a slow disk
makes a healthy run look dead.
"""

from collections.abc import Iterable

#: While runs live there is a turn so often, and a gap so much longer is not the workers' doing.
LOOK_SECONDS_MAX = 1.0
LONG_GAP_LOOKS = 1.5
#: Such a gap counts as this; not as nothing, so that a loop that is always late still judges.
LONG_GAP_COUNTED_SECONDS = 0.25


def look_seconds(timeouts_seconds: Iterable[float]) -> float:
    """Return how often to look for silence: so often that one gap is a third of any time-out."""
    return min([LOOK_SECONDS_MAX, *(timeout / 3 for timeout in timeouts_seconds)])


class JudgeClock:
    """A clock of the seconds during which the loop was there to listen."""

    def __init__(self, monotonic_seconds: float) -> None:
        self._last = monotonic_seconds
        self.seconds = 0.0

    def tick(self, monotonic_seconds: float, looks: float = LOOK_SECONDS_MAX) -> None:
        """Advance, once a turn, after all sockets are drained and before any worker is judged.
        `looks` is `look_seconds` of all runs that live."""
        gap = monotonic_seconds - self._last
        long = gap > looks * LONG_GAP_LOOKS
        self.seconds += LONG_GAP_COUNTED_SECONDS if long else min(max(gap, 0.0), looks)
        self._last = monotonic_seconds


def is_silent(last_beat: float, judged: float, *, timeout_seconds: float) -> bool:
    """A worker that beat at `last_beat` is silent for too long; both are readings of the
    judge's clock."""
    return judged - last_beat > timeout_seconds
