"""From a script's standard output to its log: a bounded amount a turn, never waiting.

While the disk is behind, output stays in the script's pipe, so the script waits for it; a
disk that does not catch up costs output instead, and never holds the script for long.
"""

import os

from ...ipc.sockets import Poller
from ..runfiles.output import Output

READ_BYTES = 64 * 1024
READS_PER_TURN_MAX = 16
#: A pipe holds at most so much (F_SETPIPE_SZ of an unprivileged script) when all is over.
REST_READS_MAX = 32
#: So long a script waits for its log; then output is lost until the disk has caught up.
STALL_SECONDS_MAX = 1.0
LOOK_AGAIN_SECONDS = 0.05
#: The end of a run waits so long for its last output to be written.
CLOSE_SECONDS_MAX = 2.0


class Pump:
    """`pipe` is the reading end; it belongs to the script and is not closed here."""

    def __init__(self, pipe: int, output: Output, poller: Poller) -> None:
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._output = output
        self._poller = poller
        self._ended = False
        self._watched = False
        self._behind_since: float | None = None
        self._watch()

    @property
    def lost_bytes(self) -> int:
        return self._output.lost_bytes

    def turn(self, now: float) -> None:
        if self._ended:
            return
        for _ in range(READS_PER_TURN_MAX):
            if self._must_wait(now):
                self._unwatch()
                return
            if not self._read():
                return
        self._watch()

    def next_deadline(self, now: float) -> float | None:
        return None if self._ended or self._watched else now + LOOK_AGAIN_SECONDS

    def close(self) -> None:
        """Take what is left; only once nobody writes any more."""
        for _ in range(REST_READS_MAX):
            if self._ended or not self._read():
                break
        self._unwatch()
        self._output.close(timeout_seconds=CLOSE_SECONDS_MAX)

    def _must_wait(self, now: float) -> bool:
        if not self._output.is_full:
            self._behind_since = None
            return False
        if self._behind_since is None:
            self._behind_since = now
        return now - self._behind_since < STALL_SECONDS_MAX

    def _read(self) -> bool:
        """Whether there may be more."""
        try:
            data = os.read(self._pipe, READ_BYTES)
        except BlockingIOError:
            self._watch()
            return False
        if not data:
            self._ended = True
            self._unwatch()
            return False
        self._output.put(data)
        return True

    def _watch(self) -> None:
        if not self._watched:
            self._poller.watch(self._pipe)
            self._watched = True

    def _unwatch(self) -> None:
        if self._watched:
            self._poller.forget(self._pipe)
            self._watched = False
