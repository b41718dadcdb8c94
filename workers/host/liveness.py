"""Silence and its time-outs: of workers, judged by the supervisor; of scripts, by their workers.

Silence counts only while the judge itself ran (law 16): a long gap between two of its turns
counts next to nothing, so neither a suspended host, nor a stopped judge, nor a slow disk makes a
healthy run look dead.
"""

from collections.abc import Iterable

#: The judge takes a turn this often, so the others did not cause a gap that is longer.
LOOK_SECONDS_MAX = 1.0
LONG_GAP_LOOKS = 1.5
#: Counted of such a gap; not nothing, so that a judge that is always late still judges.
LONG_GAP_COUNTED_SECONDS = 0.25


def look_seconds(timeouts_seconds: Iterable[float]) -> float:
    """Return the time between two turns: short enough for no gap to be most of a time-out."""
    return min([LOOK_SECONDS_MAX, *(timeout / 3 for timeout in timeouts_seconds)])


class JudgeClock:
    """A clock that runs while its judge does: `seconds` count from 0."""

    def __init__(self, monotonic_seconds: float) -> None:
        self.ticked_at_monotonic = monotonic_seconds
        self.seconds = 0.0

    def tick(self, monotonic_seconds: float, looks: float = LOOK_SECONDS_MAX) -> None:
        """Count the gap since the last turn. Call it once a turn, after all sockets are drained
        and before anyone is judged. `looks` is `look_seconds` of all that are judged."""
        gap = monotonic_seconds - self.ticked_at_monotonic
        long = gap > looks * LONG_GAP_LOOKS
        self.seconds += min(LONG_GAP_COUNTED_SECONDS if long else max(gap, 0.0), looks)
        self.ticked_at_monotonic = monotonic_seconds


def is_silent(last_beat: float, judged: float, *, timeout_seconds: float) -> bool:
    """The silence since `last_beat` is longer than its time-out. `last_beat` and `judged` are
    readings of the judge's clock."""
    return judged - last_beat > timeout_seconds
