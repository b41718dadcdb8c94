"""When silence means death (DESIGN law 16).

Silence counts only while the judge itself ran: a long gap between two turns of the loop
counts next to nothing, so neither a suspended host, nor a stopped daemon, nor a slow disk
makes a healthy run look dead.
"""

#: While runs live there is a turn every second: a longer gap is not the workers' doing.
GAP_SECONDS_MAX = 1.5
#: What such a gap counts; not nothing, so that a loop that is always late still judges.
LONG_GAP_COUNTED_SECONDS = 0.25


class JudgeClock:
    """Seconds during which the loop was there to listen."""

    def __init__(self, monotonic_seconds: float) -> None:
        self._last = monotonic_seconds
        self.seconds = 0.0

    def tick(self, monotonic_seconds: float) -> None:
        """Once a turn, before anyone is judged and after all sockets are drained."""
        gap = monotonic_seconds - self._last
        long = gap > GAP_SECONDS_MAX
        self.seconds += LONG_GAP_COUNTED_SECONDS if long else min(max(gap, 0.0), 1.0)
        self._last = monotonic_seconds


def is_silent(last_beat: float, judged: float, *, timeout_seconds: float) -> bool:
    """Whether a worker that beat at `last_beat` is silent for too long; both are readings
    of the judge's clock."""
    return judged - last_beat > timeout_seconds
