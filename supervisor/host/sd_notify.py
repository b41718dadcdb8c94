"""Notification of the service manager (sd_notify(3)). Nothing depends on it."""

import logging
import os
import socket
import time

from ...ipc.foreign_text import visible

log = logging.getLogger(__name__)

#: The loop tells no more often that it is alive, and no less.
_ALIVE_SECONDS_MIN = 0.1
_ALIVE_SECONDS_MAX = 60.0
#: systemd's "infinity", which turns its watchdog off.
_INFINITY_USEC = 2**64 - 1


class ServiceManager:
    """The receiver at `NOTIFY_SOCKET`, if there is one. The variable is removed from the
    environment, so that no child can send in the daemon's name.

    `alive_seconds` is the interval at which its watchdog has to be told, 0 for none.
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        usec = os.environ.pop("WATCHDOG_USEC", "")
        for_us = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self.alive_seconds = _alive_seconds(usec) if usec and for_us else 0.0
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={visible(status)}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={visible(status)}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def busy(self, doing: str, timeout_seconds: float) -> None:
        """Tell that the daemon is not ready yet, and may take so much longer."""
        self._send(f"STATUS={visible(doing)}\nEXTEND_TIMEOUT_USEC={int(timeout_seconds * 1e6)}")

    def stopping(self, timeout_seconds: float) -> None:
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(timeout_seconds * 1e6)}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:
            log.debug("Cannot notify the service manager: %s", error)


def _alive_seconds(usec: str) -> float:
    """Return the interval for a `WATCHDOG_USEC`: half of it, as sd_watchdog_enabled(3) wants."""
    number = int(usec) if usec.isascii() and usec.isdigit() and len(usec) <= 20 else 0
    if not 0 < number <= _INFINITY_USEC:
        log.warning("WATCHDOG_USEC is no number of microseconds: %.60r", usec)
        return 0.0
    if number == _INFINITY_USEC:
        return 0.0
    half = number / 2e6
    if half < _ALIVE_SECONDS_MIN:
        log.warning(
            "WATCHDOG_USEC=%d is shorter than this daemon can keep: it tells every %g s"
            " that it is alive",
            number,
            _ALIVE_SECONDS_MIN,
        )
    return min(max(half, _ALIVE_SECONDS_MIN), _ALIVE_SECONDS_MAX)
