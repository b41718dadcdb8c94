"""A DEALER socket of our own, for workers and clients: one connection, no libzmq, no thread.

libzmq's context costs each of a hundred workers half a megabyte and two threads, and to import
pyzmq is two fifths of what a short command takes. The connection
does what libzmq's does: it is made again when it is lost, keeps what is
sent meanwhile, and loses the message of which it had sent a part. No call waits.
"""

import logging
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Generic

import msgspec

from . import zmtp
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

log = logging.getLogger(__name__)

#: Read at once, and so often for one message.
PIECE_BYTES_MAX = 16 * 1024
PIECES_PER_CALL_MAX = 64
#: Answers to PINGs that the server does not take; it is given up then.
ANSWERS_BYTES_MAX = 4096


class Dealer(Generic[Received, Sent]):
    """A connection to the server at a socket file, known there by `name`, if it has one.

    It has `poll` watch its descriptor, while it has one, for what it waits for. Call `receive`
    when that is ready, and at `next_deadline`, until it returns None.
    """

    def __init__(
        self,
        path: str,
        poll: select.poll,
        *,
        decode: Callable[[bytes | memoryview], Received],
        name: str = "",
        frame_bytes_max: int = FRAME_BYTES_MAX,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connect, or begin to try."""
        self._path = path
        self._poll = poll
        self._decode = decode
        self._opening = zmtp.opening(b"DEALER", name.encode())
        self._frame_bytes_max = frame_bytes_max
        self._monotonic_seconds = monotonic_seconds
        self._socket: socket.socket | None = None
        self._waiting: deque[bytes] = deque()  # frames that are messages
        self._sent_bytes = 0  # of the first of them
        self._unread = False  # may hold messages that were not taken yet
        self._pause_seconds = RECONNECT_MILLISECONDS / 1000
        self._connect(monotonic_seconds())

    def send(self, message: Sent) -> bool:
        """Send a message, or keep it until the server takes it. Returns False where it takes none,
        and as many are kept as may be."""
        if len(self._waiting) >= QUEUED_MESSAGES_MAX:
            return False
        self._waiting.append(zmtp.frame(msgspec.msgpack.encode(message)))
        self._flush()
        return True

    def receive(self) -> Received | None:
        """Return the next message, or None where there is none yet. Connects and sends what is due.
        Raises `ProtocolError` for a message that cannot be read."""
        now_monotonic = self._monotonic_seconds()
        if self._socket is None and now_monotonic >= self._due_monotonic:
            self._connect(now_monotonic)
        frames = self._take()
        self._flush()
        if frames is None:
            if not self._is_ready() and now_monotonic >= self._due_monotonic:
                self._lose("the server does not greet")
            return None
        message = decoded(frames, self._decode)
        if isinstance(message, ProtocolError):
            raise message
        return message

    def next_deadline(self) -> float | None:
        """Return the monotonic instant of the next `receive` that is needed, whatever comes."""
        if self._unread:
            return self._monotonic_seconds()
        return None if self._is_ready() else self._due_monotonic

    def close(self) -> None:
        """Close the connection. What the server's end has not taken yet is lost."""
        if self._socket is not None:
            self._poll.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _is_ready(self) -> bool:
        return self._socket is not None and self._decoder.ready

    def _connect(self, now_monotonic: float) -> None:
        """Connect and greet, or pause."""
        self._decoder = zmtp.Decoder(
            message_bytes_max=self._frame_bytes_max, peers=zmtp.PEERS_OF_DEALER
        )
        self._control = bytearray(self._opening)  # greeting and answers to send
        self._unread = False
        self._watched = 0
        try:
            self._socket = _connected(self._path)
        except OSError as error:
            self._pause(error.strerror, now_monotonic)
            return
        self._due_monotonic = now_monotonic + HANDSHAKE_MILLISECONDS_MAX / 1000
        self._flush()

    def _lose(self, reason: object) -> None:
        """Close a connection that is of no more use, with the message that was on its way."""
        if self._decoder.ready:
            self._pause_seconds = RECONNECT_MILLISECONDS / 1000
        if self._sent_bytes:
            self._waiting.popleft()
            self._sent_bytes = 0
        self.close()
        self._unread = False
        self._pause(reason, self._monotonic_seconds())

    def _pause(self, reason: object, now_monotonic: float) -> None:
        log.debug("No connection to %s: %s", self._path, reason)
        self._due_monotonic = now_monotonic + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, RECONNECT_MILLISECONDS_MAX / 1000)

    def _take(self) -> list[bytes] | None:
        """Return the next message; read as much as it needs."""
        for _ in range(PIECES_PER_CALL_MAX):
            if self._socket is None:
                return None
            try:
                message = self._decoder.take()
            except zmtp.ZmtpError as error:
                log.warning(
                    "Closed the connection to %s: %s",
                    self._path,
                    error,
                    extra={"event": "bad-message"},
                )
                self._lose(error)
                return None
            self._unread = True
            if message is not None:
                return message
            if not self._decoder.behind and not self._read():
                return None
        return None

    def _read(self) -> bool:
        """Read what has come. False where that is nothing."""
        assert self._socket is not None
        try:
            data = self._socket.recv(PIECE_BYTES_MAX)
        except BlockingIOError:
            self._unread = False
            return False
        except OSError as error:
            self._lose(error.strerror)
            return False
        if not data:
            self._lose("the server has closed it")
            return False
        self._decoder.feed(data)
        return True

    def _flush(self) -> None:
        """Send what the server takes."""
        if self._socket is None:
            return
        self._control += self._decoder.answers
        self._decoder.answers.clear()
        try:
            while self._send_piece(self._socket):
                pass
            watched = select.POLLIN
        except BlockingIOError:
            watched = select.POLLIN | select.POLLOUT
        except OSError:
            watched = select.POLLIN  # its end is read next, behind what the server has still sent
        if len(self._control) > ANSWERS_BYTES_MAX:
            self._lose("the server does not take its answers")
        elif watched != self._watched:
            self._poll.register(self._socket, watched)
            self._watched = watched

    def _send_piece(self, opened: socket.socket) -> bool:
        """Send once; no answer is sent within a message. False where there is nothing to send.
        Raises `OSError`."""
        if self._control and not self._sent_bytes:
            del self._control[: opened.send(self._control, socket.MSG_NOSIGNAL)]
            return True
        if not self._waiting or not self._decoder.ready:
            return False
        first = self._waiting[0]
        rest = memoryview(first)[self._sent_bytes :]
        self._sent_bytes += opened.send(rest, socket.MSG_NOSIGNAL)
        if self._sent_bytes == len(first):
            self._waiting.popleft()
            self._sent_bytes = 0
        return True


def _connected(path: str) -> socket.socket:
    """Raises `OSError`; that is EAGAIN where the queue of the listener is full."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        opened.connect(path)
    except OSError:
        opened.close()
        raise
    return opened
