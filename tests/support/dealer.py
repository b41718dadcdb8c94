"""A DEALER of ours with its poll, and servers for it: libzmq's ROUTER, and raw sockets."""

import select
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from geosched.ipc.dealer import Dealer
from geosched.ipc.sockets import Peer, Server, new_context
from geosched.ipc.wire import ProtocolError
from geosched.ipc.zmtp import OPENING_OF_ROUTER, opening

from .wait import wait_for

NAME = "worker-1"
GREETS = opening(b"DEALER", NAME.encode())


def packed(body: bytes) -> bytes:
    return msgspec.msgpack.encode(body)


class Client:
    """A dealer, turned by the test. `now` stands still, or is the monotonic clock."""

    def __init__(self, path: Path, *, frame_bytes_max: int = 256 * 1024) -> None:
        self.heard: list[bytes] = []
        self.errors: list[str] = []
        self.now: float | None = None
        self.poll = select.poll()
        self.dealer: Dealer[bytes, bytes] = Dealer(
            str(path),
            self.poll,
            decode=msgspec.msgpack.Decoder(bytes).decode,
            name=NAME,
            frame_bytes_max=frame_bytes_max,
            monotonic_seconds=lambda: time.monotonic() if self.now is None else self.now,
        )

    def turn(self, seconds: float = 0.0) -> None:
        """Wait so long for something to do, and do it."""
        due = self.dealer.next_deadline()
        if due is not None and self.now is None:
            seconds = min(seconds, max(0.0, due - time.monotonic()))
        self.poll.poll(1000 * seconds)
        for _ in range(100):
            try:
                message = self.dealer.receive()
            except ProtocolError as error:
                self.errors.append(str(error))
                continue
            if message is None:
                return
            self.heard.append(message)

    def until(self, condition: Callable[[], Any], what: str = "") -> Any:
        def found() -> Any:
            self.turn(0.01)
            return condition()

        return wait_for(found, what=what)


class ZmqServer:
    """The product's own server of workers, which is libzmq's ROUTER."""

    def __init__(self, path: Path) -> None:
        self._context = new_context()
        self.server: Server[bytes, bytes] = Server(self._context, path, receives=bytes)
        self.peers: list[Peer] = []
        self.heard: list[bytes | ProtocolError] = []

    def hear(self) -> "list[bytes | ProtocolError]":
        for peer, message in self.server.drain(1000):
            self.peers.append(peer)
            self.heard.append(message)
        return self.heard

    def say(self, message: bytes) -> bool:
        return self.server.send(NAME.encode(), message)

    def close(self) -> None:
        self.server.close()
        self._context.term()


class RawServer:
    """A listener whose connections the test reads and writes itself."""

    def __init__(self, path: Path, backlog: int = 10) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(backlog)
        self._listener.settimeout(10)
        self._opened: list[socket.socket] = []

    def accept(self, sent: bytes = b"") -> socket.socket:
        opened, _ = self._listener.accept()
        self._opened.append(opened)
        opened.settimeout(10)
        opened.sendall(sent)
        return opened

    def greeted(self, client: Client) -> socket.socket:
        """A connection that is ready on both sides, once the client has connected."""
        client.until(lambda: select.select([self._listener], [], [], 0)[0], "it connects")
        opened = self.accept(OPENING_OF_ROUTER)
        client.turn(1)
        assert read_exactly(opened, len(GREETS)) == GREETS
        return opened

    def close(self) -> None:
        for opened in (self._listener, *self._opened):
            opened.close()


def read_exactly(opened: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count and (data := opened.recv(count - len(found))):
        found += data
    return found


def next_of(opened: socket.socket) -> bytes:
    """The next message of a short frame, which a client has sent."""
    flags, size = read_exactly(opened, 2)
    assert flags == 0
    found: bytes = msgspec.msgpack.decode(read_exactly(opened, size))
    return found


@contextmanager
def place() -> Iterator[Path]:
    """The path of a socket."""
    directory = Path(tempfile.mkdtemp(prefix="gs-"))
    try:
        yield directory / "s"
    finally:
        shutil.rmtree(directory)


@contextmanager
def client_of(path: Path, **options: int) -> Iterator[Client]:
    client = Client(path, **options)
    try:
        yield client
    finally:
        client.dealer.close()


@contextmanager
def zmq_server(path: Path) -> Iterator[ZmqServer]:
    server = ZmqServer(path)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def raw_server(path: Path, backlog: int = 10) -> Iterator[RawServer]:
    server = RawServer(path, backlog)
    try:
        yield server
    finally:
        server.close()
