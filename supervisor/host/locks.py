"""Instance locks: one daemon for one state directory and one runtime directory (exit 3).

`lockf` locks, not `flock`: a forked child does not hold them (facts P10, P18). A lock file
is opened once and never again in this process, because closing any descriptor of it would
drop the lock.
"""

import fcntl
import logging
import os
from pathlib import Path

from ...workers.host.dirfd import Directory

log = logging.getLogger(__name__)

_NAME = "lock"


class AlreadyRunningError(Exception):
    """Another daemon holds the lock of a directory."""


class DirectoryLock:
    """A lock held from construction to `close`, or to the end of the process."""

    def __init__(self, directory: Path) -> None:
        """Take the lock; do not wait for it.

        Raises `AlreadyRunningError`, naming the directory and the holder's pid, and `OSError`.
        """
        self._directory = directory
        self._descriptor = _taken(directory)

    def in_place(self) -> bool:
        """The directory still has the file that is locked. Raises `OSError`."""
        try:
            found = os.stat(self._directory / _NAME, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._descriptor))

    def take_anew(self) -> None:
        """Lock the directory by another file, where somebody has removed this one. Raises as
        `__init__` does; then the lock is what it was."""
        removed, self._descriptor = self._descriptor, _taken(self._directory)
        os.close(removed)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


def _taken(directory: Path) -> int:
    with Directory.open(directory) as opened:
        descriptor = opened.open_file(_NAME, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise AlreadyRunningError(
            f"cannot use {directory}: a daemon is running on it (pid {holder})"
        ) from None
    _write_holder(descriptor, directory)
    return descriptor


def _write_holder(descriptor: int, directory: Path) -> None:
    """Write the pid for people, over that of an earlier holder: a full disk has room for that. The
    lock is held without it, too."""
    holder = f"{os.getpid()}\n".encode()
    try:
        os.pwrite(descriptor, holder, 0)
        os.ftruncate(descriptor, len(holder))
    except OSError as error:
        log.warning("Cannot write down who holds the lock of %s: %s", directory, error)
