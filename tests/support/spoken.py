"""A server that answers every request with the same bytes, whatever they are."""

import socketserver
from typing import Any

from .loopback import Loopback


class SpokenHandler(socketserver.StreamRequestHandler):
    server: Any

    def handle(self) -> None:
        length = 0
        while (line := self.rfile.readline()).strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        self.rfile.read(length)
        self.wfile.write(self.server.owner.said)


class Spoken(Loopback):
    """Answers every request with the same bytes, and hangs up."""

    handler = SpokenHandler

    def __init__(self, said: bytes) -> None:
        self.said = said
        super().__init__()
