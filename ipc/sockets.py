"""ZeroMQ sockets between our processes: options, permissions, and typed messages.

The only importer of `zmq`; it does not depend on any message. Every option that has no
bound by default is set here (facts Z6 to Z13): nothing blocks, no queue is endless, no
frame is larger than its limit, and every message is exactly one frame.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple

import msgspec
import zmq

from . import unwanted_descriptors
from .socket_files import endpoint, is_at
from .wire import (
    FRAME_BYTES_MAX,
    HANDSHAKE_MILLISECONDS_MAX,
    QUEUED_MESSAGES_MAX,
    RECONNECT_MILLISECONDS,
    RECONNECT_MILLISECONDS_MAX,
    ProtocolError,
    Received,
    Sent,
    decoded,
)

#: Connections of a `Server` that wait to be accepted, as by libzmq itself.
_BACKLOG = 100
#: Descriptors of a context with one socket that is connected: seven by count.
CONTEXT_DESCRIPTORS = 8

#: In place of the ids of a peer that cannot be told.
UNKNOWN = -1


class BindError(OSError):
    """A socket file cannot be bound; the message names it and the reason."""


class Peer(NamedTuple):
    """The process at the other end, with credentials from the kernel (fact Z5)."""

    routing_id: bytes
    uid: int
    gid: int
    pid: int


def new_context() -> "zmq.Context[zmq.Socket[bytes]]":
    """Make a context with one I/O thread. Not to be called before a fork (fact Z1).

    Raises `OSError` where its descriptors cannot be had: libzmq would end the process (fact Z6).
    """
    with contextlib.ExitStack() as tried:
        for _ in range(CONTEXT_DESCRIPTORS):
            tried.callback(os.close, os.eventfd(0))
    context = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, 64)
    return context


class Server(Generic[Received, Sent]):
    """A ROUTER socket bound to a socket file, for any number of peers. Each `rebind` leaves one
    descriptor open until it is closed: to end the old listener would end its connections."""

    rebind_leaves_descriptors = 1

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        path: Path,
        *,
        receives: Any,
        mode: int = 0o600,
        frame_bytes_max: int = FRAME_BYTES_MAX,
    ) -> None:
        """Bind `path`. Raises `BindError`, `OSError`."""
        self.path = path
        self.endpoint = endpoint(path)
        self._decode = msgspec.msgpack.Decoder(receives).decode
        self.socket = context.socket(zmq.ROUTER)
        _bound(self.socket, frame_bytes_max)
        # Without it a message to a peer that left is lost silently (fact Z8).
        self.socket.set(zmq.ROUTER_MANDATORY, 1)
        # A peer that connects again under its name replaces its dead connection.
        self.socket.set(zmq.ROUTER_HANDOVER, 1)
        self._mode = mode
        try:
            self.rebind()
        except OSError:
            self.socket.close(linger=0)  # or its context would wait for it (fact Z15)
            raise

    def rebind(self) -> None:
        """Listen at `path`, once more where its file was removed: connections that exist go on,
        and the old listener, which nobody can reach, stays open (fact Z14). Raises `BindError`."""
        bind_file(self.path, self._mode, self._listen)
        self._bound = self.path.lstat()

    def _listen(self) -> None:
        """Have libzmq listen by a socket that takes no descriptors: its thread would wait for
        their end (fact Z20). Raises `OSError`, `zmq.ZMQError`."""
        self.path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as made:
            made.bind(os.fspath(self.path))
            unwanted_descriptors.refuse(made)
            made.listen(_BACKLOG)
            self.socket.set(zmq.USE_FD, made.fileno())
            self.socket.bind(self.endpoint)
            made.detach()  # libzmq closes it

    def in_place(self) -> bool:
        """The socket that this server has bound is at `path`. Raises `OSError`."""
        return is_at(self.path, self._bound)

    def send(self, routing_id: bytes, message: Sent) -> bool:
        """Send a message. Returns False where the peer has left or does not read."""
        try:
            self.socket.send_multipart([routing_id, msgspec.msgpack.encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True

    def drain(self, messages_max: int) -> Iterator[tuple[Peer, Received | ProtocolError]]:
        """Yield the messages that have arrived, at most `messages_max`; for one that cannot be
        read, the error."""
        for _ in range(messages_max):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            peer = _peer(frames)
            if peer is None:
                unknown = Peer(frames[0].bytes, UNKNOWN, UNKNOWN, UNKNOWN)
                yield unknown, ProtocolError("cannot tell the sender of a message (ZMTP before 3)")
            else:
                yield peer, self._message(frames)

    def _message(self, frames: list[zmq.Frame]) -> Received | ProtocolError:
        return decoded([frame.buffer for frame in frames[1:]], self._decode)

    def close(self) -> None:
        """Close the socket and remove its file; messages not sent within 200 ms are dropped."""
        self.socket.close(linger=200)
        with contextlib.suppress(OSError):  # a file that stays is bound over by the next daemon
            if self.in_place():
                self.path.unlink()


class Poller:
    """A wait for sockets and file descriptors at once, which no signal lengthens."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()

    def watch(self, readable: "Server[Any, Any] | int") -> None:
        self._poller.register(_pollable(readable), zmq.POLLIN)

    def forget(self, readable: "Server[Any, Any] | int") -> None:
        self._poller.unregister(_pollable(readable))

    def wait(self, timeout_seconds: float) -> set[Any]:
        """Wait, and return the file descriptors and sockets (as `.socket`) that are readable.

        Returns early, with an empty set, when a signal was handled (fact Z10: pyzmq
        would restart the whole wait, so signals are expected on a watched wake-up fd).
        """
        milliseconds = max(0, -int(-timeout_seconds * 1000 // 1))
        return {readable for readable, _ in self._poller.poll(milliseconds)}


def _pollable(readable: "Server[Any, Any] | int") -> Any:
    return readable if isinstance(readable, int) else readable.socket


def _bound(opened: "zmq.Socket[bytes]", frame_bytes_max: int) -> None:
    opened.set(zmq.LINGER, 0)
    opened.set(zmq.SNDHWM, QUEUED_MESSAGES_MAX)
    opened.set(zmq.RCVHWM, QUEUED_MESSAGES_MAX)
    opened.set(zmq.MAXMSGSIZE, frame_bytes_max)
    opened.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MILLISECONDS_MAX)
    opened.set(zmq.RECONNECT_IVL, RECONNECT_MILLISECONDS)
    opened.set(zmq.RECONNECT_IVL_MAX, RECONNECT_MILLISECONDS_MAX)


def bind_file(path: Path, mode: int, bind: Callable[[], object]) -> None:
    """Have `bind` make a socket file, with the permissions there from the first moment.

    Raises `BindError`, also where a file that is no socket is there: libzmq would unlink it
    (fact Z3).
    What `bind` makes has 0777 less the umask (fact Z4).
    """
    try:
        found = path.lstat().st_mode
    except FileNotFoundError:
        found = None
    if found is not None and not stat.S_ISSOCK(found):
        raise BindError(f"cannot bind {path}: a file that is no socket is there")
    umask = os.umask(0o777 & ~mode)
    try:
        bind()
    except (zmq.ZMQError, OSError) as error:
        raise BindError(f"cannot bind {path}: {error.strerror}") from None
    finally:
        os.umask(umask)
    group = path.parent.stat().st_gid  # who may enter the directory may connect, if we can say so
    if mode & 0o060 and (os.geteuid() == 0 or group in os.getgroups()):
        os.chown(path, -1, group)
    path.chmod(mode)


def _peer(frames: list[zmq.Frame]) -> Peer | None:
    """Return the sender by the kernel's word; None where libzmq has none to give."""
    try:
        _, uid, gid, pid = str(frames[-1].get("Peer-Address")).split(":")
        return Peer(frames[0].bytes, int(uid), int(gid), int(pid))
    except (ValueError, zmq.ZMQError):  # the latter for a peer that speaks ZMTP 1 or 2
        return None
