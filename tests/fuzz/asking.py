"""A client of a real daemon's control socket that says whatever it likes."""

import os
import socket
from pathlib import Path
from typing import Any

import msgspec
from geosched.ipc import zmtp
from geosched.ipc.messages.control import Answer, Call, Ping, Pong, Reply, Request
from support.router import HELLO

NOBODY = 65534
_ANSWER_SECONDS_MAX = 20.0
_ANSWER_BYTES_MAX = 1024 * 1024
_decode = msgspec.msgpack.Decoder(Reply).decode


class Asker:
    """One connection, as `uid`, which only root can choose."""

    def __init__(self, path: Path, uid: int, *, greets: bool = True) -> None:
        self._path = path
        self._uid = uid
        self._greets = greets
        self._number = 0
        self._connect()

    def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_ANSWER_SECONDS_MAX)
        own = os.geteuid()
        if self._uid != own:
            os.seteuid(self._uid)
        try:
            self._socket.connect(str(self._path))
        finally:
            if self._uid != own:
                os.seteuid(own)
        self._decoder = zmtp.Decoder(message_bytes_max=_ANSWER_BYTES_MAX)
        if self._greets:
            self._socket.sendall(HELLO)

    def say(self, stream: bytes) -> int:
        """Send a stream, and hang up; return the bytes that came back until the daemon did."""
        try:
            self._socket.sendall(stream)
            self._socket.shutdown(socket.SHUT_WR)
            got = 0
            while data := self._socket.recv(65_536):
                got += len(data)
            return got
        except (BrokenPipeError, ConnectionResetError):
            return 0
        finally:
            self._socket.close()
            self._connect()

    def send(self, *bodies: bytes) -> None:
        self._socket.sendall(b"".join(map(zmtp.frame, bodies)))

    def ping(self, before: bytes) -> None:
        """Send a message, and a ping after it, which has to be answered whatever it was."""
        number = self._next()
        self.send(before, msgspec.msgpack.encode(Call(number, Ping())))
        while not isinstance(self._reply_to(number), Pong):
            pass

    def ask(self, request: Request) -> Answer:
        """Return the first answer to a request."""
        number = self._next()
        self.send(msgspec.msgpack.encode(Call(number, request)))
        return self._reply_to(number)

    def _next(self) -> int:
        self._number += 1
        return 2**40 + self._number

    def _reply_to(self, number: int) -> Any:
        while True:
            message = self._decoder.take()
            if message is None:
                data = self._socket.recv(65_536)
                assert data, "the daemon has closed the connection"
                self._decoder.feed(data)
                continue
            (body,) = message
            reply = _decode(body)
            if reply.number == number:
                return reply.answer

    def close(self) -> None:
        self._socket.close()
