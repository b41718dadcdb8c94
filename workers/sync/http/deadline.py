"""Hard deadline of an exchange over sockets, however slowly its bytes arrive.

The time-outs of `requests` bound the silence between two bytes, so a peer that sends a header
byte by byte can hold up a call for ever, and the call cannot be interrupted: at the deadline
its connection is shut down (fact B1). The resolver is out of reach; the supervisor kills a
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
        self._timer = threading.Timer(seconds, self._shut_down)
        self._timer.daemon = True

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
            self._shut_down()

    def _shut_down(self) -> None:
        with self._lock:
            for connection in self._held:
                with contextlib.suppress(OSError):  # it is gone already
                    connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._ends_monotonic = time.monotonic() + self.seconds
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            while self._held:
                self._held.pop().close()
