"""What a script says of itself: the `sd_notify` protocol, one socket a run (fact P15).

It tells whose words they are and what they say. When a silent script has to end is the
watchdog's judgement, at the end of this file.
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
#: Descriptors may come along (BARRIER=1 is one); a sender can put no more in a message.
_DESCRIPTORS_MAX = 253
#: A gap between two turns of the worker counts as at most so much silence (law 16).
GAP_COUNTED_SECONDS_MAX = 1.0

_CREDENTIALS = struct.Struct("3i")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class Notice(msgspec.Struct, frozen=True):
    """One message of a script. `status` is None where it says nothing of it."""

    ready: bool = False
    watchdog: bool = False
    stopping: bool = False
    status: str | None = None


def parse(text: bytes) -> Notice:
    """Unknown assignments are ignored, as the protocol wants it."""
    lines = text.decode("utf-8", "replace").split("\n")
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    status = said.get("STATUS")
    if status is not None:
        status = _CONTROL.sub(" ", status).strip()[:STATUS_CHARS_MAX]
    return Notice(
        ready=said.get("READY") == "1",
        watchdog=said.get("WATCHDOG") == "1",
        stopping=said.get("STOPPING") == "1",
        status=status,
    )


class NotifySocket:
    """An abstract datagram socket under a name nobody can guess or hold before us."""

    def __init__(self, belongs: Callable[[int], bool]) -> None:
        """`belongs` tells whether a living pid is of the run. Raises `OSError`."""
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
        """Whom the script runs as: what its programs say counts although they are gone."""
        self._uids.add(uid)

    def drain(self) -> list[Notice]:
        """What the run's own processes said, a bounded number a turn."""
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
        """Of the run; or gone by now (`systemd-notify` is), and then at least of a user of it."""
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
    """Nothing is taken; and a BARRIER is acknowledged by closing it."""
    descriptors = array.array("i")
    descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


class Watchdog:
    """Counts a script's silence, but only while its judge was there to listen (law 16)."""

    def __init__(self, timeout_seconds: float, now: float) -> None:
        """`timeout_seconds` 0 is no watchdog."""
        self._timeout_seconds = timeout_seconds
        self._last_turn = now
        self._silent_seconds = 0.0

    def fed(self) -> None:
        self._silent_seconds = 0.0

    def turn(self, now: float) -> bool:
        """Whether the script was silent for too long. Drain its socket first."""
        gap = now - self._last_turn
        self._last_turn = now
        self._silent_seconds += min(gap, GAP_COUNTED_SECONDS_MAX)
        return 0 < self._timeout_seconds <= self._silent_seconds

    def next_deadline(self) -> float | None:
        """When to look again, so that no gap is longer than what is counted of it."""
        if not self._timeout_seconds:
            return None
        rest = self._timeout_seconds - self._silent_seconds
        return self._last_turn + max(0.0, min(rest, GAP_COUNTED_SECONDS_MAX))
