"""The output file of a run: bounded, with head and tail kept, readable while it grows.

Up to `bytes_max` the file holds all of the output. Beyond that it holds the head (a power of
two of bytes), a mark with the number of bytes cut, and the tail, whose older part is cut each
time the file is full again. Wherever the writer is killed meanwhile, the file can be read. A
failing log directory costs output, which is counted, and never a run: a thread of its own
writes, so not even a disk that hangs holds up the worker.

Others may truncate the file or take it away (logrotate does both): what they took is marked as
cut, so that offsets stay valid, and what they removed is counted as lost.
"""

import contextlib
import fcntl
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..host import trust
from ..host.dirfd import Directory

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
#: Stands in place of the mark while bytes are moved: the same number, and the size of the file
#: before it is truncated. Never longer than the mark.
_CUTTING = re.compile(rb"\n\[geosched (\d{1,18})/([0-9a-f]{1,10})\]\n")
_MARK_BYTES_MAX = 64


class Chunk(NamedTuple):
    """A part of the output. Reading goes on at `offset + len(data)`."""

    offset: int
    data: bytes


def read_output(path: Path, offset: int, limit: int) -> Chunk:
    """Return `limit` bytes of output from `offset` on; a negative offset counts from the end.

    Offsets count bytes that the script wrote, so they stay valid while the file is being cut.
    The mark, always whole, takes the place of what was cut, which can make it a few bytes more.
    Fewer than `limit` bytes mean that there are no more yet. Raises `OSError`, as root also where
    others can write the directory.
    """
    with _opened(path) as descriptor:
        layout = _layout(descriptor)
        start, data = layout.place(offset), b""
        if start < layout.end:
            data = layout.read(descriptor, start, layout.stop(start + limit))
        if _layout(descriptor).same_places(layout):
            return Chunk(layout.offset_of(start + len(data)) - len(data), data)
    # It was being cut: nothing can be read yet.
    return Chunk(max(0, offset), b"")


class _Layout(msgspec.Struct, frozen=True):
    """The places of head, mark and tail, in bytes, as they are once a cut is complete: `gap` more
    bytes are before the tail until then. `cut` is 0 while nothing was cut."""

    end: int
    head: int = 0
    cut: int = 0
    mark: bytes = b""
    gap: int = 0

    @property
    def behind(self) -> int:
        """The place of the tail."""
        return self.head + len(self.mark)

    @property
    def shift(self) -> int:
        """The distance from a place behind the head to its offset; the mark stands for the end
        of what was cut."""
        return self.cut - len(self.mark)

    def place(self, offset: int) -> int:
        """Return the place in the file at which to read an offset."""
        if offset < 0:
            offset = max(0, self.end + self.shift + offset)
        if not self.cut or offset < self.head:
            return offset
        place = offset - self.shift
        return place if place >= self.behind else self.head

    def stop(self, place: int) -> int:
        """Return the place at which to stop reading: behind the mark rather than inside it, since
        it may be longer next time."""
        return self.behind if self.head < place < self.behind else place

    def offset_of(self, place: int) -> int:
        """Return the offset of what is at a place."""
        return place + self.shift if self.cut and place > self.head else place

    def read(self, descriptor: int, start: int, stop: int) -> bytes:
        """Read what is between two places."""
        if not self.cut:
            return os.pread(descriptor, stop - start, start)
        data = self.mark[max(0, start - self.head) : max(0, stop - self.head)]
        if start < self.head:
            data = os.pread(descriptor, min(stop, self.head) - start, start) + data
        if stop > self.behind:
            start = max(start, self.behind)
            data += os.pread(descriptor, stop - start, start + self.gap)
        return data

    def same_places(self, before: "_Layout") -> bool:
        """Nothing was moved or truncated since `before`."""
        places = (before.head, before.cut, before.gap)
        return (self.head, self.cut, self.gap) == places and self.end >= before.end


def _layout(descriptor: int) -> _Layout:
    """Find the mark, which can only be where a head can end."""
    end = os.fstat(descriptor).st_size
    head = 0
    while head < end:
        there = os.pread(descriptor, _MARK_BYTES_MAX, head)
        if found := _MARK.match(there):
            return _Layout(end, head, int(found[1]), found[0])
        if found := _CUTTING.match(there):
            cut, full = int(found[1]), int(found[2], 16)
            mark = _mark(cut)
            gap = full - _kept_of(full, head) - head - len(mark) if end == full else 0
            # Else a script has printed the like.
            if gap >= 0 and end - gap >= head + len(mark):
                return _Layout(end - gap, head, cut, mark, gap)
        head = head * 2 or OUTPUT_BYTES_MIN // 2
    return _Layout(end)


def _mark(cut: int) -> bytes:
    return b"\n[geosched: %d bytes cut]\n" % cut


def _kept_of(size: int, head: int) -> int:
    """Return the bytes of the tail that a cut of a full file keeps: less than half of what is
    behind the head, so that it is moved to where nothing of it is."""
    return max(0, (size - head) // 2 - _MARK_BYTES_MAX)


def _head_within(size: int) -> int:
    """Return the largest place up to `size` where a head can end."""
    return 1 << (size.bit_length() - 1) if size >= OUTPUT_BYTES_MIN // 2 else 0


class CappedFile:
    """The file, written in the calling thread. Owns the bound on its size."""

    def __init__(self, path: Path, bytes_max: int, *, before: int = 0) -> None:
        """Create or empty the file. `before` are bytes of output that were in an earlier one,
        which is gone: they are marked as cut. Raises `OSError`."""
        self._path = path
        self._bytes_max = max(bytes_max, OUTPUT_BYTES_MIN)
        self._head = _head_within(self._bytes_max // 2)
        self._cut = 0
        self._mark_bytes = 0
        self._size = 0
        self._told_truncated = False
        self._descriptor = _open_empty(path)
        if before:
            self._cut_to(0, before)

    @property
    def bytes_kept(self) -> int:
        return self._size - self._mark_bytes

    @property
    def bytes_written(self) -> int:
        """Output up to now, what was cut of it included."""
        return self._size + self._cut - self._mark_bytes

    def in_place(self) -> bool:
        """The file is still where readers look for it. Raises `OSError`."""
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return os.path.samestat(found, os.fstat(self._descriptor))

    def write(self, data: bytes) -> None:
        """Append; what cannot be written is lost. Raises `OSError`."""
        rest = memoryview(data)
        while rest:
            self._heed_others()
            while self._size >= self._bytes_max:
                self._make_room()
            # It goes to the end, wherever that is by now: a place would be behind a hole, where
            # somebody has truncated the file a moment ago.
            written = os.write(self._descriptor, rest[: self._bytes_max - self._size])
            self._size += written
            rest = rest[written:]

    def is_removed(self) -> bool:
        """No directory has the file any more."""
        return os.fstat(self._descriptor).st_nlink == 0

    def close(self) -> None:
        os.close(self._descriptor)

    def _heed_others(self) -> None:
        """Find out whether somebody else has truncated the file, or appended to it."""
        size = os.fstat(self._descriptor).st_size
        if size < self._size:
            self._tell_truncated(size)
            head = _head_within(size)
            self._cut_to(min(head, self._head) if self._cut else head, self.bytes_written)
        else:
            self._size = size  # it may have grown

    def _tell_truncated(self, size: int) -> None:
        if not self._told_truncated:
            log.warning(
                "%s was truncated by somebody else, from %d to %d bytes",
                self._path,
                self._size,
                size,
                extra={"event": "output-truncated"},
            )
        self._told_truncated = True

    def _cut_to(self, head: int, offset: int) -> None:
        """Cut all behind a head; output goes on at `offset`."""
        cut = offset - head
        mark = _mark(cut)
        os.ftruncate(self._descriptor, head)
        with self._in_place_of_appending():
            os.pwrite(self._descriptor, mark, head)
        self._head, self._cut, self._mark_bytes = head, cut, len(mark)
        self._size = head + len(mark)

    def _make_room(self) -> None:
        """Cut all but the head and the newer half of what is behind it.

        The tail stays at the end until the file is truncated, and is whole in its new place by
        then: from the mark and the size its readers know where it is, whenever the writer dies.
        """
        keep = _kept_of(self._size, self._head)
        behind = self._size - self._head - self._mark_bytes
        cut = self._cut + behind - keep
        mark = _mark(cut)
        size = self._head + len(mark) + keep
        with self._in_place_of_appending():
            cutting = b"\n[geosched %d/%x]\n" % (cut, self._size)
            os.pwrite(self._descriptor, cutting, self._head)
            _move(self._descriptor, self._size - keep, self._head + len(mark), keep)
            os.ftruncate(self._descriptor, size)
            self._cut, self._mark_bytes, self._size = cut, len(mark), size
            os.pwrite(self._descriptor, mark, self._head)

    @contextlib.contextmanager
    def _in_place_of_appending(self) -> Iterator[None]:
        """Have `pwrite` write where it is told to: with O_APPEND Linux ignores the place."""
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, 0)
        try:
            yield
        finally:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, os.O_APPEND)


def remove_output(path: Path) -> None:
    """Remove the file. Raises `OSError`."""
    with _directory(path) as directory:
        directory.unlink(path.name)


def _open_empty(path: Path) -> int:
    """Create or empty a file for appending. Raises `OSError`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
    with _directory(path) as directory:
        return directory.open_file(path.name, flags, _MODE, lent=True)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    with _directory(path) as directory:
        descriptor = directory.open_file(path.name, os.O_RDONLY, lent=True)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _directory(path: Path) -> Directory:
    """Open the directory of a file of output. As root, one that others can write by now is not
    used: output is lost. Raises `UntrustedError`, `OSError`."""
    return Directory.open(path.parent, groups=trust.groups_of_logs())


def _move(descriptor: int, source: int, target: int, count: int) -> None:
    """Move bytes towards the beginning of a file."""
    while count:
        data = os.pread(descriptor, min(count, _COPY_BYTES), source)
        if not data:
            raise OSError("cannot cut the output: its file was truncated by somebody else")
        moved = os.pwrite(descriptor, data, target)
        source, target, count = source + moved, target + moved, count - moved


class Output:
    """Output on its way to disk. Its thread begins with the first output, so that a script that
    writes nothing costs neither time at its start nor memory; a file is made in any case."""

    def __init__(self, path: str | Path, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._file: CappedFile | None = None
        self._tried_monotonic = -OPEN_AGAIN_SECONDS
        self._bytes_before = 0
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
        self._have_file()
        while (data := self._queue.get()) is not None:
            self._write(data)
            with self._lock:
                self._waiting_bytes -= len(data)
        if self._file is not None:
            self._look_for_file(self._file)
        if self._file is not None:
            self._file.close()

    def _write(self, data: bytes) -> None:
        if self._file is not None:
            self._look_for_file(self._file)
        file = self._have_file()
        if file is None:
            self._lose(len(data))
            return
        try:
            file.write(data)
        except OSError as error:
            self._complain(error)
            self._lose(len(data))

    def _have_file(self) -> CappedFile | None:
        """Return the file, opened if need be; None where that fails, or did a moment ago."""
        if self._file is not None or time.monotonic() - self._tried_monotonic < OPEN_AGAIN_SECONDS:
            return self._file
        self._tried_monotonic = time.monotonic()
        try:
            path = Path(self._path)
            self._file = CappedFile(path, self._bytes_max, before=self._bytes_before)
        except OSError as error:
            self._complain(error)
        return self._file

    def _look_for_file(self, file: CappedFile) -> None:
        """Let go of a file that somebody has removed, or moved: output goes on in another. What was
        in a removed one is lost."""
        try:
            if file.in_place():
                return
            removed = file.is_removed()
        except OSError as error:
            self._complain(error)
            return
        log.warning(
            "Somebody has %s %s, with %d bytes of output",
            "removed" if removed else "moved",
            self._path,
            file.bytes_kept,
            extra={"event": "output-lost"},
        )
        self._bytes_before = file.bytes_written
        self._tried_monotonic = -OPEN_AGAIN_SECONDS
        self._file = None
        file.close()
        if removed:
            self._lose(file.bytes_kept)

    def _complain(self, error: Exception) -> None:
        if self.lost_bytes == 0:
            log.warning(
                "Cannot keep output in %s, it is lost: %s",
                self._path,
                error,
                extra={"event": "output-lost"},
            )
