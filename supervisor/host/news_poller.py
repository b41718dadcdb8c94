"""Poll of the loop: what is urgent ends it at once, what is patient a moment later.

What children say comes in pieces: that one is forked, is ready, has begun, has ended. Each
piece would cost a turn; those that come within a moment of each other share one.
"""

import select
import time
from typing import Any

from ...ipc.sockets import Poller, Server

MILLISECONDS = 1000


class NewsPoller:
    """A wait for sockets and descriptors at once, which no signal lengthens."""

    def __init__(self) -> None:
        self._all = Poller()
        self._urgent = select.poll()
        self._patient: set[Any] = set()

    def watch(self, readable: int) -> None:
        """Watch what ends a wait at once."""
        self._all.watch(readable)
        self._urgent.register(readable, select.POLLIN)

    def watch_patiently(self, readable: Server[Any, Any] | int) -> None:
        """Watch what waits for others."""
        self._all.watch(readable)
        self._patient.add(readable if isinstance(readable, int) else readable.socket)

    def wait(self, timeout_seconds: float, together_seconds: float) -> None:
        """Wait until something is readable; where all of it is patient, for `together_seconds` more
        or until something urgent is. Never beyond the time-out."""
        until_monotonic = time.monotonic() + timeout_seconds
        readable = self._all.wait(timeout_seconds)
        if not readable or not readable <= self._patient:
            return
        left_seconds = min(together_seconds, until_monotonic - time.monotonic())
        if left_seconds > 0:
            self._urgent.poll(int(left_seconds * MILLISECONDS))  # not later, for want of company
