"""Strict framing of HTTP responses, in place of the lenient one of `http.client`.

`http.client` takes the end of a connection for the end of a header, and a length that is no
number for none: a response that was cut off, or is nonsense, would pass for a whole, empty one.
"""

import http.client
from typing import IO, Any


class FramedResponse(http.client.HTTPResponse):
    """A response whose header is whole, and whose length, if given, is a number."""

    def begin(self) -> None:
        header = _HeaderLines(self.fp)
        self.fp: Any = header  # typeshed knows a BufferedReader here, `begin` needs a reader
        try:
            super().begin()
        finally:
            if self.fp is header:  # else it is closed already: there is no body
                self.fp = header.whole
        for length in self.headers.get_all("Content-Length", ()):
            if not (length.isascii() and length.isdigit()):
                raise http.client.HTTPException(f"Content-Length is {length[:20]!r}")


class _HeaderLines:
    """Reader of whole lines; raises `IncompleteRead` for one that breaks off."""

    def __init__(self, whole: IO[bytes]) -> None:
        self.whole = whole
        self.close = whole.close

    def readline(self, limit: int) -> bytes:
        line = self.whole.readline(limit)
        if len(line) < limit and not line.endswith(b"\n"):
            raise http.client.IncompleteRead(line)
        return line
