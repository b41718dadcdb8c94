"""Atomic writes, waits for the disk, safe opening of what others may have made, files in memory."""

import errno
import os
from pathlib import Path

from ...ipc.regular_files import open_regular

__all__ = [
    "TEMPORARY",
    "UMASK",
    "fsync_path",
    "in_memory",
    "is_shortage",
    "open_regular",
    "raise_shortage",
    "replace_whole",
]

#: The suffix of a file that is not complete yet.
TEMPORARY = ".tmp"
PIECE_BYTES = 4096
#: Of the daemon and of all its commands, whatever they are started with: files have the modes
#: that they are made with.
UMASK = 0o022
#: These say nothing about the file: there is no descriptor, or no memory, to look with.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def is_shortage(error: OSError) -> bool:
    """The error says nothing about what was to be opened."""
    return error.errno in _SHORTAGES


def raise_shortage(error: OSError) -> None:
    """Raise an error that says nothing about what was to be opened: who takes it for the absence
    of a process would start another beside it."""
    if is_shortage(error):
        raise error


def write_all(descriptor: int, content: bytes) -> None:
    """Write to a file, without what a stream costs. Raises `OSError`."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def read_all(path: str) -> bytes:
    """Read a file of the kernel's to its end, without what a stream costs. Raises `OSError`."""
    content = b""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while piece := os.read(descriptor, PIECE_BYTES):
            content += piece
    finally:
        os.close(descriptor)
    return content


def fsync_path(path: str | Path) -> None:
    """Flush a file, or the names in a directory, to disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_whole(path: str | Path, content: bytes, *, durable: bool) -> None:
    """Write a temporary file beside `path` and rename it to that, so that readers see all of it
    or nothing. Only its owner may read it. `durable`: flush it to disk. Raises `OSError`."""
    temporary = f"{path}{TEMPORARY}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(temporary, flags, 0o600)
        try:
            write_all(descriptor, content)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        fsync_path(os.path.dirname(path) or ".")


def in_memory(name: str, content: bytes) -> int:
    """Return the descriptor of a file in memory, to be read from its start; unlike a pipe it needs
    no writer. Raises `OSError`."""
    descriptor = os.memfd_create(name)
    try:
        write_all(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
