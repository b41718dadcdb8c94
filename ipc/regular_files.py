"""Regular files, opened without a wait: others may have put a FIFO or a device in their place."""

import os
import stat
from pathlib import Path
from typing import IO

#: Of a configuration; a longer one is refused.
CONFIGURATION_BYTES_MAX = 1024 * 1024


def open_regular(path: str | Path, *, follow_links: bool = True) -> IO[bytes]:
    """Open a regular file for reading. Refuses devices, and FIFOs, on which an open could block.
    Raises `OSError`."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags if follow_links else flags | os.O_NOFOLLOW)
    # Before `fdopen`, which leaks the descriptor of a directory.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is not a regular file")
    return os.fdopen(descriptor, "rb")
