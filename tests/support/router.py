"""A router that sends every message back, and its peers: libzmq's sockets, and raw bytes."""

import socket
import threading
from pathlib import Path

import zmq
from geosched.ipc.router import Bounds, Router
from geosched.ipc.sockets import Peer, Poller
from geosched.ipc.wire import ProtocolError

GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
HELLO = GREETING + b"\x04)\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
BOUNDS = Bounds(64, 32)


class Echo:
    """Turned by the test itself, or by a thread (`serve`). `now` is the clock that it goes by."""

    def __init__(self, path: Path, bounds: Bounds = BOUNDS) -> None:
        self.now = 1000.0
        self.peers: list[Peer] = []
        self.errors: list[str] = []
        self.waiting: set[bytes] = set()
        self.router: Router[bytes, bytes] = Router(
            path, receives=bytes, bounds=bounds, monotonic_seconds=lambda: self.now
        )
        self._poller = Poller()
        self._poller.watch(self.router.fileno())
        self._leave = threading.Event()
        self._thread: threading.Thread | None = None

    def turn(self, seconds: float = 0.0) -> bool:
        """Turn once, and wait so long for something to do. False where there was nothing."""
        due = self.router.next_deadline()
        at_once = due is not None and due <= self.now
        ready = self._poller.wait(0 if at_once else seconds)
        for peer, message in self.router.drain(50):
            self.peers.append(peer)
            if isinstance(message, ProtocolError):
                self.errors.append(str(message))
            else:
                self.router.send(peer.routing_id, message)
        self.router.expire(self.waiting)
        return at_once or bool(ready)

    def settle(self) -> None:
        """Turn until nothing is left to do."""
        for _ in range(1000):
            if not self.turn(0.05):
                return
        raise AssertionError("it goes on turning")

    def serve(self) -> None:
        def turn() -> None:
            while not self._leave.is_set():
                self.turn(0.02)

        self._thread = threading.Thread(target=turn)
        self._thread.start()

    def close(self) -> None:
        self._leave.set()
        if self._thread is not None:
            self._thread.join(10)
        self.router.close()


class Peers:
    """Makes peers of one socket, and closes them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._context = zmq.Context()
        self._opened: list[zmq.Socket[bytes] | socket.socket] = []

    def zmq(self, kind: int = zmq.DEALER, **options: int | bytes) -> "zmq.Socket[bytes]":
        opened = self._context.socket(kind)
        self._opened.append(opened)
        opened.linger = 0
        opened.rcvtimeo = opened.sndtimeo = 10_000
        for name, value in options.items():
            opened.set(getattr(zmq, name), value)
        opened.connect(f"ipc://{self._path}")
        return opened

    def raw(self, data: bytes = b"") -> socket.socket:
        opened = socket.socket(socket.AF_UNIX)
        self._opened.append(opened)
        opened.settimeout(10)
        opened.connect(str(self._path))
        opened.sendall(data)
        return opened

    def close(self) -> None:
        for opened in self._opened:
            opened.close()
        self._context.term()


def until_closed(peer: socket.socket) -> bytes:
    """What a peer is sent until its connection is closed."""
    found = b""
    try:
        while data := peer.recv(65_536):
            found += data
    except ConnectionResetError:
        pass
    return found


def is_open(peer: socket.socket) -> bool:
    """The connection is open, whatever there is to read."""
    peer.setblocking(False)
    try:
        while peer.recv(65_536):
            pass
    except BlockingIOError:
        return True
    except ConnectionResetError:
        pass
    finally:
        peer.settimeout(10)
    return False
