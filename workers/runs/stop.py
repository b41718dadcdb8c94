"""Ending a run's tree: stop signal, grace, SIGKILL, round after round until it is gone.

Owns when the next round is; `process_tree.py` does it. Why a run ends, and what its end means, is
told by `worker.py`.
"""

from ...ipc.failpoints import Step, step
from ..host.process_tree import RunTree

#: During the grace a look every so often is enough, as the script's own end is seen at once.
LOOK_SECONDS = 0.1
#: SIGKILL is repeated often at first; what survives so many rounds is stuck in the kernel.
KILL_SECONDS = 0.02
KILL_ROUNDS_FAST = 100
KILL_STUCK_SECONDS = 1.0


class Ending:
    """A stop under way. It is never called off."""

    def __init__(
        self, tree: RunTree, stop_signal: int, *, grace_seconds: float, now: float
    ) -> None:
        """Sends the stop signal."""
        self._tree = tree
        self._kill_at = now + grace_seconds
        self._look_at = now
        self._rounds = 0
        with step(Step.SIGNAL_TREE):
            tree.signal(stop_signal)

    def shorten(self, grace_seconds: float, now: float) -> None:
        """Kill not later than `grace_seconds` from now."""
        self._kill_at = min(self._kill_at, now + grace_seconds)
        self._look_at = min(self._look_at, self._kill_at)

    def hurry(self, now: float) -> None:
        """Something ended: look at once."""
        self._look_at = now

    def next_deadline(self) -> float:
        return self._look_at

    def turn(self, now: float) -> bool:
        """Whether the tree is gone."""
        if now < self._look_at:
            return False
        if now < self._kill_at:
            self._look_at = min(now + LOOK_SECONDS, self._kill_at)
            return self._tree.gone()
        self._rounds += 1
        fast = self._rounds < KILL_ROUNDS_FAST
        self._look_at = now + (KILL_SECONDS if fast else KILL_STUCK_SECONDS)
        with step(Step.KILL_TREE):
            return self._tree.kill()
