"""That a name is on the disk, and not only in a cache of the kernel."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names of what was made or renamed in a directory."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
