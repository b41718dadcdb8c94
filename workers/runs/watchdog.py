"""The watchdog of a script: a time-out of its silence, judged by its worker (law 16)."""

from ..host.liveness import JudgeClock, look_seconds


class Watchdog:
    """The silence of one script. `now` is in monotonic seconds."""

    def __init__(self, timeout_seconds: float, now: float) -> None:
        """`timeout_seconds` 0 is for a script without a watchdog."""
        self._timeout_seconds = timeout_seconds
        self._look_seconds = look_seconds([timeout_seconds])
        self._judge = JudgeClock(now)
        self._fed_at = 0.0  # a reading of the judge's clock

    def fed(self) -> None:
        """Restart the time-out, because WATCHDOG=1 came."""
        self._fed_at = self._judge.seconds

    def turn(self, now: float) -> bool:
        """Return True if the script was silent for too long. Drain its socket first."""
        self._judge.tick(now, self._look_seconds)
        return 0 < self._timeout_seconds <= self._judge.seconds - self._fed_at

    def next_deadline(self) -> float | None:
        """Return the monotonic instant of the next look, early enough for the gap to count whole;
        None without a watchdog."""
        if not self._timeout_seconds:
            return None
        rest = self._timeout_seconds - (self._judge.seconds - self._fed_at)
        return self._judge.ticked_at_monotonic + max(0.0, min(rest, self._look_seconds))
