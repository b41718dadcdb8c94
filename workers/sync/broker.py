"""File broker: opens and replaces the files of `[backend]` for a synchroniser that has no rights,
and writes what that says into the log.

The zygote of a daemon that is root forks it beside each synchroniser, and a login by root does.
It keeps its rights, knows the paths from the configuration alone, speaks to no network, and
reads nothing from the files. It leaves when the other end of its socket is closed.
"""

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Collection
from typing import IO, TypeAlias, assert_never

import msgspec
from setproctitle import setproctitle

from ...ipc.messages.broker import (
    TOKENS_BYTES_MAX,
    Done,
    FileKey,
    FileRequest,
    FromBroker,
    Held,
    Level,
    LockTokens,
    Opened,
    OpenFile,
    OpenReports,
    Refused,
    ReplaceTokens,
    Say,
    ToBroker,
    UnlockTokens,
)
from ...ipc.messages.sync import BackendAddress, ErrorKind
from ...ipc.wire import ProtocolError, decoded
from ..host.log_lines import MESSAGE_BYTES_MAX, bounded, trace_lines
from .backend_files import BackendFiles, LocalFiles
from .base import ExchangeError

log = logging.getLogger(__name__)

REQUEST_BYTES_MAX = TOKENS_BYTES_MAX + 1024
_ANSWER_BYTES_MAX = 16 * 1024
#: Niceness: it is asked by a process that may ask without end.
NICER_BY = 10
#: Events of the log that a synchroniser may tell of.
EVENTS = frozenset({"crash", "reports-cut-short", "synchroniser-left"})
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: An answer, and the file whose descriptor goes with it.
_Answered: TypeAlias = tuple[FromBroker, IO[bytes] | None]
_Decode: TypeAlias = Callable[[bytes | memoryview], ToBroker]


def main(served: int, backend: BackendAddress, trusted: Collection[int] = ()) -> int:
    """Serve the socket, in the calling process. Returns its exit status."""
    setproctitle("geosched: file broker")
    for number in _IGNORED:  # an answer is finished, and who asks tells when to leave
        signal.signal(number, signal.SIG_IGN)
    try:
        os.nice(NICER_BY)
    except OSError as error:  # a seccomp profile
        log.debug("Cannot be nicer: %s", error.strerror)
    files = LocalFiles(backend, trusted)
    decode: _Decode = msgspec.msgpack.Decoder(ToBroker).decode
    with socket.socket(fileno=served) as requests:
        while request := _received(requests):
            asked = decoded([request], decode)
            if isinstance(asked, Say):
                say(asked)
                continue
            if isinstance(asked, ProtocolError):
                answered: _Answered = Refused(0, str(asked)), None
            else:
                answered = carry_out(asked, files)
            if not _told(requests, *answered):
                break
    files.unlock_tokens()
    return 0


def say(said: Say) -> None:
    """Log what a synchroniser says, as its word: the log may not look as if others had said it."""
    if said.lost:
        lost = {"event": "log-records-lost", "records": said.lost, "saidBy": "synchroniser"}
        log.warning("%d records of the synchroniser are lost", said.lost, extra=lost)
    event = said.event if said.event in EVENTS else "synchroniser-said"
    level = logging.getLevelNamesMapping()[said.level.upper()]
    extra = {"event": event, "saidBy": "synchroniser"}
    log.log(level, "Synchroniser: %s", said.message, extra=extra)


def carry_out(request: FileRequest, files: BackendFiles) -> _Answered:
    """Carry out a request; return the answer to it."""
    try:
        match request:
            case OpenFile(key):
                return Opened(), files.open(key)
            case OpenReports():
                return Opened(), files.open_reports()
            case LockTokens():
                return (Done() if files.lock_tokens() else Held()), None
            case ReplaceTokens(content):
                files.replace_tokens(content)
            case UnlockTokens():
                files.unlock_tokens()
            case _:
                assert_never(request)
    except OSError as error:
        return Refused(error.errno or 0, error.strerror or str(error)), None
    return Done(), None


def _received(requests: socket.socket) -> bytes:
    """Return the next request, "" once nobody asks any more."""
    try:
        return requests.recv(REQUEST_BYTES_MAX)
    except ConnectionResetError:
        return b""  # whoever asked left an answer unread


def _told(requests: socket.socket, answer: FromBroker, file: IO[bytes] | None) -> bool:
    """Send an answer, and close the file that goes with it. False where nobody waits for it."""
    with contextlib.ExitStack() as closing:
        descriptors = [] if file is None else [closing.enter_context(file).fileno()]
        try:
            socket.send_fds(requests, [msgspec.msgpack.encode(answer)], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            return False
    return True


_LEVELS: dict[int, Level] = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}

_decode_answer: Callable[[bytes | memoryview], FromBroker]
_decode_answer = msgspec.msgpack.Decoder(FromBroker).decode


class BrokeredFiles(BackendFiles):
    """The files, opened by a broker at the other end of a socket. Once that is `gone`, all methods
    raise `ExchangeError` (local), and whoever has no rights is of no use."""

    def __init__(self, broker: socket.socket) -> None:
        self.gone = False
        self._broker = broker

    def open(self, key: FileKey) -> IO[bytes]:
        return os.fdopen(self._descriptor(OpenFile(key)), "rb")

    def open_reports(self) -> IO[bytes]:
        return os.fdopen(self._descriptor(OpenReports()), "a+b")

    def lock_tokens(self) -> bool:
        answer, _ = self._ask(LockTokens())
        return isinstance(answer, Done)

    def replace_tokens(self, content: bytes) -> None:
        self._ask(ReplaceTokens(content))

    def unlock_tokens(self) -> None:
        self._ask(UnlockTokens())

    def _descriptor(self, request: FileRequest) -> int:
        _, descriptors = self._ask(request)
        if not descriptors:
            raise OSError("no descriptor is left to take it")
        return descriptors[0]

    def _ask(self, request: FileRequest) -> tuple[FromBroker, list[int]]:
        """Ask, and wait for the answer: a broker that hangs is the supervisor's to judge, which
        kills a synchroniser that is late. Raises `OSError` for a refusal."""
        try:
            self._broker.send(msgspec.msgpack.encode(request))
            data, descriptors, _, _ = socket.recv_fds(self._broker, _ANSWER_BYTES_MAX, 1)
        except (BrokenPipeError, ConnectionResetError):
            data, descriptors = b"", []
        if not data:
            self.gone = True
            detail = "cannot open the files of the backend: the file broker is gone"
            raise ExchangeError(ErrorKind.LOCAL, detail)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # CPython 3.11 drops MSG_CMSG_CLOEXEC
        answer = _decode_answer(data)
        if isinstance(answer, Refused):
            raise OSError(answer.errno, answer.reason) if answer.errno else OSError(answer.reason)
        return answer, descriptors


class BrokeredLog(logging.Handler):
    """The log of a process that may not write to the daemon's own, by a broker at the other end of
    a socket. A record that the socket does not take at once is lost, and counted."""

    def __init__(self, broker: socket.socket) -> None:
        super().__init__()
        self._broker = broker
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        lines = [record.getMessage()]
        if record.exc_info:
            lines += trace_lines(logging.Formatter().formatException(record.exc_info))
        for line in lines:
            self._say(record, line)

    def _say(self, record: logging.LogRecord, line: str) -> None:
        level: Level = _LEVELS.get(record.levelno, "info")
        shown = bounded(line, MESSAGE_BYTES_MAX)
        said = Say(level, shown, getattr(record, "event", ""), self._lost)
        try:
            self._broker.send(msgspec.msgpack.encode(said), socket.MSG_DONTWAIT)
        except OSError:  # it has no room, or its broker is gone
            self._lost += 1
        else:
            self._lost = 0
