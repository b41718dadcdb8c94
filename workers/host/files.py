"""Files that are there whole or not at all, and regular files that others may have put there."""

import os
import stat
from pathlib import Path
from typing import IO

#: The ending of a file that is not whole yet.
TEMPORARY = ".tmp"


def fsync_path(path: Path) -> None:
    """Wait until the disk has a file, or the names in a directory. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_whole(path: Path, content: bytes, *, durable: bool) -> None:
    """Write a file beside `path` and rename it to that, so that no reader sees a half of it;
    only its owner may read it. `durable`: wait until the disk has it. Raises `OSError`."""
    temporary = path.with_name(f"{path.name}{TEMPORARY}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_path(path.parent)


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a file for reading. A FIFO, which would be waited for until somebody writes, or a
    device is refused. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # `fdopen` leaks that of a directory
        os.close(descriptor)
        raise OSError("it is not a regular file")
    return os.fdopen(descriptor, "rb")
