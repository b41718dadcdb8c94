"""Log of all processes of the daemon: a socket that takes records or refuses them at once, and the
relay, the one process that writes them to standard error and may wait there.

Standard error belongs to whoever started the daemon: it may be full, held by a Ctrl-S, or a file
on a disk that hangs. The kernel's buffer of the socket is the queue; what it does not take is
dropped, counted and told of later.
"""

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable

from .log_rate import OF_A_MESSAGE, OF_A_USER, Kind, Rate, Rates

#: Records that wait for the relay, as the kernel counts them: with some 800 bytes for each.
QUEUED_BYTES_MAX = 208 * 1024
#: A longer record is cut, so that a single one never fills the queue.
RECORD_BYTES_MAX = 32 * 1024
_CUT = b" [cut]\n"
#: Standard error that fails, on a full disk perhaps, is tried again at this interval.
WRITE_AGAIN_SECONDS = 0.2
#: Without a daemon, a relay that nobody reads gives up after this time.
ORPHANED_SECONDS_MAX = 8.0
_LOOK_SECONDS = 1.0


def log_socket() -> tuple[socket.socket, socket.socket]:
    """Return the relay's end of a log and the end that all others write to. SEQPACKET: a record is
    taken whole or not at all, whoever else writes."""
    source, sink = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUED_BYTES_MAX // 2)  # it is doubled
    sink.setblocking(False)
    return source, sink


class _Sink:
    """A descriptor that does not block, as the stream of a handler."""

    def __init__(self, descriptor: int) -> None:
        self.refused_records = 0
        self._descriptor = descriptor

    def write(self, text: str) -> None:
        """Write a record whole, or count it as refused."""
        data = text.encode(errors="backslashreplace")
        if len(data) > RECORD_BYTES_MAX:
            data = data[: RECORD_BYTES_MAX - len(_CUT)] + _CUT
        try:
            os.write(self._descriptor, data)
        except OSError:  # it is full, or its relay is gone for good
            self.refused_records += 1


class DroppingHandler(logging.StreamHandler[_Sink]):
    """Writes each record whole to a descriptor that does not block; one that is not taken is
    dropped and counted. So is one too many of its kind: a message, and the uid in `askedBy` of a
    record that a user has caused. The counts are told before the next record, or by `tell_lost`."""

    def __init__(
        self, descriptor: int, monotonic_seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._sink = _Sink(descriptor)
        self._rates = Rates()
        self._monotonic_seconds = monotonic_seconds
        super().__init__(self._sink)

    @property
    def dropped_records(self) -> int:
        return self._sink.refused_records

    def next_deadline(self) -> float | None:
        """Return the monotonic instant at which to tell of records that were left out, or None."""
        return self._rates.next_deadline()

    def emit(self, record: logging.LogRecord) -> None:
        if not self._rates.admits(*_kind(record), self._monotonic_seconds()):
            return
        if self._tell_lost():
            super().emit(record)
        else:
            self._sink.refused_records += 1

    def tell_lost(self) -> None:
        """Tell how many records were dropped, and left out, if any and if that is taken by now."""
        self.acquire()
        try:
            self._tell_lost()
        finally:
            self.release()

    def _tell_lost(self) -> bool:
        """True where nothing is left to tell."""
        dropped, self._sink.refused_records = self._sink.refused_records, 0
        if dropped:
            text = "%d records of the log are lost: standard error did not take them"
            self._tell("log-records-lost", dropped, text, dropped)
        if self._sink.refused_records:
            self._sink.refused_records = dropped
            return False
        for (message, cause), count in self._rates.left_out(self._monotonic_seconds()):
            by = "" if cause is None else f" of {cause}"
            text = "%d more records%s were left out, too many at once: %s"
            self._tell("log-records-left-out", count, text, count, by, message)
        return True

    def _tell(self, event: str, records: int, text: str, *arguments: object) -> None:
        told = logging.LogRecord(
            __name__, logging.WARNING, __file__, 0, text, arguments, exc_info=None
        )
        told.event, told.records = event, records
        super().emit(told)


def _kind(record: logging.LogRecord) -> tuple[Kind, Rate]:
    """Return the kind of a record, and how many of it may come."""
    message = str(record.msg)
    if (uid := getattr(record, "askedBy", None)) is not None:
        return (message, f"uid {uid}"), OF_A_USER
    return (message, None), OF_A_MESSAGE


def relay(source: int, target: int, gone: Callable[[], bool]) -> None:
    """Copy records from `source` to `target`, until nobody can write any more. Both may block. A
    record for which a target has no reader is dropped.

    `gone` tells that the daemon is: then a target that takes nothing for `ORPHANED_SECONDS_MAX`
    ends the calling process, for what else could end a wait in write(2)?
    """
    stuck = _StuckWrite(gone)
    signal.signal(signal.SIGALRM, stuck.look)
    while data := _next_record(source):
        stuck.begin()
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(target, rest) :]
            except BlockingIOError:  # whoever started the daemon made it so
                _wait_for_room(target)
            except BrokenPipeError:  # nobody reads it: only the next record may find somebody
                break
            except OSError:
                if _hung_up(source):
                    return
                time.sleep(WRITE_AGAIN_SECONDS)
        stuck.end()


class _StuckWrite:
    """Ends this process once a write has waited too long for a daemon that is gone."""

    def __init__(self, gone: Callable[[], bool]) -> None:
        self._gone = gone
        self._looks = 0

    def begin(self) -> None:
        self._looks = 0
        signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)

    def end(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def look(self, *_: object) -> None:
        self._looks += self._gone()
        if self._looks * _LOOK_SECONDS > ORPHANED_SECONDS_MAX:
            os._exit(1)


def _next_record(source: int) -> bytes:
    """Return the next record, or nothing at the end. (An empty write is a record, too.)"""
    while not (data := os.read(source, RECORD_BYTES_MAX)):
        if _hung_up(source):
            break
    return data


def _hung_up(source: int) -> bool:
    """Nobody can write to the log any more."""
    poll = select.poll()
    poll.register(source, 0)
    return bool(poll.poll(0))


def _wait_for_room(target: int) -> None:
    poll = select.poll()
    poll.register(target, select.POLLOUT)
    poll.poll(WRITE_AGAIN_SECONDS * 1000)
