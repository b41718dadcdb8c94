"""A socketpair between the daemon and one child that may be hostile: whole messages, bounded.

Who holds the other end is who it was given to, and nobody connects: so a message needs no
name, and an end that was closed is of no use to whoever else has got hold of it. A message is
four bytes of its length, and MessagePack. Of the daemon's end (`Channel`) no call waits, nor
does one for descriptors that are attached; a child's own end (`ChildEnd`) waits.
"""

import select
import socket
import struct
from collections.abc import Iterator
from typing import Any, Generic

import msgspec

from . import unwanted_descriptors
from .wire import ProtocolError, Received, Sent, decoded

#: The longest valid action (1000 apps of 255 characters of four bytes, and its arguments) fits.
MESSAGE_BYTES_MAX = 2 * 1024 * 1024
#: Read of a child in one turn: a socket has room for less, as it is made.
PIECE_BYTES_MAX = 256 * 1024
_LENGTH = struct.Struct(">I")


def framed(body: bytes) -> bytes:
    """Return a message as it travels."""
    return _LENGTH.pack(len(body)) + body


class Channel(Generic[Received, Sent]):
    """The daemon's end, for one child at a time.

    Watch `fileno()`, which stays the same, and call `drain` when it is readable. `ended`: the
    child has closed its end, so that nothing more comes.
    """

    def __init__(self, *, receives: Any) -> None:
        self.ended = False
        self._decode = msgspec.msgpack.Decoder(receives).decode
        self._epoll = select.epoll()
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._taken = 0  # of that
        self._unsent = bytearray()
        unwanted_descriptors.allow_interruptions()

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to `drain`."""
        return self._epoll.fileno()

    def open(self) -> socket.socket:
        """Begin with another child, and return its end, for the caller to give away and close.
        Raises `OSError`."""
        self.hang_up()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            unwanted_descriptors.refuse(ours)
            ours.setblocking(False)
            self._epoll.register(ours.fileno(), select.EPOLLIN)
        except OSError:
            ours.close()
            theirs.close()
            raise
        self._socket, self.ended = ours, False
        return theirs

    def hang_up(self) -> None:
        """Close the connection, whoever has its other end; what was not taken yet is lost."""
        opened, self._socket = self._socket, None
        self._received, self._taken, self._unsent = bytearray(), 0, bytearray()
        if opened is not None:
            if not self.ended:
                self._epoll.unregister(opened.fileno())
            unwanted_descriptors.close(opened)

    def close(self) -> None:
        """Close the connection, and this end for good."""
        self.hang_up()
        self._epoll.close()

    def send(self, message: Sent) -> bool:
        """Send a message. Returns False where the child has left, or has not read the last one."""
        if self._socket is None or self.ended or self._unsent:
            return False
        self._unsent += framed(msgspec.msgpack.encode(message))
        self._flush(self._socket)
        return not self.ended

    def drain(self) -> Iterator[Received | ProtocolError]:
        """Yield the messages that have arrived; for one that cannot be read, the error."""
        if self._socket is None or self.ended:
            return
        if self._unsent:
            self._flush(self._socket)
        fault = self._receive(self._socket)
        while not fault and self._socket is not None:
            try:
                body = self._take()
            except ProtocolError as error:
                fault = str(error)
                continue
            if body is None:
                return
            yield decoded([body], self._decode)
        if fault:
            yield ProtocolError(fault)

    def _receive(self, opened: socket.socket) -> str:
        """Read what has come. Returns what is wrong with it, or ""."""
        try:
            with unwanted_descriptors.interrupted():
                data, _, flags, _ = opened.recvmsg(PIECE_BYTES_MAX)
        except BlockingIOError:
            return ""
        except OSError:
            data, flags = b"", 0  # its end
        if not data:
            self._end(opened)
        del self._received[: self._taken]
        self._taken = 0
        self._received += data
        return "it sends descriptors" if flags & socket.MSG_CTRUNC else ""

    def _take(self) -> bytes | None:
        """Return the next whole message. Raises `ProtocolError`."""
        if len(self._received) < self._taken + _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(self._received, self._taken)
        if size > MESSAGE_BYTES_MAX:
            raise ProtocolError(f"cannot read a message of {size} bytes")
        end = self._taken + _LENGTH.size + size
        if len(self._received) < end:
            return None
        with memoryview(self._received) as view:
            body = bytes(view[self._taken + _LENGTH.size : end])
        self._taken = end
        return body

    def _flush(self, opened: socket.socket) -> None:
        try:
            while self._unsent:
                with memoryview(self._unsent) as unsent:
                    sent = opened.send(unsent, socket.MSG_NOSIGNAL)
                del self._unsent[:sent]
        except BlockingIOError:
            pass  # the rest goes when it has room
        except OSError:
            self._unsent.clear()  # its end will be read
        more = select.EPOLLOUT if self._unsent else 0
        self._epoll.modify(opened.fileno(), select.EPOLLIN | more)

    def _end(self, opened: socket.socket) -> None:
        """Watch it no longer: it would stay readable."""
        self.ended = True
        self._unsent.clear()
        self._epoll.unregister(opened.fileno())


class ChildEnd(Generic[Received, Sent]):
    """The end of a child, which has nothing else to do than to wait."""

    def __init__(self, opened: socket.socket, *, receives: Any) -> None:
        self._socket = opened
        self._decode = msgspec.msgpack.Decoder(receives).decode

    def send(self, message: Sent, *, timeout_seconds: float | None = None) -> bool:
        """Send a message. Returns False where the daemon has closed its end, or does not read all
        of it within the time: then nothing more can be sent."""
        self._socket.settimeout(timeout_seconds)
        try:
            self._socket.sendall(framed(msgspec.msgpack.encode(message)))
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> Received | None:
        """Wait for the next message; None once the daemon has closed its end. Raises
        `ProtocolError`."""
        self._socket.settimeout(None)
        head = self._exactly(_LENGTH.size)
        body = None if head is None else self._exactly(_LENGTH.unpack(head)[0])
        if body is None:
            return None
        message: Received | ProtocolError = decoded([body], self._decode)
        if isinstance(message, ProtocolError):
            raise message
        return message

    def _exactly(self, count: int) -> bytes | None:
        found = bytearray()
        while len(found) < count:
            try:
                data = self._socket.recv(count - len(found))
            except ConnectionResetError:
                return None
            if not data:
                return None
            found += data
        return bytes(found)

    def close(self) -> None:
        self._socket.close()
