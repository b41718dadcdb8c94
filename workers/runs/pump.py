"""The pump of a script's output from its pipe to its log: a bounded amount a turn, never blocking.

While the disk is behind, output stays in the pipe and the script waits. A disk that does not
catch up within `STALL_SECONDS_MAX` costs output instead of holding up the script.
"""

import os
import select

from ..runfiles.output import Output

READ_BYTES = 64 * 1024
READS_PER_TURN_MAX = 16
#: At the end a pipe holds at most this many reads (F_SETPIPE_SZ of an unprivileged script).
REST_READS_MAX = 32
#: A script waits this long for its log; then output is lost until the disk has caught up.
STALL_SECONDS_MAX = 1.0
LOOK_AGAIN_SECONDS = 0.05
#: The end of a run waits this long for its last output to be written.
CLOSE_SECONDS_MAX = 2.0


class Pump:
    """Reads a pipe into an `Output`. `now` is in monotonic seconds."""

    def __init__(self, pipe: int, output: Output, poll: select.poll) -> None:
        """`pipe` is the reading end. It belongs to the script and is not closed here."""
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._output = output
        self._poll = poll
        self._ended = False
        self._watched = False
        self._behind_since_monotonic: float | None = None
        self._watch()

    @property
    def lost_bytes(self) -> int:
        return self._output.lost_bytes

    def turn(self, now: float) -> None:
        """Read what there is, unless the disk is behind."""
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
        """Return the monotonic instant of the next turn; None where the poll wakes for it."""
        return None if self._ended or self._watched else now + LOOK_AGAIN_SECONDS

    def close(self) -> None:
        """Read the rest and finish the log. Call it once nobody writes any more."""
        for _ in range(REST_READS_MAX):
            if self._ended or not self._read():
                break
        self._unwatch()
        self._output.close(timeout_seconds=CLOSE_SECONDS_MAX)

    def _must_wait(self, now: float) -> bool:
        if not self._output.is_full:
            self._behind_since_monotonic = None
            return False
        if self._behind_since_monotonic is None:
            self._behind_since_monotonic = now
        return now - self._behind_since_monotonic < STALL_SECONDS_MAX

    def _read(self) -> bool:
        """Read once. True if there may be more."""
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
            self._poll.register(self._pipe, select.POLLIN)
            self._watched = True

    def _unwatch(self) -> None:
        if self._watched:
            self._poll.unregister(self._pipe)
            self._watched = False
