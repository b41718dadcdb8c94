"""File broker: opens and replaces the files of `[backend]` for a synchroniser that has no rights,
and writes what that says into the log.

The zygote of a daemon that is root forks it beside each synchroniser, and a login by root does.
It keeps its rights, knows the paths from the configuration alone, speaks to no network, and
reads nothing from the files. It leaves when the other end of its socket is closed, or when who
asks is gone, whoever has that end by then: what was asked before is finished.
"""

import array
import contextlib
import errno
import logging
import os
import select
import signal
import socket
from collections.abc import Callable, Collection
from typing import IO, TypeAlias, assert_never

import msgspec
from setproctitle import setproctitle

from ...ipc import unwanted_descriptors
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
from .allowance import Allowance, Allowances
from .backend_files import BackendFiles, LocalFiles
from .base import ExchangeError

log = logging.getLogger(__name__)

REQUEST_BYTES_MAX = TOKENS_BYTES_MAX + 1024
_ANSWER_BYTES_MAX = 16 * 1024
#: Niceness: it is asked by a process that may ask without end.
NICER_BY = 10
#: Events of the log that a synchroniser may tell of.
EVENTS = frozenset({"crash", "reports-cut-short", "synchroniser-left"})
#: Of the reason why a request cannot be read, which may quote it.
REASON_CHARS_MAX = 200
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: An answer, and the file whose descriptor goes with it.
_Answered: TypeAlias = tuple[FromBroker, IO[bytes] | None]
_Decode: TypeAlias = Callable[[bytes | memoryview], ToBroker]


def main(
    served: int,
    backend: BackendAddress,
    *,
    asker: int,
    allowed: Allowances | None = None,
    trusted: Collection[int] = (),
) -> int:
    """Serve the socket, in the calling process, for the process of the pidfd `asker`. Returns its
    exit status."""
    setproctitle("geosched: file broker")
    for number in _IGNORED:  # an answer is finished, and who asks tells when to leave
        signal.signal(number, signal.SIG_IGN)
    try:
        os.nice(NICER_BY)
    except OSError as error:  # a seccomp profile
        log.debug("Cannot be nicer: %s", error.strerror)
    unwanted_descriptors.allow_interruptions()
    allowed = allowed or Allowances.make()
    files = LocalFiles(backend, trusted)
    decode: _Decode = msgspec.msgpack.Decoder(ToBroker).decode
    left_out = 0
    requests = socket.socket(fileno=served)
    unwanted_descriptors.refuse(requests)
    while request := _received(requests, asker):
        asked = decoded([request], decode)
        if isinstance(asked, Say):
            told = allowed.records.take()
            left_out = say(asked, asked.lost + left_out) if told else left_out + asked.lost + 1
            continue
        if isinstance(asked, ProtocolError):
            answered: _Answered = Refused(0, str(asked)[:REASON_CHARS_MAX]), None
        else:
            answered = carry_out(asked, files, allowed.renewals)
        if not _told(requests, *answered):
            break
    unwanted_descriptors.close(requests)
    files.unlock_tokens()
    return 0


def say(said: Say, lost: int) -> int:
    """Log what a synchroniser says, as its word: the log may not look as if others had said it.
    Before that, tell how many records of it were `lost`. Returns 0: they are told."""
    if lost:
        extra = {"event": "log-records-lost", "records": lost, "saidBy": "synchroniser"}
        log.warning("%d records of the synchroniser are lost", lost, extra=extra)
    event = said.event if said.event in EVENTS else "synchroniser-said"
    level = logging.getLevelNamesMapping()[said.level.upper()]
    extra = {"event": event, "saidBy": "synchroniser"}
    log.log(level, "Synchroniser: %s", said.message, extra=extra)
    return 0


def carry_out(request: FileRequest, files: BackendFiles, renewals: Allowance) -> _Answered:
    """Carry out a request; return the answer to it."""
    try:
        match request:
            case OpenFile(key):
                return Opened(), files.open(key)
            case OpenReports():
                return Opened(), files.open_reports()
            case LockTokens():
                return (Done() if _locked(files, renewals) else Held()), None
            case ReplaceTokens(content):
                files.replace_tokens(content)
            case UnlockTokens():
                files.unlock_tokens()
            case _:
                assert_never(request)
    except OSError as error:
        return Refused(error.errno or 0, error.strerror or str(error)), None
    return Done(), None


def _locked(files: BackendFiles, renewals: Allowance) -> bool:
    """Lock the tokens, unless that was done too often: new ones that a server gave are kept
    whatever came before. Raises `OSError`."""
    if renewals.left < 1:
        raise OSError(errno.EAGAIN, "tokens were renewed too often")
    return files.lock_tokens() and renewals.take()


def _received(requests: socket.socket, asker: int) -> bytes:
    """Return the next request, "" once nobody asks any more, or nobody may."""
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(asker, select.POLLIN)
    try:
        if asker in dict(poll.poll()):
            requests.shutdown(socket.SHUT_RD)  # what was asked before can still be read
        with unwanted_descriptors.interrupted():
            return requests.recv(REQUEST_BYTES_MAX)
    except ConnectionResetError:
        return b""  # whoever asked left an answer unread


def _told(requests: socket.socket, answer: FromBroker, file: IO[bytes] | None) -> bool:
    """Send an answer, and close the file that goes with it. False where nobody waits for it, or
    reads those before it."""
    with contextlib.ExitStack() as closing:
        descriptors = [] if file is None else [closing.enter_context(file).fileno()]
        try:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
            packed = [msgspec.msgpack.encode(answer)]
            # Not by `socket.send_fds`, which ignores its flags (fact P47).
            requests.sendmsg(packed, [rights] if descriptors else [], socket.MSG_DONTWAIT)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
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
