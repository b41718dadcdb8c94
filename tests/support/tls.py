"""Certificates for tests, made for each of them, and what serves and relays TLS."""

import contextlib
import datetime
import select
import socket
import socketserver
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

DRIP_SECONDS = 0.05
ANSWER_SECONDS_MAX = 10.0


def authority() -> trustme.CA:
    return trustme.CA()


def ca_file(ca: trustme.CA, directory: Path, name: str = "ca.pem") -> str:
    path = directory / name
    ca.cert_pem.write_to_path(str(path))
    return str(path)


def client_files(ca: trustme.CA, directory: Path) -> dict[str, str]:
    """Our own certificate and its key, by the names that an address has for them."""
    issued = ca.issue_cert("device-1")
    cert, key = directory / "client.pem", directory / "client.key"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    key.touch(mode=0o600)
    issued.private_key_pem.write_to_path(str(key))
    return {"client_cert": str(cert), "client_key": str(key)}


def server_context(
    ca: trustme.CA, *names: str, valid_days: tuple[float, float] = (-1, 1)
) -> ssl.SSLContext:
    """Of a server that is called `names`, with a certificate valid from and to so many days
    from now."""
    now = datetime.datetime.now(datetime.UTC)
    begins, ends = (now + datetime.timedelta(days=days) for days in valid_days)
    issued = ca.issue_cert(*(names or ("127.0.0.1",)), not_before=begins, not_after=ends)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    return context


@dataclass
class Proxy:
    """A CONNECT proxy. `refuse` is a status line to answer with; `drip`: its answer never
    comes to an end; `asked` are the first lines of what it was asked, whole requests of
    plain HTTP in `heads`."""

    refuse: str = ""
    drip: bool = False
    asked: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.released = threading.Event()
        self._server = _ProxyServer(self)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


class _ProxyServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _ProxyHandler)


class _ProxyHandler(socketserver.StreamRequestHandler):
    server: _ProxyServer
    timeout = ANSWER_SECONDS_MAX

    def handle(self) -> None:
        proxy = self.server.proxy
        first = self.rfile.readline().decode().strip()
        head = first
        while (line := self.rfile.readline().decode().strip()) != "":
            head += f"\n{line}"
        proxy.asked.append(first)
        proxy.heads.append(head)
        with contextlib.suppress(OSError):
            self._answer(first)

    def _answer(self, first: str) -> None:
        proxy = self.server.proxy
        if proxy.drip:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not proxy.released.wait(DRIP_SECONDS):
                self.wfile.write(b"X: y\r\n")
        elif proxy.refuse:
            self.wfile.write(f"HTTP/1.1 {proxy.refuse}\r\nContent-Length: 0\r\n\r\n".encode())
        elif first.startswith("CONNECT "):
            host, _, port = first.split()[1].rpartition(":")
            with socket.create_connection((host, int(port)), ANSWER_SECONDS_MAX) as far:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                _relay(self.connection, far)
        else:
            body = b"[]"
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            self.wfile.write(head.encode() + body)


def _relay(near: socket.socket, far: socket.socket) -> None:
    """Both ways, until either side ends."""
    ends = {near: far, far: near}
    while True:
        readable, _, _ = select.select(list(ends), [], [], ANSWER_SECONDS_MAX)
        for end in readable:
            data = end.recv(65536)
            if not data:
                return
            ends[end].sendall(data)
        if not readable:
            return


class Dripping:
    """A peer that answers whoever connects byte by byte, for ever: the beginning of a TLS
    record that promises more than ever comes."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._listening.getsockname()[1]}"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listening.accept()
            with connection:
                connection.sendall(b"\x16\x03\x03\x3f\xff")
                while not self._ended.wait(DRIP_SECONDS):
                    connection.sendall(b"\0")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._listening.close()
