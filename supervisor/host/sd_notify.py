"""Notification of the service manager (sd_notify(3)). Nothing depends on it."""

import logging
import os
import socket
import time

log = logging.getLogger(__name__)


class ServiceManager:
    """The receiver at `NOTIFY_SOCKET`, if there is one. The variable is removed from the
    environment, so that no child can send in the daemon's name."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        usec = os.environ.pop("WATCHDOG_USEC", "")
        for_us = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self.watchdog_seconds = int(usec) / 1e6 if usec.isdigit() and for_us else 0.0
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def busy(self, doing: str, timeout_seconds: float) -> None:
        """Tell that the daemon is not ready yet, and may take so much longer."""
        self._send(f"STATUS={doing}\nEXTEND_TIMEOUT_USEC={int(timeout_seconds * 1e6)}")

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
