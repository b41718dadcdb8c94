"""The `sd_notify(3)` protocol, spoken by a script to its worker: one socket for each run.

Receives the messages, tells their senders apart (fact P15) and parses them. `watchdog.py`
judges a script that sends none.
"""

import array
import contextlib
import logging
import os
import re
import socket
import struct
from collections.abc import Callable

import msgspec

from ..host import procfs

log = logging.getLogger(__name__)

TEXT_BYTES_MAX = 4096
STATUS_CHARS_MAX = 500
MESSAGES_PER_TURN_MAX = 32
#: A message may carry descriptors (BARRIER=1 does); the kernel allows no more (SCM_MAX_FD).
_DESCRIPTORS_MAX = 253

_CREDENTIALS = struct.Struct("iII")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class Notice(msgspec.Struct, frozen=True):
    """A message of a script: its part that has an effect here. `status` is None where the
    message has no STATUS=."""

    watchdog: bool = False
    status: str | None = None


def parse(text: bytes) -> Notice:
    """Parse a message. Other assignments, READY=1 and STOPPING=1 among them, are ignored."""
    lines = text.decode("utf-8", "replace").split("\n")
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    status = said.get("STATUS")
    if status is not None:
        status = _CONTROL.sub(" ", status).strip()[:STATUS_CHARS_MAX]
    return Notice(watchdog=said.get("WATCHDOG") == "1", status=status)


class NotifySocket:
    """An abstract datagram socket, under a random name that nobody can bind beforehand."""

    def __init__(self, belongs: Callable[[int], bool]) -> None:
        """`belongs` tests a living pid for being one of the run's. Raises `OSError`."""
        self._belongs = belongs
        name = f"geosched/{os.urandom(8).hex()}"
        self.address = f"@{name}"
        self.refused = 0
        self._uids = {os.geteuid()}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(f"\0{name}")

    def fileno(self) -> int:
        return self._socket.fileno()

    def admit(self, uid: int) -> None:
        """Add the user that the script runs as: its senders count even after they have ended."""
        self._uids.add(uid)

    def drain(self) -> list[Notice]:
        """Return the messages of the run's own processes, at most `MESSAGES_PER_TURN_MAX`."""
        notices: list[Notice] = []
        for _ in range(MESSAGES_PER_TURN_MAX):
            try:
                text, pid, uid = self._receive()
            except BlockingIOError:
                break
            if text is not None and self._may_speak(pid, uid):
                notices.append(parse(text))
            else:
                self._refuse(pid, uid)
        return notices

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> tuple[bytes | None, int, int]:
        """Return text, pid and uid of a message; no text where it was too long. Raises
        `BlockingIOError` where there is none."""
        room = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_DESCRIPTORS_MAX * 4)
        text, attached, flags, _ = self._socket.recvmsg(
            TEXT_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC
        )
        pid, uid = 0, -1
        for level, kind, data in attached:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                _close_all(data)
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid, uid, _ = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])
        return None if flags & socket.MSG_TRUNC else text, pid, uid

    def _may_speak(self, pid: int, uid: int) -> bool:
        """The sender is of the run, or has ended (as `systemd-notify` does) and was of its user."""
        if procfs.stat(pid) is None:
            return uid in self._uids
        return self._belongs(pid)

    def _refuse(self, pid: int, uid: int) -> None:
        self.refused += 1
        if self.refused == 1:
            log.warning(
                "Refused a notification: too long, or pid %d (uid %d) is not of this run",
                pid,
                uid,
                extra={"event": "notification-refused"},
            )


def _close_all(data: bytes) -> None:
    """Keep none of the descriptors; closing a BARRIER's acknowledges it."""
    descriptors = array.array("i")
    descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
