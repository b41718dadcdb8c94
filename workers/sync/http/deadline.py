"""Hard deadline of an exchange over sockets, however slowly its bytes arrive.

The time-outs of `requests` bound the silence between two bytes, so a peer that sends a header
byte by byte can hold up a call for ever, and the call cannot be interrupted: at the deadline
its connection is shut down (fact B1), by one thread for all exchanges of a process, because one
without rights can make no other. The resolver is out of reach; the supervisor kills a
synchroniser past its deadline.
"""

import contextlib
import os
import socket
import threading
import time
from types import TracebackType
from typing import Self


class Deadline:
    """Shuts down the connections that were put under it, `seconds` after `with` begins."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._ends_monotonic = 0.0
        self._held: list[socket.socket] = []
        self._lock = threading.Lock()

    @property
    def passed(self) -> bool:
        return self.left_seconds <= 0

    @property
    def left_seconds(self) -> float:
        return self._ends_monotonic - time.monotonic()

    def hold(self, connection: socket.socket) -> None:
        """Put a connection under the deadline, by a descriptor of our own.

        Its owner may close it, or wrap it in TLS, at any time, and a shared descriptor could
        by then be another connection's.
        """
        with self._lock:
            self._held.append(socket.socket(fileno=os.dup(connection.fileno())))
        if self.passed:
            self.shut_down()

    def shut_down(self) -> None:
        with self._lock:
            for connection in self._held:
                with contextlib.suppress(OSError):  # it is gone already
                    connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._ends_monotonic = time.monotonic() + self.seconds
        _watch.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _watch.remove(self)
        with self._lock:
            while self._held:
                self._held.pop().close()


class _Watch:
    """The deadlines that have begun, and the thread that waits for them."""

    def __init__(self) -> None:
        self._deadlines: set[Deadline] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def add(self, deadline: Deadline) -> None:
        self.begin()
        with self._changed:
            self._deadlines.add(deadline)
            self._changed.notify()

    def remove(self, deadline: Deadline) -> None:
        with self._changed:
            self._deadlines.discard(deadline)

    def _run(self) -> None:
        while True:
            with self._changed:
                left = [each.left_seconds for each in self._deadlines]
                if not left or min(left) > 0:
                    self._changed.wait(min(left, default=None))
                passed = {each for each in self._deadlines if each.passed}
                self._deadlines -= passed
            for each in passed:
                each.shut_down()


_watch = _Watch()


def begin() -> None:
    """Make the thread that waits for deadlines, while this process may make threads."""
    _watch.begin()
