"""Stopping a run's process tree: stop signal, grace, SIGKILL, repeated until it is gone (law 12).

Owns the times of the rounds; `host/process_tree.py` carries each of them out. The reason for a
stop, and its meaning for the run's result, are `run.py`'s.
"""

from ...ipc.failpoints import Step, step
from ..host.process_tree import RunTree

#: Between looks during the grace: rarely, because the script's own end is noticed at once.
LOOK_SECONDS = 0.1
#: Between rounds of SIGKILL: short at first; a survivor of so many rounds is stuck in the kernel.
KILL_SECONDS = 0.02
KILL_ROUNDS_FAST = 100
KILL_STUCK_SECONDS = 1.0


class TreeStop:
    """A stop under way. It is never called off. `now` is in monotonic seconds."""

    def __init__(
        self, tree: RunTree, stop_signal: int, *, grace_seconds: float, now: float
    ) -> None:
        """Send the stop signal."""
        self._tree = tree
        self._kill_at_monotonic = now + grace_seconds
        self._look_at_monotonic = now
        self._rounds = 0
        with step(Step.SIGNAL_TREE):
            tree.signal(stop_signal)

    def shorten(self, grace_seconds: float, now: float) -> None:
        """Kill at most `grace_seconds` from now."""
        self._kill_at_monotonic = min(self._kill_at_monotonic, now + grace_seconds)
        self._look_at_monotonic = min(self._look_at_monotonic, self._kill_at_monotonic)

    def hurry(self, now: float) -> None:
        """Look at once, because something ended."""
        self._look_at_monotonic = now

    def next_deadline(self) -> float:
        """Return the monotonic instant of the next round."""
        return self._look_at_monotonic

    def turn(self, now: float) -> bool:
        """Do the round that is due. True once the tree is gone."""
        if now < self._look_at_monotonic:
            return False
        if now < self._kill_at_monotonic:
            self._look_at_monotonic = min(now + LOOK_SECONDS, self._kill_at_monotonic)
            return self._tree.gone()
        self._rounds += 1
        fast = self._rounds < KILL_ROUNDS_FAST
        self._look_at_monotonic = now + (KILL_SECONDS if fast else KILL_STUCK_SECONDS)
        with step(Step.KILL_TREE):
            return self._tree.kill()
