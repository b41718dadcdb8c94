"""Files of Unix sockets: whether a process listens there, and how they are called by ZeroMQ."""

import os
import socket
import time
from pathlib import Path

from .paths import ENDPOINT_PATH_BYTES_MAX
from .wire import ENDPOINT_SCHEME


def endpoint(path: Path) -> str:
    """Return the ZeroMQ endpoint of a socket file. Raises `OSError` where its path is too long."""
    if len(os.fsencode(path)) > ENDPOINT_PATH_BYTES_MAX:
        raise OSError(
            f"cannot use the socket path {path}: longer than {ENDPOINT_PATH_BYTES_MAX} bytes"
        )
    return f"{ENDPOINT_SCHEME}{path}"


def listening(path: Path, *, timeout_seconds: float = 1.0) -> bool:
    """Check that a process accepts connections at a socket file.

    Raises `PermissionError` where this user may not connect. A ZeroMQ connection cannot
    tell a daemon that is gone from one that is slow.
    """
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(timeout_seconds)
    try:
        probe.connect(os.fspath(path))
    except PermissionError:
        raise
    except (TimeoutError, BlockingIOError):
        return True  # its queue is full: a process is there, and does not answer
    except OSError:
        return False
    finally:
        probe.close()
    return True


def is_at(path: Path, bound: os.stat_result) -> bool:
    """The socket file that was `bound` is at `path`. Raises `OSError`."""
    try:
        return os.path.samestat(path.lstat(), bound)
    except (FileNotFoundError, NotADirectoryError):
        return False


def wait_until_gone(path: Path, *, timeout_seconds: float) -> bool:
    """Wait until no process listens at `path`. Returns False at the time-out."""
    deadline_monotonic = time.monotonic() + timeout_seconds
    while listening(path):
        if time.monotonic() > deadline_monotonic:
            return False
        time.sleep(0.02)
    return True
