"""Instance locks: one daemon for one state directory and one runtime directory (exit 3).

`lockf` locks, not `flock`: a forked child does not hold them (facts P10, P18). A lock file
is opened once and never again in this process, because closing any descriptor of it would
drop the lock.
"""

import fcntl
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


class AlreadyRunningError(Exception):
    """Another daemon holds the lock of a directory."""


class DirectoryLock:
    """A lock held from construction to `close`, or to the end of the process."""

    def __init__(self, directory: Path) -> None:
        """Take the lock; do not wait for it.

        Raises `AlreadyRunningError`, naming the directory and the holder's pid, and `OSError`.
        """
        path = directory / "lock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise AlreadyRunningError(
                f"cannot use {directory}: a daemon is running on it (pid {holder})"
            ) from None
        try:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"{os.getpid()}\n".encode())
        except OSError as error:  # a full disk: the lock is held all the same
            log.warning("Cannot write into %s who holds it: %s", path, error.strerror)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)
