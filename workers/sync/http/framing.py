"""Strict framing of HTTP responses, in place of the lenient one of `http.client`.

That takes the end of a connection for the end of a header, a length that is no number for
none, a header line without a name for the end of the header, and half a line, or `-0`, for the
size of the last chunk: a response that was cut off, or is nonsense, would pass for a whole and
empty one. And of the informational responses, which a
client has to read past (RFC 9110, 15.2), it knows only 100.
"""

import http.client
import re
from email.errors import FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect
from typing import IO, Any

#: Informational responses before the final one, and lines in the header of each.
INFORMATIONAL_MAX = 20
INFORMATIONAL_LINES_MAX = 100
#: Any 1xx but 101, which ends the use of HTTP and is never asked for.
_INFORMATIONAL = re.compile(rb"HTTP/1\.[01] 1(?!01)\d\d[ \r\n]")
#: Far more than any body may be long.
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"0*([0-9a-fA-F]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
_CHUNK_LINE_BYTES_MAX = 4096
_DEFECTS = (FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect)


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
        if any(isinstance(defect, _DEFECTS) for defect in self.headers.defects):
            raise http.client.HTTPException("a line of its header has no name")
        lengths = set(self.headers.get_all("Content-Length", ()))
        for length in lengths:
            if not _LENGTH.fullmatch(length) or len(lengths) > 1:
                raise http.client.HTTPException(f"Content-Length is {length[:20]!r}")

    def _read_next_chunk_size(self) -> int:
        """Return the size of the next chunk: hexadecimal digits alone, on a whole line.

        Raises `LineTooLong`, and `IncompleteRead` for anything else: where the body ends is
        then not known.
        """
        line = self.fp.readline(_CHUNK_LINE_BYTES_MAX)
        if len(line) == _CHUNK_LINE_BYTES_MAX:
            raise http.client.LineTooLong("size of a chunk")
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise http.client.IncompleteRead(line)
        return int(size[1], 16)


class _HeaderLines:
    """Reader of whole lines, from the final status line on; raises `IncompleteRead` for one that
    breaks off."""

    def __init__(self, whole: IO[bytes]) -> None:
        self.whole = whole
        self.close = whole.close
        self._begun = False

    def readline(self, limit: int) -> bytes:
        line = self._whole_line(limit)
        if not self._begun:
            self._begun = True
            for _ in range(INFORMATIONAL_MAX):
                if not _INFORMATIONAL.match(line):
                    break
                self._skip_header(limit)
                line = self._whole_line(limit)
        return line

    def _skip_header(self, limit: int) -> None:
        for _ in range(INFORMATIONAL_LINES_MAX):
            if self._whole_line(limit) in (b"\r\n", b"\n"):
                return
        raise http.client.HTTPException("the header of an informational response does not end")

    def _whole_line(self, limit: int) -> bytes:
        line = self.whole.readline(limit)
        if len(line) < limit and not line.endswith(b"\n"):
            raise http.client.IncompleteRead(line)
        return line
