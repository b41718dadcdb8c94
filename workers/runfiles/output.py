"""The output file of a run: bounded, with head and tail kept, readable while it grows.

Up to `bytes_max` the file holds all of the output. Beyond that it holds the head (a power of
two of bytes), a mark with the number of bytes cut, and the tail, whose older part is cut each
time the file is full again. A failing log directory costs output, which is counted, and never
a run: a thread of its own writes, so not even a disk that hangs holds up the worker.
"""

import logging
import os
import queue
import re
import threading
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..host.files import open_regular

log = logging.getLogger(__name__)

#: A smaller file would have no room for a useful head, mark and tail.
OUTPUT_BYTES_MIN = 1024
#: Queued for a slow disk at most; beyond that the script waits, and then output is lost.
WAITING_BYTES_MAX = 1024 * 1024
#: Between attempts to open a log file that cannot be opened.
OPEN_AGAIN_SECONDS = 1.0
_COPY_BYTES = 64 * 1024
_MODE = 0o640

#: A script can print the like; with more digits it would count beyond what a file can hold.
_MARK = re.compile(rb"\n\[geosched: (\d{1,18}) bytes cut\]\n")
#: Stands in place of the mark while bytes are moved. Shorter than any mark.
_CUTTING = b"\n[geosched: cut]\n"
_MARK_BYTES_MAX = 64


class Chunk(NamedTuple):
    """A part of the output. Reading goes on at `offset + len(data)`."""

    offset: int
    data: bytes


def read_output(path: Path, offset: int, limit: int) -> Chunk:
    """Return `limit` bytes of output from `offset` on; a negative offset counts from the end.

    Offsets count bytes that the script wrote, so they stay valid while the file is being cut.
    The mark, always whole, takes the place of what was cut, which can make it a few bytes more.
    Fewer than `limit` bytes mean that there are no more yet. Raises `OSError`, for a link and
    for what is no regular file, too: others may be able to write the directory.
    """
    with open_regular(path, follow_links=False) as file:
        descriptor = file.fileno()
        layout = _layout(descriptor)
        start, data = layout.place(offset), b""
        if start < layout.end:
            data = os.pread(descriptor, layout.stop(start + limit) - start, start)
        if _layout(descriptor).same_places(layout):
            return Chunk(layout.offset_of(start + len(data)) - len(data), data)
    # It was being cut: nothing can be read yet.
    return Chunk(max(0, offset), b"")


class _Layout(msgspec.Struct, frozen=True):
    """The places of head and mark in the file, in bytes. `cut` is 0 while nothing was cut."""

    end: int
    head: int = 0
    cut: int = 0
    mark_bytes: int = 0
    cutting: bool = False

    @property
    def shift(self) -> int:
        """The distance from a place behind the head to its offset; the mark stands for the end
        of what was cut."""
        return self.cut - self.mark_bytes

    def place(self, offset: int) -> int:
        """Return the place in the file at which to read an offset."""
        if offset < 0:
            offset = max(0, self.end + self.shift + offset)
        if not self.cut or offset < self.head:
            return offset
        place = offset - self.shift
        return place if place >= self.head + self.mark_bytes else self.head

    def stop(self, place: int) -> int:
        """Return the place at which to stop reading: behind the mark rather than inside it, since
        it may be longer next time."""
        in_mark = self.head < place < self.head + self.mark_bytes
        return self.head + self.mark_bytes if in_mark else place

    def offset_of(self, place: int) -> int:
        """Return the offset of what is at a place."""
        return place + self.shift if self.cut and place > self.head else place

    def same_places(self, before: "_Layout") -> bool:
        """Nothing was moved since `before`."""
        return not self.cutting and (self.head, self.cut) == (before.head, before.cut)


def _layout(descriptor: int) -> _Layout:
    """Find the mark, which can only be where a head can end."""
    end = os.fstat(descriptor).st_size
    head = OUTPUT_BYTES_MIN // 2
    while head < end:
        there = os.pread(descriptor, _MARK_BYTES_MAX, head)
        if there.startswith(_CUTTING):
            return _Layout(end, head, cutting=True)
        if found := _MARK.match(there):
            return _Layout(end, head, int(found[1]), found.end())
        head *= 2
    return _Layout(end)


class CappedFile:
    """The file, written in the calling thread. Owns the bound on its size."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        """Create or empty the file. Raises `OSError`."""
        self._bytes_max = max(bytes_max, OUTPUT_BYTES_MIN)
        self._head = 1 << ((self._bytes_max // 2).bit_length() - 1)
        self._cut = 0
        self._mark_bytes = 0
        self._size = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, _MODE)

    def write(self, data: bytes) -> None:
        """Append; what cannot be written is lost. Raises `OSError`."""
        rest = memoryview(data)
        while rest:
            if self._size >= self._bytes_max:
                self._make_room()
            part = rest[: self._bytes_max - self._size]
            written = os.pwrite(self._descriptor, part, self._size)
            self._size += written
            rest = rest[written:]

    def close(self) -> None:
        os.close(self._descriptor)

    def _make_room(self) -> None:
        """Cut all but the head and the newer half of what is behind it.

        Meanwhile the file says that it is being cut, for its readers.
        """
        keep = (self._bytes_max - self._head) // 2 - _MARK_BYTES_MAX
        behind = self._size - self._head - self._mark_bytes
        cut = self._cut + behind - keep
        mark = b"\n[geosched: %d bytes cut]\n" % cut
        size = self._head + len(mark) + keep
        os.pwrite(self._descriptor, _CUTTING, self._head)
        _move(self._descriptor, self._size - keep, self._head + len(mark), keep)
        os.ftruncate(self._descriptor, size)
        os.pwrite(self._descriptor, mark, self._head)
        self._cut, self._mark_bytes, self._size = cut, len(mark), size


def _move(descriptor: int, source: int, target: int, count: int) -> None:
    """Move bytes towards the beginning of a file."""
    while count:
        data = os.pread(descriptor, min(count, _COPY_BYTES), source)
        if not data:
            raise OSError("cannot cut the output: its file was truncated by somebody else")
        os.pwrite(descriptor, data, target)
        source, target, count = source + len(data), target + len(data), count - len(data)


class Output:
    """Output on its way to disk. Its thread begins with the first output, so that a script that
    writes nothing costs neither time at its start nor memory; a file is made in any case."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self.lost_bytes = 0
        self._thread: threading.Thread | None = None

    @property
    def is_full(self) -> bool:
        """The disk is behind: output had better stay in the script's pipe for now."""
        return self._waiting_bytes >= WAITING_BYTES_MAX

    def put(self, data: bytes) -> None:
        """Queue data to be written. Where the disk is behind it is lost, and counted."""
        if self.is_full:
            self._lose(len(data))
            return
        with self._lock:
            self._waiting_bytes += len(data)
        self._queue.put(data)
        self._writer()  # where none can be had, the next data tries again

    def close(self, *, timeout_seconds: float) -> None:
        """Wait for the disk, for `timeout_seconds` at most; what is then unwritten is lost."""
        self._queue.put(None)
        writer = self._writer()
        if writer is not None:
            writer.join(timeout_seconds)
        if writer is None or writer.is_alive():
            self._lose(self._waiting_bytes)

    def _writer(self) -> threading.Thread | None:
        """Return the writing thread, started if need be. None where the host allows no thread: a
        script may have used them up."""
        if self._thread is None:
            thread = threading.Thread(target=self._write_all, name="output", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._complain(error)
                return None
            self._thread = thread
        return self._thread

    def _lose(self, count: int) -> None:
        with self._lock:
            self.lost_bytes += count

    def _write_all(self) -> None:
        file, tried = self._open(), time.monotonic()
        while (data := self._queue.get()) is not None:
            if file is None and time.monotonic() - tried > OPEN_AGAIN_SECONDS:
                file, tried = self._open(), time.monotonic()
            self._write(file, data)
            with self._lock:
                self._waiting_bytes -= len(data)
        if file is not None:
            file.close()

    def _open(self) -> CappedFile | None:
        try:
            return CappedFile(self._path, self._bytes_max)
        except OSError as error:
            self._complain(error)
            return None

    def _write(self, file: CappedFile | None, data: bytes) -> None:
        if file is None:
            self._lose(len(data))
            return
        try:
            file.write(data)
        except OSError as error:
            self._complain(error)
            self._lose(len(data))

    def _complain(self, error: Exception) -> None:
        if self.lost_bytes == 0:
            log.warning(
                "Cannot keep output in %s, it is lost: %s",
                self._path,
                error,
                extra={"event": "output-lost"},
            )
