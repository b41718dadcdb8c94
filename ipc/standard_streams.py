"""Standard streams of a command: none is closed, standard error never fails, and standard output
fails where that can be told, so that no exit code depends on who reads them.

A descriptor from 0 to 2 that its starter closed would be the next socket, lock or pipe that is
opened, and what is printed would go there (fact P37).
"""

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDIN, _STDOUT, _STDERR = range(3)


def complete() -> None:
    """Open /dev/null in the place of each stream that is closed, as nobody wants it, and let
    standard error lose what it cannot write. To be called before anything else is opened."""
    for number in (_STDIN, _STDOUT, _STDERR):
        if not _is_open(number):
            # The lowest that is free: those below it are open by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(_STDIN, closefd=False)))
    if sys.stdout is None or sys.stdout.fileno() == _STDOUT:
        # Buffered, whatever PYTHONUNBUFFERED says: argparse drops the error of a write.
        sys.stdout = _writer(sys.stdout, io.FileIO(_STDOUT, "wb", closefd=False))
    if sys.stderr is None or sys.stderr.fileno() == _STDERR:
        sys.stderr = _writer(sys.stderr, _LossyFile(_STDERR, "wb", closefd=False), by_line=True)


def unwritten() -> OSError | None:
    """Flush standard output. Return the error where it takes no more; it is given up then, or
    Python would try once more at its exit, and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError as error:
        give_up(sys.stdout)
        return error
    return None


def give_up(stream: TextIO) -> None:
    """Send to /dev/null what a stream still holds, and all that follows."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def reader_left(error: OSError) -> bool:
    """Nobody reads the output any more, as behind `| head -1`: no failure to tell anybody of."""
    return error.errno == errno.EPIPE


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


class _LossyFile(io.FileIO):
    """A descriptor that takes everything: what it cannot write is lost."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def _writer(was: TextIO | None, file: io.FileIO, *, by_line: bool = False) -> TextIO:
    """Return a text stream in the place of `was`."""
    encoding = None if was is None else was.encoding
    by_line = by_line or file.isatty()
    buffer = io.BufferedWriter(file)
    return io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=by_line)
