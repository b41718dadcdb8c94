"""Certificates for tests, made for each of them, and what serves and relays TLS."""

import datetime
import select
import socket
import socketserver
import ssl
from pathlib import Path

import trustme

from .loopback import DRIP_SECONDS, Asked, HttpHandler, Listening, Loopback

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


class ProxyHandler(HttpHandler):
    timeout = ANSWER_SECONDS_MAX

    def answer(self, asked: Asked) -> None:
        proxy = self.server.owner
        assert isinstance(proxy, Proxy)
        self.hang_up()
        if proxy.drip:
            self.drip_headers()
        elif proxy.refuse:
            self.wfile.write(f"HTTP/1.1 {proxy.refuse}\r\nContent-Length: 0\r\n\r\n".encode())
        elif asked.method == "CONNECT":
            host, _, port = asked.path.rpartition(":")
            with socket.create_connection((host, int(port)), ANSWER_SECONDS_MAX) as far:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                _relay(self.connection, far)
        else:
            self.reply(200, b"[]")


class Proxy(Loopback):
    """A proxy for HTTPS and HTTP; what it was asked in plain HTTP it answers itself.

    `refuse` is a status line to answer with; `drip`: its answer never comes to an end.
    """

    handler = ProxyHandler

    def __init__(self, *, refuse: str = "", drip: bool = False) -> None:
        self.refuse, self.drip = refuse, drip
        super().__init__()

    @property
    def url(self) -> str:
        return self.url_of()


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


class DrippingHandler(socketserver.StreamRequestHandler):
    server: Listening

    def handle(self) -> None:
        self.wfile.write(b"\x16\x03\x03\x3f\xff")
        while not self.server.owner.released.wait(DRIP_SECONDS):
            self.wfile.write(b"\0")


class Dripping(Loopback):
    """A peer that answers whoever connects byte by byte, for ever: the beginning of a TLS
    record that promises more than ever comes."""

    handler = DrippingHandler

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"
