"""Batch of ended runs: an end waits a moment for other changes, so that they share a commit.

A commit is a wait for the disk, and wears it. The wait loses nothing: a worker is sent `Ack`
only once the end is committed, and keeps its result until then, so that the next start finds
it (S2). An end whose result could not be kept does not wait, nor does one that somebody waits
for.
"""

from ...ipc.messages.runs import RunResult, StopReason
from ..core.model import Instant
from ..participant import Participant
from .pool import Pool

#: From the turn in which an end is heard. Before it, a message waits for others for
#: `MESSAGES_WAIT_SECONDS_MAX` at most: 50 ms in all.
ENDS_WAIT_SECONDS_MAX = 0.03
#: Nobody waits for the end of a run that ends of itself, or is over.
_UNHURRIED = (None, StopReason.WINDOW_OVER)


class EndBatch(Participant):
    """The ends that have yet to be decided. `taken` are those of the present turn."""

    def __init__(self, pool: Pool) -> None:
        self.taken: list[RunResult] = []
        self._pool = pool
        self._waiting: set[str] = set()
        self._until_monotonic: float | None = None

    def take(self, now: Instant, *, in_company: bool) -> list[RunResult]:
        """Return the ends to decide in this turn: all that were heard, or none yet. Those that may
        wait do not where they are `in_company`: something else is due, or waits for a slot."""
        ended = self._pool.ended
        waiting = {end.run_id for end in ended if self._may_wait(end)}
        if not ended:
            until_monotonic = None
        elif self._until_monotonic is None:
            until_monotonic = now.monotonic_seconds + ENDS_WAIT_SECONDS_MAX
        else:
            until_monotonic = self._until_monotonic
        over = until_monotonic is not None and now.monotonic_seconds >= until_monotonic
        if in_company or over or len(waiting) < len(ended):
            waiting, until_monotonic = set(), None
        self._waiting, self._until_monotonic = waiting, until_monotonic
        self.taken = [] if waiting else ended
        return self.taken

    def next_deadline(self, _now: Instant) -> float | None:
        """Return the instant at which the ends that wait are decided alone."""
        return self._until_monotonic

    def _may_wait(self, end: RunResult) -> bool:
        if end.run_id in self._waiting:
            return True
        run = self._pool.runs.get(end.run_id)
        unhurried = run is not None and run.worker is not None and run.stop in _UNHURRIED
        return unhurried and self._pool.cleanup.keeps_result(end.run_id)
