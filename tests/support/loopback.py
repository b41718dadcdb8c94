"""Servers on loopback, each in threads of its own: what all that tests talk to have in common."""

import contextlib
import os
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

#: How long between two bytes of an answer that drips.
DRIP_SECONDS = 0.05
#: How often a server looks whether it was told to stop.
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; `at` is on the monotonic clock."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)


class Served:
    """Something that runs from its making until `stop`, or the end of a `with`."""

    def stop(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Loopback(Served):
    """A port, whose connections are each handled by a `handler` in a thread of its own.

    `asked` are the requests that came over HTTP; `released` is set for answers that go on
    until they are told to end. `tls` may be changed while it runs.
    """

    handler: type[socketserver.StreamRequestHandler]
    tls: ssl.SSLContext | None = None

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.released = threading.Event()
        self.port = 0
        self._lock = threading.Lock()
        self._listening: Listening | None = None
        self.start()

    def start(self) -> None:
        """Listen, on the same port as before."""
        self.released.clear()
        self._listening = Listening(self)
        self.port = self._listening.server_address[1]
        serve = self._listening.serve_forever
        threading.Thread(target=serve, args=(LOOK_SECONDS,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and end every answer that is still being given."""
        self.released.set()
        if self._listening is not None:
            self._listening.shutdown()
            self._listening.server_close()
            self._listening = None

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    def url_of(self, path: str = "") -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}{path}"

    def lets_in(self, connection: socket.socket) -> bool:
        """Whether a connection is handled; called before a byte of it is read."""
        return True


class Listening(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, owner: Loopback) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", owner.port), owner.handler)

    def get_request(self) -> tuple[Any, Any]:
        connection, peer = super().get_request()
        if self.owner.tls is not None:
            connection = self.owner.tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, peer

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.owner.lets_in(request):
            super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle of an answer are what this is for."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class HttpHandler(BaseHTTPRequestHandler):
    """Notes each request with the owner and has it answered, well or in pieces."""

    protocol_version = "HTTP/1.1"
    server: Listening

    def handle(self) -> None:
        """With TLS, the handshake first. A peer that is refused has to hear why: what it
        has sent is read to the end, for a reset could overtake the word."""
        if isinstance(self.connection, ssl.SSLSocket):
            raw = socket.socket(fileno=os.dup(self.connection.fileno()))
            try:
                self.connection.do_handshake()
            except OSError:
                with contextlib.suppress(OSError):
                    raw.shutdown(socket.SHUT_WR)
                    while raw.recv(65536):
                        pass
                return
            finally:
                raw.close()
        super().handle()

    def answer(self, asked: Asked) -> None:
        raise NotImplementedError

    def _receive(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        asked = Asked(self.command, self.path, dict(self.headers), body)
        self.server.owner.asked.append(asked)
        self.answer(asked)

    # The names that BaseHTTPRequestHandler looks for.
    do_GET = do_POST = do_CONNECT = _receive  # noqa: N815

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        """A whole answer. Keyword names stand for headers, with `_` for `-`."""
        self.head(status, Content_Length=str(len(body)), **headers)
        self.wfile.write(body)

    def head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def pause(self, seconds: float) -> bool:
        """Whether the server was told to stop within so long."""
        return self.server.owner.released.wait(seconds)

    def drip(self, text: bytes) -> None:
        for byte in text:
            self.wfile.write(bytes([byte]))
            if self.pause(DRIP_SECONDS):
                return

    def drip_headers(self) -> None:
        """The beginning of an answer whose headers come to no end."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.server.owner.released.is_set():
            self.drip(b"X: y\r\n")

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests look at `asked`."""


def tear_down(connection: socket.socket) -> None:
    """End a connection by a reset, instead of closing it."""
    linger_none = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)
    connection.close()
