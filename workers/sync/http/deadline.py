"""A hard end for one exchange over sockets, however its bytes arrive.

The time-outs of `requests` bound the silence between two bytes. A peer that drips the
lines of a header keeps them from ever ending, inside a call that cannot be interrupted:
so when the time is over, the connection is shut down under it (fact B1). The resolver is
beyond this; the supervisor ends a synchroniser that is past its deadline.
"""

import contextlib
import os
import socket
import threading
import time
from types import TracebackType
from typing import Self


class Deadline:
    """Shuts down the connections it holds once its seconds, from `with` on, are over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._ends = 0.0  # on the monotonic clock
        self._held: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._shut_down)
        self._timer.daemon = True

    @property
    def passed(self) -> bool:
        return self.left_seconds <= 0

    @property
    def left_seconds(self) -> float:
        return self._ends - time.monotonic()

    def hold(self, connection: socket.socket) -> None:
        """Watch over a connection, by a descriptor of our own.

        Its owner may close it, or wrap it in TLS, at any time: a descriptor that is
        shared could by then be another connection's.
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
        self._ends = time.monotonic() + self.seconds
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
