"""The `sd_notify(3)` protocol, spoken by a script to its worker: one socket for each run.

Receives the messages, tells their senders apart (fact P15) and parses them. `watchdog.py`
judges a script that sends none.
"""

import contextlib
import logging
import os
import re
import select
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from ...ipc import unwanted_descriptors
from ..host import procfs

log = logging.getLogger(__name__)

TEXT_BYTES_MAX = 4096
STATUS_CHARS_MAX = 500
MESSAGES_PER_TURN_MAX = 32
#: Sockets of one run, where its file is removed again and again.
SOCKETS_MAX = 4

#: A directory may be searched by its group, and by all others.
_SEARCH = stat.S_IXGRP | stat.S_IXOTH
_CREDENTIALS = struct.Struct("iII")
#: Room for the credentials alone, which the kernel attaches first.
_ROOM_BYTES = socket.CMSG_LEN(_CREDENTIALS.size)
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
    """A datagram socket at a file that only the script's user may write to, and so send to: what
    others send takes no place in its queue.

    A file that was removed is made anew by `mend`, with another socket; whoever had connected
    before goes on with the older one.
    """

    def __init__(
        self, path: str | Path, uid: int, poll: select.poll, belongs: Callable[[int], bool]
    ) -> None:
        """`path` is in a directory of this user's alone, `uid` the script's user; `belongs` tests
        a living pid for being one of the run's. Raises `OSError`."""
        self.address = os.fspath(path)
        self.refused = 0
        self._uid = uid
        self._poll = poll
        self._belongs = belongs
        self._told = ""
        self._sockets: list[socket.socket] = []
        self._file = (0, 0)
        unwanted_descriptors.allow_interruptions()
        self._open()

    def drain(self) -> list[Notice]:
        """Return the messages of the run's own processes, of `MESSAGES_PER_TURN_MAX` at most."""
        notices: list[Notice] = []
        for _ in range(MESSAGES_PER_TURN_MAX):
            message = self._receive()
            if message is None:
                break
            if message.text is not None and self._may_speak(message.pid, message.uid):
                notices.append(parse(message.text))
            else:
                self._refuse(message.pid, message.uid)
        return notices

    def mend(self) -> bool:
        """Make the file anew where others removed it. True where they had: meanwhile nobody could
        find the socket."""
        if _inode(self.address) == self._file:
            return False
        try:
            self._open()
        except OSError as error:
            self._tell(f"cannot make {self.address} anew: {error}")
        else:
            self._tell(f"{self.address} was removed by others")
        return True

    def close(self) -> None:
        """Close what is open. The file goes with the identity of the worker, as it does when that
        is killed (`processes.py`)."""
        while self._sockets:
            self._close(self._sockets.pop())

    def _open(self) -> None:
        """Raises `OSError`."""
        above, name = os.path.split(self.address)
        directory = _open_directory(above, passable=self._uid != os.geteuid())
        try:
            made, self._file = _bound(directory, name, self._uid)
        finally:
            os.close(directory)
        self._poll.register(made.fileno(), select.POLLIN)
        self._sockets.append(made)
        if len(self._sockets) > SOCKETS_MAX:
            self._close(self._sockets.pop(1))  # most are connected to the first

    def _close(self, opened: socket.socket) -> None:
        self._poll.unregister(opened.fileno())
        unwanted_descriptors.close(opened)

    def _receive(self) -> "_Message | None":
        """Return the next message of any of the sockets; None where there is none."""
        for opened in self._sockets:
            try:
                return _receive(opened)
            except BlockingIOError:
                continue
        return None

    def _may_speak(self, pid: int, uid: int) -> bool:
        """The sender is of the run, or has ended (as `systemd-notify` does) and was of its user, or
        of its worker's, which may become any."""
        if procfs.stat(pid) is None:
            return uid in (self._uid, os.geteuid())
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

    def _tell(self, problem: str) -> None:
        """Log what is wrong with the file, once."""
        if problem != self._told:
            self._told = problem
            log.warning(
                "Notifications may be lost: %s", problem, extra={"event": "notify-socket-lost"}
            )


class _Message(NamedTuple):
    """A datagram and its sender; no `text` where it was too long."""

    text: bytes | None
    pid: int
    uid: int


def _receive(opened: socket.socket) -> _Message:
    """Raises `BlockingIOError` where there is no message.

    Descriptors that are attached find no room, and the kernel drops them, which acknowledges a
    BARRIER=1. Received, they would have to be closed, and a file system of the script's user may
    let that wait for ever.
    """
    with unwanted_descriptors.interrupted():
        text, attached, flags, _ = opened.recvmsg(TEXT_BYTES_MAX, _ROOM_BYTES)
    pid, uid = 0, -1
    for level, kind, data in attached:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid, uid, _ = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])
    return _Message(None if flags & socket.MSG_TRUNC else text, pid, uid)


def _open_directory(path: str, *, passable: bool) -> int:
    """Open the directory of the sockets, which nobody but this user may write. Where it is to be
    `passable` for a script of another user, root lets every user through the one above. Raises
    `OSError`."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    parent, name = os.path.split(path)
    above = os.open(parent, flags)
    try:
        directory = os.open(name, flags | os.O_NOFOLLOW, dir_fd=above)
        found, found_above = os.fstat(directory), os.fstat(above)
        if not _is_ours(found):
            os.close(directory)
            raise OSError(f"others than its own user can write {path}")
        if passable and _is_ours(found_above) and found_above.st_mode & _SEARCH != _SEARCH:
            os.chmod(f"/proc/self/fd/{above}", stat.S_IMODE(found_above.st_mode) | _SEARCH)
    finally:
        os.close(above)
    return directory


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _bound(directory: int, name: str, uid: int) -> tuple[socket.socket, tuple[int, int]]:
    """Open a socket at a file that is `uid`'s, in the place of one that a dead worker left there.
    Returns it, and what tells the file apart. Raises `OSError`."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        place = f"/proc/self/fd/{directory}/{name}"
        os.fchmod(opened.fileno(), 0o600)  # the file is never open to more than that (fact P43),
        opened.bind(place)
        os.chmod(place, 0o600)  # nor, by a strange umask, to less
        if uid != os.geteuid():
            os.chown(name, uid, -1, dir_fd=directory, follow_symlinks=False)
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        opened.close()
        raise
    return opened, (found.st_dev, found.st_ino)


def _inode(path: str) -> tuple[int, int] | None:
    """Return what tells a file apart; None where there is none that can be seen."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
