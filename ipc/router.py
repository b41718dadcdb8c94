"""A ROUTER socket of our own, for peers that are strangers: bounded connections, no libzmq.

libzmq ends the process that cannot accept for want of descriptors (fact Z6), and bounds no
peer. Here `accept` fails like any other call, and connections are bounded for each user and in
all; who has the most gives way. A peer is known by the credentials that the kernel took when
it connected. No call waits, nor does one for the end of descriptors that a peer attaches.
"""

import contextlib
import logging
import select
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple

import msgspec

from . import unwanted_descriptors, zmtp
from .connection import Connection
from .socket_files import endpoint, is_at
from .sockets import Peer, bind_file
from .wire import FRAME_BYTES_MAX, ProtocolError, Received, Sent, decoded

log = logging.getLogger(__name__)

#: A connection whose greeting takes longer goes, and one that has asked nothing for so long.
HANDSHAKE_SECONDS_MAX = 10.0
IDLE_SECONDS_MAX = 60.0
#: One that takes nothing of what was sent to it for so long goes, and so does the one for which
#: the most waits, where that is more than so many bytes for one, or for all.
UNREAD_SECONDS_MAX = 10.0
UNREAD_BYTES_MAX = 4 * 1024**2
UNREAD_BYTES_IN_ALL_MAX = 16 * 1024**2
#: One that has just asked does not give way to others: it may be about to ask again.
STAYS_SECONDS = 1.0
#: Where none can be accepted, it is tried again after this time.
ACCEPT_AGAIN_SECONDS = 1.0
#: Connections that are given up are told of no more often than this; all are counted.
TELL_AGAIN_SECONDS = 10.0
#: As many as may wait to be accepted, so that a user that connects without end does not keep
#: others waiting; one that is not let in costs some microseconds.
ACCEPTS_PER_TURN_MAX = 512
_EVENTS_PER_TURN_MAX = 256
_BACKLOG = ACCEPTS_PER_TURN_MAX
_PEERCRED = struct.Struct("iII")


class Bounds(NamedTuple):
    """Connections at once."""

    in_all: int
    of_user: int


class Router(Generic[Received, Sent]):
    """A listening socket file and its connections; a peer's `routing_id` is never used again.

    Watch `fileno()`, and call `drain` when it is readable and at `next_deadline`, then `expire`.
    `refused` counts connections that were given up for what they sent, or for a bound.
    """

    rebind_leaves_descriptors = 0

    def __init__(
        self,
        path: Path,
        *,
        receives: Any,
        bounds: Bounds,
        mode: int = 0o600,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """Listen at `path`. Raises `OSError`, also where a file that is no socket is there."""
        self.path = path
        self.bounds = bounds
        self.refused = 0
        self._decode = msgspec.msgpack.Decoder(receives).decode
        self._mode = mode
        self._monotonic_seconds = monotonic_seconds
        self._epoll = select.epoll()
        self._connections: dict[bytes, Connection] = {}
        self._by_descriptor: dict[int, Connection] = {}
        self._users: Counter[int] = Counter()  # connections of each uid
        self._unread: deque[Connection] = deque()
        self._waiting: Collection[bytes] = ()
        self._accept_at_monotonic: float | None = None
        self._tell_at_monotonic = 0.0
        self._number = 0
        unwanted_descriptors.allow_interruptions()
        self._listener = self._listen()

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to `drain`."""
        return self._epoll.fileno()

    def __len__(self) -> int:
        return len(self._connections)

    def close(self) -> None:
        """Close all connections and remove the socket file; what was not taken yet is lost."""
        for connection in list(self._connections.values()):
            self._close(connection)
        unwanted_descriptors.close(self._listener)
        self._epoll.close()
        with contextlib.suppress(OSError):  # what is there by now is not ours
            if self.in_place():
                self.path.unlink()

    def in_place(self) -> bool:
        """The socket at which this router listens is at `path`. Raises `OSError`."""
        return is_at(self.path, self._bound)

    def rebind(self) -> None:
        """Listen at `path` once more, where its file was removed; connections go on. Raises
        `BindError`; then it listens where it did."""
        old, self._listener = self._listener, self._listen()
        if self._accept_at_monotonic is None:
            self._epoll.unregister(old.fileno())
        self._accept_at_monotonic = None
        unwanted_descriptors.close(old)

    def _listen(self) -> socket.socket:
        endpoint(self.path)  # or its path is too long
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

        def bind() -> None:
            self.path.unlink(missing_ok=True)
            listener.bind(str(self.path))

        try:
            bind_file(self.path, self._mode, bind)
            unwanted_descriptors.refuse(listener)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._bound = self.path.lstat()
        return listener

    # --- messages -----------------------------------------------------------------------

    def send(self, routing_id: bytes, message: Sent) -> bool:
        """Send a message. Returns False where the peer has left or does not read."""
        connection = self._connections.get(routing_id)
        if connection is None:
            return False
        now_monotonic = connection.asked_monotonic = self._monotonic_seconds()
        if not connection.unsent:
            connection.taken_monotonic = now_monotonic
        connection.unsent += zmtp.frame(msgspec.msgpack.encode(message))
        self._flush(connection, now_monotonic)
        self._bound_unsent(connection)
        return routing_id in self._connections

    def drain(
        self, messages_max: int, *, heard: Callable[[Peer], bool] = lambda _: True
    ) -> Iterator[tuple[Peer, Received | ProtocolError]]:
        """Yield the messages that have arrived, at most `messages_max`, one of each peer in turn;
        for one that cannot be read, the error. New peers are let in first. Those who are not
        `heard` by now come first the next time."""
        now_monotonic = self._monotonic_seconds()
        self._hear(now_monotonic)
        put_off: list[Connection] = []
        while self._unread and messages_max:
            connection = self._unread.popleft()
            if not heard(connection.peer):
                put_off.append(connection)
                continue
            messages_max -= 1
            connection.unread = False
            message = self._take(connection, now_monotonic)
            if message is not None:
                connection.asked_monotonic = now_monotonic
                yield connection.peer, decoded(message, self._decode)
        self._unread.extendleft(reversed(put_off))

    def _hear(self, now_monotonic: float) -> None:
        """Accept peers, and read from those that may send."""
        accepts = (
            self._accept_at_monotonic is not None and now_monotonic >= self._accept_at_monotonic
        )
        for descriptor, _ in self._epoll.poll(0, _EVENTS_PER_TURN_MAX):
            connection = self._by_descriptor.get(descriptor)
            if connection is None:
                accepts = True
            elif connection.unsent:
                self._flush(connection, now_monotonic)
            elif not connection.unread:
                connection.receive()
                self._is_unread(connection)
        if accepts:
            self._accept(now_monotonic)

    def _take(self, connection: Connection, now_monotonic: float) -> list[bytes] | None:
        """Return the next message of a peer, if it has one; close the connection at its end."""
        if connection.socket.fileno() < 0 or connection.unsent:
            return None  # closed, or to take its answers first
        if connection.attached:
            self._refuse(connection, "sends descriptors")
            return None
        try:
            message = connection.decoder.take()
        except zmtp.ZmtpError as error:
            self._refuse(connection, str(error))
            return None
        if connection.decoder.answers:
            self._flush(connection, now_monotonic)
        if message is not None or connection.decoder.behind:
            self._is_unread(connection)
        elif connection.ended:
            self._close(connection)
        return message

    def _is_unread(self, connection: Connection) -> None:
        if not connection.unread:
            connection.unread = True
            self._unread.append(connection)

    def _flush(self, connection: Connection, now_monotonic: float) -> None:
        """Send what waits. While some of it does, nothing is read from the peer."""
        if not connection.flush(now_monotonic):
            self._close(connection)
            return
        wanted = select.EPOLLOUT if connection.unsent else select.EPOLLIN
        if wanted != connection.wanted:
            self._epoll.modify(connection.socket.fileno(), wanted)
            connection.wanted = wanted
            if not connection.unsent:
                self._is_unread(connection)

    def _bound_unsent(self, connection: Connection) -> None:
        if len(connection.unsent) > UNREAD_BYTES_MAX:
            self._refuse(connection, "does not read its answers")
        unsent: Counter[int] = Counter()
        for each in self._connections.values():
            unsent[each.peer.uid] += len(each.unsent)
        if unsent.total() > UNREAD_BYTES_IN_ALL_MAX:
            ((uid, _),) = unsent.most_common(1)  # who has many connections has no more for it
            theirs = (each for each in self._connections.values() if each.peer.uid == uid)
            self._refuse(
                max(theirs, key=lambda each: len(each.unsent)), "does not read its answers"
            )

    # --- connections --------------------------------------------------------------------

    def _accept(self, now_monotonic: float) -> None:
        """Let new peers in; where the system has no descriptor or no memory left, later."""
        came: Counter[int] = Counter()
        for _ in range(ACCEPTS_PER_TURN_MAX):
            try:
                opened, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                break
            except OSError as error:
                self._accept_later(now_monotonic, error)
                return
            try:
                self._admit(opened, now_monotonic, came)
            except OSError as error:
                unwanted_descriptors.close(opened)
                self._accept_later(now_monotonic, error)
                return
        if self._accept_at_monotonic is not None:
            self._accept_at_monotonic = None
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    def _accept_later(self, now_monotonic: float, error: OSError) -> None:
        if self._accept_at_monotonic is None:
            self._epoll.unregister(self._listener.fileno())  # it stays readable
            log.warning(
                "Cannot accept connections at %s: %s",
                self.path,
                error.strerror,
                extra={"event": "accept-failed"},
            )
        self._accept_at_monotonic = now_monotonic + ACCEPT_AGAIN_SECONDS

    def _admit(self, opened: socket.socket, now_monotonic: float, came: Counter[int]) -> None:
        """Let a peer in, unless too many of its user are there, or `came` in this turn."""
        credentials = opened.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
        pid, uid, gid = _PEERCRED.unpack(credentials)
        came[uid] += 1
        if came[uid] > self.bounds.of_user or not self._make_room(uid, now_monotonic):
            came[uid] = self.bounds.of_user
            self._tell(Peer(b"", uid, gid, pid), "too many are there")
            unwanted_descriptors.close(opened)
            return
        opened.setblocking(False)
        self._epoll.register(opened.fileno(), select.EPOLLIN)
        self._number += 1
        peer = Peer(self._number.to_bytes(8), uid, gid, pid)
        connection = Connection(opened, peer, FRAME_BYTES_MAX, now_monotonic)
        self._connections[peer.routing_id] = connection
        self._by_descriptor[opened.fileno()] = connection
        self._users[uid] += 1
        self._flush(connection, now_monotonic)

    def _make_room(self, uid: int, now_monotonic: float) -> bool:
        """Have a place for one more connection of a user: at its own bound one of its own gives
        way, at the bound in all one of the user with the most; the one that has asked nothing
        for the longest time."""
        if self._users[uid] >= self.bounds.of_user:
            giver = uid
        elif len(self._connections) >= self.bounds.in_all:
            giver = max(self._users, key=lambda each: (self._users[each], each == uid))
        else:
            return True
        theirs = [each for each in self._connections.values() if each.peer.uid == giver]
        left = [each for each in theirs if each.left()]
        for connection in left:
            self._close(connection)
        if left:
            return True
        if self._users[giver] <= self._users[uid] + 1:
            theirs = [each for each in theirs if self._gives_way(each, now_monotonic)]
        if not theirs:
            return False
        self._refuse(min(theirs, key=lambda each: each.asked_monotonic), "gives way to another")
        return True

    def _gives_way(self, connection: Connection, now_monotonic: float) -> bool:
        if connection.peer.routing_id in self._waiting or connection.unread:
            return False
        return now_monotonic - connection.asked_monotonic >= STAYS_SECONDS

    def next_deadline(self) -> float | None:
        """Return the monotonic instant of the next `drain` that is needed, whatever comes."""
        if self._unread:
            return self._monotonic_seconds()
        deadlines = [self._expires_monotonic(each) for each in self._connections.values()]
        deadlines.append(self._accept_at_monotonic)
        return min((each for each in deadlines if each is not None), default=None)

    def expire(self, waiting: Collection[bytes]) -> None:
        """Close the connections whose time is over. Those `waiting` for an answer, by their
        routing ids, have all the time that their request may take."""
        now_monotonic = self._monotonic_seconds()
        self._waiting = waiting
        for connection in list(self._connections.values()):
            expires_monotonic = self._expires_monotonic(connection)
            if expires_monotonic is not None and expires_monotonic <= now_monotonic:
                self._expire(connection)

    def _expires_monotonic(self, connection: Connection) -> float | None:
        if not connection.decoder.ready:
            return connection.opened_monotonic + HANDSHAKE_SECONDS_MAX
        if connection.unsent:
            return connection.taken_monotonic + UNREAD_SECONDS_MAX
        if connection.peer.routing_id in self._waiting or connection.unread:
            return None
        return connection.asked_monotonic + IDLE_SECONDS_MAX

    def _expire(self, connection: Connection) -> None:
        """Close a connection; a request that comes at this very moment is answered before."""
        with contextlib.suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RD)  # what it sends now, it knows to be lost
        if not connection.unsent and connection.receive() and not connection.ended:
            connection.ended = True
            connection.opened_monotonic = connection.asked_monotonic = self._monotonic_seconds()
            self._is_unread(connection)
        else:
            self._close(connection)

    def _refuse(self, connection: Connection, reason: str) -> None:
        self._tell(connection.peer, reason)
        self._close(connection)

    def _tell(self, peer: Peer, reason: str) -> None:
        """Count a connection that is given up, and log it unless another was a moment ago."""
        self.refused += 1
        now_monotonic = self._monotonic_seconds()
        if now_monotonic < self._tell_at_monotonic:
            return
        self._tell_at_monotonic = now_monotonic + TELL_AGAIN_SECONDS
        log.warning(
            "Closed a connection of uid %d, pid %d: %s",
            peer.uid,
            peer.pid,
            reason,
            extra={"event": "connection-refused"},
        )

    def _close(self, connection: Connection) -> None:
        if connection.socket.fileno() < 0:
            return
        del self._connections[connection.peer.routing_id]
        self._users[connection.peer.uid] -= 1
        self._users += Counter()  # forgets who has none
        del self._by_descriptor[connection.socket.fileno()]
        self._epoll.unregister(connection.socket.fileno())
        unwanted_descriptors.close(connection.socket)
