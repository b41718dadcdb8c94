"""The output of a run on disk: bounded, its head and its tail kept, readable while it grows.

The file holds all of the output until `bytes_max`. Beyond that it is: the head (a power of
two of bytes), a mark that tells how much was cut, and the tail; each time it is full again,
the older part of the tail goes. A failing log directory costs output, which is counted,
and never a run: a thread of its own writes, so not even a disk that hangs holds the worker.
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

log = logging.getLogger(__name__)

#: Less than this holds no head, mark and tail worth reading.
OUTPUT_BYTES_MIN = 1024
#: What may wait for a slow disk; beyond it the script waits, and then output is lost.
WAITING_BYTES_MAX = 1024 * 1024
#: A log file that cannot be opened is tried again, but not more often.
OPEN_AGAIN_SECONDS = 1.0
_COPY_BYTES = 64 * 1024
_MODE = 0o640

_MARK = re.compile(rb"\n\[geosched: (\d+) bytes cut\]\n")
#: In place of the mark while bytes are moved. Shorter than any mark.
_CUTTING = b"\n[geosched: cut]\n"
_MARK_BYTES_MAX = 64


class Chunk(NamedTuple):
    """Output that ends at `offset + len(data)`, where to read on."""

    offset: int
    data: bytes


def read_output(path: Path, offset: int, limit: int) -> Chunk:
    """`limit` bytes of output from `offset` on; a negative one counts from the end.

    Offsets count what the script wrote, so they mean the same while the file is being cut.
    What was cut is left out, and the mark takes its place, always whole: that can make it
    a few bytes more. Fewer than `limit` means that there is no more by now. Raises `OSError`.
    """
    with path.open("rb") as file:
        descriptor = file.fileno()
        layout = _layout(descriptor)
        start = layout.place(offset)
        data = os.pread(descriptor, layout.stop(start + limit) - start, start)
        if _layout(descriptor).same_places(layout):
            return Chunk(layout.offset_of(start + len(data)) - len(data), data)
    # It was being cut just then: there is nothing yet.
    return Chunk(max(0, offset), b"")


class _Layout(msgspec.Struct, frozen=True):
    """Where in the file is what. `cut` is 0 while nothing was cut."""

    end: int
    head: int = 0
    cut: int = 0
    mark_bytes: int = 0
    cutting: bool = False

    @property
    def shift(self) -> int:
        """From a place behind the head to an offset: the mark ends what it stands for."""
        return self.cut - self.mark_bytes

    def place(self, offset: int) -> int:
        if offset < 0:
            offset = max(0, self.end + self.shift + offset)
        if not self.cut or offset < self.head:
            return offset
        place = offset - self.shift
        return place if place >= self.head + self.mark_bytes else self.head

    def stop(self, place: int) -> int:
        """Where to stop reading: the mark may be longer next time, so it is not torn."""
        in_mark = self.head < place < self.head + self.mark_bytes
        return self.head + self.mark_bytes if in_mark else place

    def offset_of(self, place: int) -> int:
        return place + self.shift if self.cut and place > self.head else place

    def same_places(self, before: "_Layout") -> bool:
        """Whether what was read in between was in its place all the time."""
        return not self.cutting and (self.head, self.cut) == (before.head, before.cut)


def _layout(descriptor: int) -> _Layout:
    """A mark can only be where a head can end, so that is where to look for it."""
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
    """The file itself, written in the calling thread. Owns the bound on its size."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        """Raises `OSError`."""
        self._bytes_max = max(bytes_max, OUTPUT_BYTES_MIN)
        self._head = 1 << ((self._bytes_max // 2).bit_length() - 1)
        self._cut = 0
        self._mark_bytes = 0
        self._size = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, _MODE)

    def write(self, data: bytes) -> None:
        """Raises `OSError`; what of `data` did not get there is lost."""
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

        While a reader finds the file neither as it was nor as it will be, it finds that.
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
    """Takes what a script wrote and sees it to disk in a thread of its own, which costs a
    script that writes nothing neither time at its start nor memory. There is a file at the
    end in any case."""

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
        """Whether the disk is behind: better leave output in the script's pipe for now."""
        return self._waiting_bytes >= WAITING_BYTES_MAX

    def put(self, data: bytes) -> None:
        """Have it written; lost, and counted, where the disk is behind."""
        if self.is_full:
            self._lose(len(data))
            return
        with self._lock:
            self._waiting_bytes += len(data)
        self._queue.put(data)
        self._writer()  # if none can be had now, then with the next data

    def close(self, *, timeout_seconds: float) -> None:
        """Wait for the disk, but not longer than that; what is then unwritten is lost."""
        self._queue.put(None)
        writer = self._writer()
        if writer is not None:
            writer.join(timeout_seconds)
        if writer is None or writer.is_alive():
            self._lose(self._waiting_bytes)

    def _writer(self) -> threading.Thread | None:
        """None where the host allows no thread: a script may have used up all there are."""
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
