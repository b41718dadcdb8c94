"""Synchroniser process: carries out the pulls and reports that the supervisor orders.

It parses text from outside, away from daemonDB, and keeps nothing between two exchanges. Of a
daemon that is root it gives up all rights before the first (DESIGN 6). It leaves when the
supervisor closes its socket, or is gone.
"""

import importlib
import logging
import os
import resource
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import msgspec
from setproctitle import setproctitle

from ...ipc.actions import Action
from ...ipc.backends import BACKENDS
from ...ipc.channel import ChildEnd
from ...ipc.messages.sync import (
    DETAIL_CHARS_MAX,
    PAGE_ACTIONS_MAX,
    PAGE_BYTES_MAX,
    PAGE_IDS_MAX,
    BackendAddress,
    Connected,
    ErrorKind,
    ExchangeFailed,
    FromSynchroniser,
    Page,
    Pull,
    Pulled,
    Send,
    ToSynchroniser,
)
from ...ipc.wire import ProtocolError
from ..host import log_lines, privileges
from .backend_files import FilesOf, LocalFiles
from .base import Backend, ExchangeError, Snapshot
from .broker import BrokeredFiles, BrokeredLog
from .http import deadline

#: Bounds of the address space: the interpreter with its threads, and multiples of a body.
MEMORY_BYTES_BASE = 512 * 1024 * 1024
MEMORY_BODIES_MAX = 16
#: Descriptors, which may be files in memory, beyond what is mapped. It has some twenty.
OPEN_FILES_MAX = 64
#: Niceness: a peer that keeps this process busy must not hold up the supervisor or a start.
NICER_BY = 10

log = logging.getLogger(__name__)


_Connection: TypeAlias = ChildEnd[ToSynchroniser, FromSynchroniser]


class _UnreadError(Exception):
    """The supervisor does not read the messages that it ordered."""


class _AloneError(Exception):
    """No file can be opened any more: the broker is gone."""


def main(
    served: int,
    lifeline_fd: int,
    *,
    backend: BackendAddress | None = None,
    broker_fd: int | None = None,
) -> None:
    """Serve the supervisor by the socket `served`, in a fresh child.

    `lifeline_fd` is the read end of a pipe whose write end only the supervisor has. With
    `broker_fd`, a socket of a broker of the files of `backend`, it gives up its rights, and
    carries out exchanges with that backend only.
    """
    setproctitle("geosched: synchroniser")
    try:
        os.nice(NICER_BY)
    except OSError as error:  # a seccomp profile; it then competes with what starts
        log.debug("Cannot be nicer: %s", error.strerror)
    # A Ctrl-C or a service manager's signal to the group is the supervisor's to answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    without_rights = None
    if backend is not None and broker_fd is not None:
        # Before this process has a second thread, and what it imports is out of reach.
        asked = socket.socket(fileno=broker_fd)
        log_lines.pass_on(BrokeredLog(asked))
        _leave_streams()
        files = BrokeredFiles(asked)
        without_rights = WithoutRights(backend, files)
    threading.Thread(target=_leave_when_orphaned, args=(lifeline_fd,), daemon=True).start()
    deadline.begin()  # without rights no thread can be made any more
    connection: _Connection = ChildEnd(socket.socket(fileno=served), receives=ToSynchroniser)
    try:
        connection.send(Connected())
        _serve(connection, without_rights)
    except (_AloneError, _UnreadError, ProtocolError) as error:
        log.error("The synchroniser leaves: %s", error, extra={"event": "synchroniser-left"})
    finally:
        connection.close()


def _leave_streams() -> None:
    """Give up what is shared with all processes of the daemon: the log's socket, whatever standard
    output is, and a terminal. Who holds one can make it block for all."""
    nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)
    os.setsid()


def _leave_when_orphaned(lifeline_fd: int) -> None:
    """Exit when the supervisor is gone, even in the middle of an exchange (law 11)."""
    poll = select.poll()
    poll.register(lifeline_fd, select.POLLIN)
    poll.poll()
    os._exit(0)


def _serve(connection: _Connection, without_rights: "WithoutRights | None") -> None:
    """Carry out exchanges until the supervisor wants no more."""
    load = load_backend if without_rights is None else without_rights.load
    while (order := connection.receive()) is not None:
        bound_memory(order.backend.max_body_bytes)
        for message in carry_out(order, load):
            if not connection.send(message, timeout_seconds=order.backend.timeout_seconds):
                raise _UnreadError("cannot send an answer: the supervisor does not read")
        if without_rights is not None and without_rights.alone:
            raise _AloneError("its file broker is gone")


class WithoutRights:
    """The backend of a synchroniser that gives up its rights with its first order: by then it has
    the threads that it needs. Nothing from the network was read before. It is made while the
    process has one thread."""

    def __init__(self, backend: BackendAddress, files: BrokeredFiles) -> None:
        self._files = files
        self._has_rights = True
        self._refusal: ExchangeError | None = None
        try:
            self._backend = load_backend(backend.kind, lambda _: files)
            self._backend.prepare()
            self._account = privileges.look_up(backend.user)
            # A file of reports grows until its reader moves it.
            keeps_reports = BACKENDS[backend.kind].needs == "path"
            self._file_bytes_max = None if keeps_reports else privileges.FILE_BYTES_MAX
            privileges.prepare()
        except ExchangeError as error:
            self._refusal = error
        except (OSError, privileges.UnusableUserError) as error:
            self._refusal = _cannot_become(error)

    @property
    def alone(self) -> bool:
        """The broker is gone."""
        return self._files.gone

    def load(self, _: str) -> Backend:
        """Return the backend, which has no rights. Raises `ExchangeError` (local)."""
        if self._refusal is None and self._has_rights:
            try:
                privileges.become(self._account, file_bytes_max=self._file_bytes_max)
            except OSError as error:
                self._refusal = _cannot_become(error)
            self._has_rights = False
        if self._refusal is not None:
            raise self._refusal
        return self._backend


def _cannot_become(error: Exception) -> ExchangeError:
    detail = f"cannot become the user of backend.user: {error}"
    return ExchangeError(ErrorKind.LOCAL, detail)


def load_backend(kind: str, files_of: FilesOf = LocalFiles) -> Backend:
    """Return a backend of this kind; its module is imported with the first.

    So a process that reads a file never imports `requests`. Raises `ExchangeError` (local).
    """
    if kind not in BACKENDS:
        detail = f"cannot use a backend of kind {kind!r}: there is none"
        raise ExchangeError(ErrorKind.LOCAL, detail)
    module, _, name = BACKENDS[kind].implementation.partition(":")
    implementation = getattr(importlib.import_module(f"..backends.{module}", __name__), name)
    backend: Backend = implementation(files_of)
    return backend


def carry_out(
    order: Pull | Send, load: Callable[[str], Backend] = load_backend
) -> Iterator[FromSynchroniser]:
    """Carry out an order; yield what to send for it.

    A failed exchange is one message, and nothing before it.
    """
    try:
        backend = load(order.backend.kind)
        result = backend.pull(order) if isinstance(order, Pull) else backend.send(order)
    except ExchangeError as error:
        failed = (error.kind, error.detail[:DETAIL_CHARS_MAX], error.retry_after_seconds)
        yield ExchangeFailed(order.exchange, *failed)
    except MemoryError:
        detail = "cannot read the answer: it needs more memory than one exchange may use"
        yield ExchangeFailed(order.exchange, ErrorKind.TOO_LARGE, detail)
    else:
        if isinstance(result, Snapshot):
            yield from _snapshot_messages(order.exchange, result)
        else:
            yield result


def _snapshot_messages(exchange: int, snapshot: Snapshot) -> Iterator[FromSynchroniser]:
    for actions in pages(snapshot.actions):
        yield Page(exchange, actions)
    ids = snapshot.set_aside_ids
    for start in range(0, len(ids), PAGE_IDS_MAX):
        yield Page(exchange, set_aside_ids=ids[start : start + PAGE_IDS_MAX])
    yield Pulled(
        exchange,
        len(snapshot.actions),
        snapshot.etag,
        snapshot.digest,
        snapshot.set_aside,
        snapshot.set_aside_total,
        snapshot.unreadable_ids,
    )


def pages(actions: Iterable[Action]) -> Iterator[tuple[Action, ...]]:
    """Split the actions into pages by number and bytes; a very long one has its own page."""
    page: list[Action] = []
    page_bytes = 0
    for action in actions:
        action_bytes = len(msgspec.msgpack.encode(action))
        if page and (len(page) == PAGE_ACTIONS_MAX or page_bytes + action_bytes > PAGE_BYTES_MAX):
            yield tuple(page)
            page, page_bytes = [], 0
        page.append(action)
        page_bytes += action_bytes
    if page:
        yield tuple(page)


def bound_memory(max_body_bytes: int) -> None:
    """Limit the address space and the descriptors, for good: a body that unpacks into too much
    fails one exchange only. Other settings have another synchroniser."""
    wanted = MEMORY_BYTES_BASE + MEMORY_BODIES_MAX * max_body_bytes
    privileges.limit(resource.RLIMIT_AS, wanted)
    privileges.limit(resource.RLIMIT_NOFILE, OPEN_FILES_MAX)
