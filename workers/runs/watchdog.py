"""The watchdog of a script: a limit to its silence, counted only while its worker ran (law 16)."""

#: A gap between two turns of the worker counts as at most this much silence.
GAP_COUNTED_SECONDS_MAX = 1.0


class Watchdog:
    """The silence of one script. `now` is in monotonic seconds."""

    def __init__(self, timeout_seconds: float, now: float) -> None:
        """`timeout_seconds` 0 is for a script without a watchdog."""
        self._timeout_seconds = timeout_seconds
        self._last_turn_monotonic = now
        self._silent_seconds = 0.0

    def fed(self) -> None:
        self._silent_seconds = 0.0

    def turn(self, now: float) -> bool:
        """True if the script was silent for too long. Drain its socket first."""
        gap = now - self._last_turn_monotonic
        self._last_turn_monotonic = now
        self._silent_seconds += min(gap, GAP_COUNTED_SECONDS_MAX)
        return 0 < self._timeout_seconds <= self._silent_seconds

    def next_deadline(self) -> float | None:
        """Return the monotonic instant of the next look, early enough for the gap to count whole;
        None without a watchdog."""
        if not self._timeout_seconds:
            return None
        rest = self._timeout_seconds - self._silent_seconds
        return self._last_turn_monotonic + max(0.0, min(rest, GAP_COUNTED_SECONDS_MAX))
