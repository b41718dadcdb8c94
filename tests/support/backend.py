"""A real HTTP backend on loopback, to be talked to: it serves actions, records reports,
and fails on demand in every way that `FAULTS` names.

    with BackendServer() as backend:
        backend.set_actions([entry("a")])
        backend.fault = "drip-body"
        ... backend.url ...
"""

import contextlib
import functools
import gzip
import json
import os
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from geosched.ipc.messages.sync import BackendAddress, ErrorKind

#: How long between two bytes of an answer that drips.
DRIP_SECONDS = 0.05
MEBIBYTE = 1024 * 1024
HUGE_BYTES = 256 * MEBIBYTE


def entry(
    action_id: str,
    from_date: str = "2026-11-23T08:00:00.000Z",
    to_date: str = "2026-11-23T12:30:00.000Z",
    **fields: Any,
) -> dict[str, Any]:
    """One action as a backend sends it; `fields` add to it or replace."""
    base = {
        "id": action_id,
        "fromDate": from_date,
        "toDate": to_date,
        "shouldBeExecuted": True,
        "appNames": ["Chrome"],
    }
    return {**base, **fields}


def address(kind: str = "http", **fields: Any) -> BackendAddress:
    """Where a backend is, with small bounds; `fields` replace."""
    base: dict[str, Any] = {
        "url": "",
        "path": "",
        "token_file": "",
        "timeout_seconds": 5.0,
        "body_bytes_max": MEBIBYTE,
        "actions_max": 10_000,
    }
    return BackendAddress(kind, **{**base, **fields})


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; `at` is on the monotonic clock."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)


@dataclass
class BackendServer:
    """The backend; all fields may be changed while it runs, from any thread.

    `fault` is a name of `FAULTS` or "", and meets requests of `fault_methods` only. Reports
    are refused one by one (`reject_keys` and `reject_ids`, each to its error) or with their
    whole batch (`poison_keys`, with `poison_status`).
    """

    token: str = ""
    etags: bool = True
    fault: str = ""
    fault_methods: tuple[str, ...] = ("GET", "POST")
    fault_status: int = 503
    fault_headers: dict[str, str] = field(default_factory=dict)
    slow_seconds: float = 5.0
    reject_keys: dict[str, str] = field(default_factory=dict)
    reject_ids: dict[str, str] = field(default_factory=dict)
    ignore_keys: set[str] = field(default_factory=set)
    poison_keys: set[str] = field(default_factory=set)
    poison_status: int = 422
    itemised: bool = True  # answer reports with lists, not with an empty body
    report_answer: bytes | None = None  # exactly this body, whatever was sent
    report_status: int = 200
    report_script: list[tuple[int, bytes]] = field(default_factory=list)  # the next answers
    etag: str = ""  # exactly this ETag, whatever the actions
    body: bytes | None = None  # exactly this body instead of the actions
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self.asked: list[Asked] = []
        self.reports: list[dict[str, Any]] = []  # every one taken, repetitions included
        self.batches: dict[str, int] = {}  # Idempotency-Key: how often it came
        self.released = threading.Event()
        self._actions: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._port}/api"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self.released.clear()
        self._server = _Server(self._port, self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and end every answer that is still being given."""
        self.released.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    def set_actions(self, actions: list[dict[str, Any]]) -> None:
        with self._lock:
            self._actions = list(actions)

    def snapshot(self) -> bytes:
        with self._lock:
            return self.body if self.body is not None else json.dumps(self._actions).encode()

    def statuses(self) -> dict[str, list[str]]:
        """The statuses of each action in the order they first came; each key counts once."""
        with self._lock:
            first = {report["key"]: report for report in reversed(self.reports)}
            found: dict[str, list[str]] = {}
            for report in reversed(first.values()):
                found.setdefault(report["id"], []).append(report["executionStatus"])
            return found

    def take(self, key: str, reports: list[dict[str, Any]]) -> tuple[int, bytes]:
        """Status and body of the answer to a batch."""
        with self._lock:
            self.batches[key] = self.batches.get(key, 0) + 1
            if self.report_script:
                return self.report_script.pop(0)
            keys = {report["key"] for report in reports}
            if keys & self.poison_keys:
                return self.poison_status, b""
            rejected = {key: text for key, text in self.reject_keys.items() if key in keys}
            rejected |= {
                report["key"]: self.reject_ids[report["id"]]
                for report in reports
                if report["id"] in self.reject_ids
            }
            taken = [
                report
                for report in reports
                if report["key"] not in rejected and report["key"] not in self.ignore_keys
            ]
            self.reports += taken
        if self.report_answer is not None or not self.itemised:
            return self.report_status, self.report_answer or b""
        answer = {
            "accepted": [report["key"] for report in taken],
            "rejected": [{"key": key, "error": text} for key, text in rejected.items()],
        }
        return self.report_status, json.dumps(answer).encode()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, backend: BackendServer) -> None:
        self.backend = backend
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        """Without the look-up of our own name that `HTTPServer` makes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def get_request(self) -> tuple[Any, Any]:
        connection, peer = super().get_request()
        if self.backend.tls is not None:
            connection = self.backend.tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, peer

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.backend.fault == RESET_ON_ACCEPT:
            _tear_down(request)  # before a byte is read
        else:
            super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle of an answer are what this is for."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

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

    def do_GET(self) -> None:  # the name that BaseHTTPRequestHandler looks for
        self._answer(self._send_snapshot)

    def do_POST(self) -> None:
        self._answer(self._take_reports)

    def _answer(self, well: Callable[[], None]) -> None:
        backend = self.server.backend
        self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        backend.asked.append(Asked(self.command, self.path, dict(self.headers), self.body))
        if backend.fault and self.command in backend.fault_methods:
            FAULTS[backend.fault](self)
        elif backend.token and self.headers.get("Authorization") != f"Bearer {backend.token}":
            self.reply(401, b"")
        else:
            well()

    def _send_snapshot(self) -> None:
        backend = self.server.backend
        if self.path != "/api/actions":
            self.reply(404, b"")
            return
        body = backend.snapshot()
        headers = {}
        if backend.etags:
            headers["ETag"] = backend.etag or f'"{sha256(body).hexdigest()[:16]}"'
            if self.headers.get("If-None-Match") == headers["ETag"]:
                self.reply(304, b"", **headers)
                return
        self.reply(200, body, **headers)

    def _take_reports(self) -> None:
        if self.path != "/api/actions/status":
            self.reply(404, b"")
            return
        key = self.headers.get("Idempotency-Key", "")
        self.reply(*self.server.backend.take(key, json.loads(self.body)["reports"]))

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
        return self.server.backend.released.wait(seconds)

    def drip(self, text: bytes) -> None:
        for byte in text:
            self.wfile.write(bytes([byte]))
            if self.pause(DRIP_SECONDS):
                return

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests look at `asked`."""


def _slow(handler: _Handler) -> None:
    """A good answer, late."""
    if not handler.pause(handler.server.backend.slow_seconds):
        handler.reply(200, handler.server.backend.snapshot())


def _drip_body(handler: _Handler) -> None:
    handler.head(200, Content_Length="10000")
    handler.drip(b" " * 10_000)


def _drip_headers(handler: _Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(1000):
        handler.drip(f"X-{number}: y\r\n".encode())
        if handler.server.backend.released.is_set():
            return


def _huge(handler: _Handler) -> None:
    """No length, no end: whitespace is valid before any JSON."""
    handler.hang_up()
    handler.head(200, Connection="close")
    for _ in range(HUGE_BYTES // MEBIBYTE):
        handler.wfile.write(b" " * MEBIBYTE)


def _huge_chunks(handler: _Handler) -> None:
    """The same, in chunks."""
    handler.hang_up()
    handler.head(200, Transfer_Encoding="chunked")
    for _ in range(HUGE_BYTES // MEBIBYTE):
        handler.wfile.write(b"100000\r\n" + b" " * MEBIBYTE + b"\r\n")


@functools.cache
def _bomb() -> bytes:
    return gzip.compress(b" " * (64 * MEBIBYTE), compresslevel=1)


def _gzip_bomb(handler: _Handler) -> None:
    handler.reply(200, _bomb(), Content_Encoding="gzip")


def _gzip_nested(handler: _Handler) -> None:
    """A bomb in wrappings, each of which has to be taken off to see the next."""
    handler.reply(200, gzip.compress(gzip.compress(_bomb())), Content_Encoding="gzip, gzip, gzip")


def _gzip_wrapped_often(handler: _Handler) -> None:
    handler.reply(200, b"", Content_Encoding=", ".join(["gzip"] * 50))


def _gzip_cut(handler: _Handler) -> None:
    """The compressed bytes are whole by their length, and end in the middle."""
    body = gzip.compress(handler.server.backend.snapshot())
    handler.reply(200, body[:-12], Content_Encoding="gzip")


def _gzip(handler: _Handler) -> None:
    """Compressed although nobody asked for it, and good."""
    body = gzip.compress(handler.server.backend.snapshot())
    handler.reply(200, body, Content_Encoding="gzip")


def _gzip_garbage(handler: _Handler) -> None:
    handler.reply(200, b"no gzip at all", Content_Encoding="gzip")


def _truncated(handler: _Handler) -> None:
    """Half of what the length promised."""
    handler.hang_up()
    body = handler.server.backend.snapshot()
    handler.head(200, Content_Length=str(len(body)))
    handler.wfile.write(body[: len(body) // 2])


def _truncated_chunks(handler: _Handler) -> None:
    handler.hang_up()
    handler.head(200, Transfer_Encoding="chunked")
    handler.wfile.write(b"2\r\n[]\r\n")


def _truncated_clean(handler: _Handler) -> None:
    """Half, by a server that promised no length: only the JSON tells."""
    handler.hang_up()
    handler.head(200, Connection="close")
    body = handler.server.backend.snapshot()
    handler.wfile.write(body[: len(body) // 2])


def _length_too_small(handler: _Handler) -> None:
    handler.hang_up()
    body = handler.server.backend.snapshot()
    handler.head(200, Content_Length=str(len(body) - 1))
    handler.wfile.write(body)


def _length_too_large(handler: _Handler) -> None:
    handler.hang_up()
    body = handler.server.backend.snapshot()
    handler.head(200, Content_Length=str(len(body) + 1))
    handler.wfile.write(body)


def _cut_but_valid(handler: _Handler) -> None:
    """What came is a whole document, and an empty one; what was promised is more."""
    handler.hang_up()
    handler.head(200, Content_Length=str(len(handler.server.backend.snapshot())))
    handler.wfile.write(b"[]")


def _length_negative(handler: _Handler) -> None:
    handler.hang_up()
    handler.head(200, Content_Length="-1")


def _lengths_differ(handler: _Handler) -> None:
    """Two lengths: who takes the first reads an empty list."""
    handler.hang_up()
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n[]")


def _chunk_size_garbage(handler: _Handler) -> None:
    handler.hang_up()
    handler.head(200, Transfer_Encoding="chunked")
    handler.wfile.write(b"zz\r\n[]\r\n0\r\n\r\n")


def _chunk_line_endless(handler: _Handler) -> None:
    handler.hang_up()
    handler.head(200, Transfer_Encoding="chunked")
    for _ in range(HUGE_BYTES // MEBIBYTE):
        handler.wfile.write(b"1" * MEBIBYTE)


def _trailers_endless(handler: _Handler) -> None:
    """A whole body, and trailers after it without an end."""
    handler.hang_up()
    handler.head(200, Transfer_Encoding="chunked")
    handler.wfile.write(b"2\r\n[]\r\n0\r\n")
    _go_on(handler, b"X-More: y\r\n")


def _continue_endless(handler: _Handler) -> None:
    """An answer is announced again and again, and never begins."""
    handler.hang_up()
    _go_on(handler, b"HTTP/1.1 100 Continue\r\n\r\n")


def _go_on(handler: _Handler, text: bytes) -> None:
    while not handler.server.backend.released.is_set():
        handler.wfile.write(text * 1000)


def _many_headers(handler: _Handler) -> None:
    handler.hang_up()
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-Many: y\r\n" * 10_000 + b"\r\n[]")


def _cut_in_header(handler: _Handler) -> None:
    handler.hang_up()
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Ty")


def _cut_after_header_line(handler: _Handler) -> None:
    """Whoever does not miss the empty line reads a good answer without a body."""
    handler.hang_up()
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")


def _reset_in_header(handler: _Handler) -> None:
    _cut_in_header(handler)
    _tear_down(handler.connection)


def _reset_in_body(handler: _Handler) -> None:
    """In the middle of a body that promised no length."""
    handler.hang_up()
    handler.head(200, Connection="close")
    body = handler.server.backend.snapshot()
    handler.wfile.write(body[: len(body) // 2])
    _tear_down(handler.connection)


def _many_entries(handler: _Handler) -> None:
    """Small ones, and very many of them."""
    handler.reply(200, b"[" + b",".join([b"{}"] * 300_000) + b"]")


def _too_many(handler: _Handler) -> None:
    """Good ones, more than may be."""
    far = {"from_date": "2100-01-01T00:00Z", "to_date": "2100-01-02T00:00Z", "appNames": []}
    handler.reply(200, json.dumps([entry(f"more-{n}", **far) for n in range(5_000)]).encode())


def _no_http(handler: _Handler) -> None:
    handler.hang_up()
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


def _long_header(handler: _Handler) -> None:
    handler.hang_up()
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: " + b"y" * 200_000 + b"\r\n\r\n")


def _tear_down(connection: socket.socket) -> None:
    """End a connection by a reset, instead of closing it."""
    linger_none = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)
    connection.close()


def _reset(handler: _Handler) -> None:
    """The request is read, and the connection is gone."""
    handler.hang_up()
    _tear_down(handler.connection)


def _close(handler: _Handler) -> None:
    """The request is read, and nothing is said."""
    handler.hang_up()


def _redirect(handler: _Handler) -> None:
    """Elsewhere, with a body that never ends: it is not to be read."""
    handler.hang_up()
    handler.head(302, Location="http://user:secret@127.0.0.1:9/elsewhere?token=secret")
    for _ in range(HUGE_BYTES // MEBIBYTE):
        handler.wfile.write(b" " * MEBIBYTE)


def _status(handler: _Handler) -> None:
    backend = handler.server.backend
    handler.reply(backend.fault_status, b'{"error": "no"}', **backend.fault_headers)


def _with_body(body: bytes, **headers: str) -> Callable[[_Handler], None]:
    return lambda handler: handler.reply(200, body, **headers)


RESET_ON_ACCEPT = "reset-on-accept"
#: Compressed although nobody asked for it: odd, and to be read all the same.
GOOD_DESPITE_ITS_NAME = "gzip"

FAULTS: dict[str, Callable[[_Handler], None]] = {
    # Slow, and without an end.
    "slow": _slow,
    "drip-body": _drip_body,
    "drip-headers": _drip_headers,
    "continue-endless": _continue_endless,
    "trailers-endless": _trailers_endless,
    "chunk-line-endless": _chunk_line_endless,
    "huge": _huge,
    "huge-chunks": _huge_chunks,
    # Packed.
    "gzip": _gzip,
    "gzip-bomb": _gzip_bomb,
    "gzip-nested": _gzip_nested,
    "gzip-wrapped-often": _gzip_wrapped_often,
    "gzip-garbage": _gzip_garbage,
    "gzip-cut": _gzip_cut,
    # Cut, or of another length than promised.
    "truncated": _truncated,
    "truncated-chunks": _truncated_chunks,
    "truncated-clean": _truncated_clean,
    "cut-but-valid": _cut_but_valid,
    "cut-in-header": _cut_in_header,
    "cut-after-header-line": _cut_after_header_line,
    "length-too-small": _length_too_small,
    "length-too-large": _length_too_large,
    "length-negative": _length_negative,
    "lengths-differ": _lengths_differ,
    "chunk-size-garbage": _chunk_size_garbage,
    # Connections that break.
    RESET_ON_ACCEPT: _reset,
    "reset": _reset,
    "reset-in-header": _reset_in_header,
    "reset-in-body": _reset_in_body,
    "close": _close,
    # Not what was asked for.
    "no-http": _no_http,
    "long-header": _long_header,
    "many-headers": _many_headers,
    "redirect": _redirect,
    "status": _status,
    "garbage": _with_body(bytes(range(256))),
    "html": _with_body(b"<!doctype html><p>Welcome to the hotel", Content_Type="text/html"),
    "empty": _with_body(b""),
    "deep": _with_body(b"[" * 200_000),
    "many-entries": _many_entries,
    "too-many": _too_many,
    "not-utf8": _with_body(b'[{"id": "\xff\xfe"}]'),
    "utf16": _with_body("[]".encode("utf-16")),
    "wrong-shape": _with_body(b'{"data": []}'),
    "trpc-error": _with_body(b'{"error": {"message": "no"}}'),
    "two-documents": _with_body(b"[][]"),
    "number": _with_body(b"42"),
    "null": _with_body(b"null"),
}

#: What each of them is to a pull.
KIND_OF_FAULT = {
    "slow": ErrorKind.TIMEOUT,
    "drip-body": ErrorKind.TIMEOUT,
    "drip-headers": ErrorKind.TIMEOUT,
    "continue-endless": ErrorKind.TIMEOUT,
    "trailers-endless": ErrorKind.TIMEOUT,
    "chunk-line-endless": ErrorKind.BAD_ANSWER,
    "huge": ErrorKind.TOO_LARGE,
    "huge-chunks": ErrorKind.TOO_LARGE,
    "gzip-bomb": ErrorKind.TOO_LARGE,
    "gzip-nested": ErrorKind.TOO_LARGE,
    "gzip-wrapped-often": ErrorKind.BAD_ANSWER,
    "gzip-garbage": ErrorKind.BAD_ANSWER,
    "gzip-cut": ErrorKind.BAD_ANSWER,
    "truncated": ErrorKind.UNREACHABLE,
    "truncated-chunks": ErrorKind.UNREACHABLE,
    "truncated-clean": ErrorKind.BAD_ANSWER,
    "cut-but-valid": ErrorKind.UNREACHABLE,
    "cut-in-header": ErrorKind.UNREACHABLE,
    "cut-after-header-line": ErrorKind.UNREACHABLE,
    "length-too-small": ErrorKind.BAD_ANSWER,
    "length-too-large": ErrorKind.UNREACHABLE,
    "length-negative": ErrorKind.BAD_ANSWER,
    "lengths-differ": ErrorKind.BAD_ANSWER,
    "chunk-size-garbage": ErrorKind.UNREACHABLE,
    "no-http": ErrorKind.BAD_ANSWER,
    "long-header": ErrorKind.BAD_ANSWER,
    "many-headers": ErrorKind.BAD_ANSWER,
    RESET_ON_ACCEPT: ErrorKind.UNREACHABLE,
    "reset": ErrorKind.UNREACHABLE,
    "reset-in-header": ErrorKind.UNREACHABLE,
    "reset-in-body": ErrorKind.UNREACHABLE,
    "close": ErrorKind.UNREACHABLE,
    "redirect": ErrorKind.REFUSED,
    "status": ErrorKind.BUSY,
    "garbage": ErrorKind.BAD_ANSWER,
    "html": ErrorKind.BAD_ANSWER,
    "empty": ErrorKind.BAD_ANSWER,
    "deep": ErrorKind.BAD_ANSWER,
    "many-entries": ErrorKind.TOO_LARGE,
    "too-many": ErrorKind.TOO_LARGE,
    "not-utf8": ErrorKind.BAD_ANSWER,
    "utf16": ErrorKind.BAD_ANSWER,
    "wrong-shape": ErrorKind.BAD_ANSWER,
    "trpc-error": ErrorKind.BAD_ANSWER,
    "two-documents": ErrorKind.BAD_ANSWER,
    "number": ErrorKind.BAD_ANSWER,
    "null": ErrorKind.BAD_ANSWER,
}
