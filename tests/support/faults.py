"""Ways in which a backend over HTTP fails, by name, and what each of them is to a pull."""

import functools
import gzip
import json
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from geosched.ipc.messages.sync import ErrorKind

from .loopback import tear_down

if TYPE_CHECKING:
    from .backend import BackendHandler

MEBIBYTE = 1024 * 1024
HUGE_BYTES = 256 * MEBIBYTE
BOMB_MEBIBYTES = 64
GZIP_HEAD_BYTES = 10


def _slow(handler: "BackendHandler") -> None:
    """A good answer, late."""
    if not handler.pause(handler.backend.slow_seconds):
        handler.reply(200, handler.backend.snapshot())


def _drip_body(handler: "BackendHandler") -> None:
    handler.head(200, Content_Length="10000")
    handler.drip(b" " * 10_000)


def _drip_headers(handler: "BackendHandler") -> None:
    handler.drip_headers()


def _huge(handler: "BackendHandler") -> None:
    """No length, no end: whitespace is valid before any JSON."""
    handler.hang_up()
    handler.head(200, Connection="close")
    for _ in range(HUGE_BYTES // MEBIBYTE):
        handler.wfile.write(b" " * MEBIBYTE)


def _huge_chunks(handler: "BackendHandler") -> None:
    """The same, in chunks."""
    handler.hang_up()
    handler.head(200, Transfer_Encoding="chunked")
    for _ in range(HUGE_BYTES // MEBIBYTE):
        handler.wfile.write(b"100000\r\n" + b" " * MEBIBYTE + b"\r\n")


@functools.cache
def _bomb() -> bytes:
    """Put together from copies of one compressed mebibyte: to compress all of them takes as
    long as the whole exchange may."""
    spaces = b" " * MEBIBYTE
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packing.compress(spaces) + packing.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(BOMB_MEBIBYTES):
        checksum = zlib.crc32(spaces, checksum)
    end = packing.flush() + struct.pack("<II", checksum, BOMB_MEBIBYTES * MEBIBYTE)
    return gzip.compress(b"")[:GZIP_HEAD_BYTES] + packed * BOMB_MEBIBYTES + end


def _gzip_bomb(handler: "BackendHandler") -> None:
    handler.reply(200, _bomb(), Content_Encoding="gzip")


def _gzip_nested(handler: "BackendHandler") -> None:
    """A bomb in wrappings, each of which has to be taken off to see the next."""
    handler.reply(200, gzip.compress(gzip.compress(_bomb())), Content_Encoding="gzip, gzip, gzip")


def _gzip_wrapped_often(handler: "BackendHandler") -> None:
    handler.reply(200, b"", Content_Encoding=", ".join(["gzip"] * 50))


def _gzip_cut(handler: "BackendHandler") -> None:
    """The compressed bytes are whole by their length, and end in the middle."""
    body = gzip.compress(handler.backend.snapshot())
    handler.reply(200, body[:-12], Content_Encoding="gzip")


def _gzip(handler: "BackendHandler") -> None:
    """Compressed although nobody asked for it, and good."""
    body = gzip.compress(handler.backend.snapshot())
    handler.reply(200, body, Content_Encoding="gzip")


def _gzip_garbage(handler: "BackendHandler") -> None:
    handler.reply(200, b"no gzip at all", Content_Encoding="gzip")


def _truncated(handler: "BackendHandler") -> None:
    """Half of what the length promised."""
    handler.hang_up()
    body = handler.backend.snapshot()
    handler.head(200, Content_Length=str(len(body)))
    handler.wfile.write(body[: len(body) // 2])


def _truncated_chunks(handler: "BackendHandler") -> None:
    handler.hang_up()
    handler.head(200, Transfer_Encoding="chunked")
    handler.wfile.write(b"2\r\n[]\r\n")


def _truncated_clean(handler: "BackendHandler") -> None:
    """Half, by a server that promised no length: only the JSON tells."""
    handler.hang_up()
    handler.head(200, Connection="close")
    body = handler.backend.snapshot()
    handler.wfile.write(body[: len(body) // 2])


def _length_too_small(handler: "BackendHandler") -> None:
    handler.hang_up()
    body = handler.backend.snapshot()
    handler.head(200, Content_Length=str(len(body) - 1))
    handler.wfile.write(body)


def _length_too_large(handler: "BackendHandler") -> None:
    handler.hang_up()
    body = handler.backend.snapshot()
    handler.head(200, Content_Length=str(len(body) + 1))
    handler.wfile.write(body)


def _cut_but_valid(handler: "BackendHandler") -> None:
    """What came is a whole document, and an empty one; what was promised is more."""
    handler.hang_up()
    handler.head(200, Content_Length=str(len(handler.backend.snapshot())))
    handler.wfile.write(b"[]")


def _length_negative(handler: "BackendHandler") -> None:
    handler.hang_up()
    handler.head(200, Content_Length="-1")


def _lengths_differ(handler: "BackendHandler") -> None:
    """Two lengths: who takes the first reads an empty list."""
    handler.hang_up()
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n[]")


def _chunk_size_garbage(handler: "BackendHandler") -> None:
    handler.hang_up()
    handler.head(200, Transfer_Encoding="chunked")
    handler.wfile.write(b"zz\r\n[]\r\n0\r\n\r\n")


def _chunk_line_endless(handler: "BackendHandler") -> None:
    handler.hang_up()
    handler.head(200, Transfer_Encoding="chunked")
    for _ in range(HUGE_BYTES // MEBIBYTE):
        handler.wfile.write(b"1" * MEBIBYTE)


def _trailers_endless(handler: "BackendHandler") -> None:
    """A whole body, and trailers after it without an end."""
    handler.hang_up()
    handler.head(200, Transfer_Encoding="chunked")
    handler.wfile.write(b"2\r\n[]\r\n0\r\n")
    _go_on(handler, b"X-More: y\r\n")


def _continue_endless(handler: "BackendHandler") -> None:
    """An answer is announced again and again, and never begins."""
    handler.hang_up()
    _go_on(handler, b"HTTP/1.1 100 Continue\r\n\r\n")


def _go_on(handler: "BackendHandler", text: bytes) -> None:
    while not handler.backend.released.is_set():
        handler.wfile.write(text * 1000)


def _many_headers(handler: "BackendHandler") -> None:
    handler.hang_up()
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-Many: y\r\n" * 10_000 + b"\r\n[]")


def _cut_in_header(handler: "BackendHandler") -> None:
    handler.hang_up()
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Ty")


def _cut_after_header_line(handler: "BackendHandler") -> None:
    """Whoever does not miss the empty line reads a good answer without a body."""
    handler.hang_up()
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")


def _reset_in_header(handler: "BackendHandler") -> None:
    _cut_in_header(handler)
    tear_down(handler.connection)


def _reset_in_body(handler: "BackendHandler") -> None:
    """In the middle of a body that promised no length."""
    handler.hang_up()
    handler.head(200, Connection="close")
    body = handler.backend.snapshot()
    handler.wfile.write(body[: len(body) // 2])
    tear_down(handler.connection)


def _many_entries(handler: "BackendHandler") -> None:
    """Small ones, and very many of them."""
    handler.reply(200, b"[" + b",".join([b"{}"] * 300_000) + b"]")


def _too_many(handler: "BackendHandler") -> None:
    """Good ones, more than may be."""
    far = {"fromDate": "2100-01-01T00:00Z", "toDate": "2100-01-02T00:00Z"}
    one = {**far, "shouldBeExecuted": True, "appNames": []}
    handler.reply(200, json.dumps([{"id": f"more-{n}", **one} for n in range(5_000)]).encode())


def _no_http(handler: "BackendHandler") -> None:
    handler.hang_up()
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


def _long_header(handler: "BackendHandler") -> None:
    handler.hang_up()
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: " + b"y" * 200_000 + b"\r\n\r\n")


def _reset(handler: "BackendHandler") -> None:
    """The request is read, and the connection is gone."""
    handler.hang_up()
    tear_down(handler.connection)


def _close(handler: "BackendHandler") -> None:
    """The request is read, and nothing is said."""
    handler.hang_up()


def _redirect(handler: "BackendHandler") -> None:
    """Elsewhere, with a body that never ends: it is not to be read."""
    handler.hang_up()
    handler.head(302, Location="http://user:secret@127.0.0.1:9/elsewhere?token=secret")
    for _ in range(HUGE_BYTES // MEBIBYTE):
        handler.wfile.write(b" " * MEBIBYTE)


def _status(handler: "BackendHandler") -> None:
    backend = handler.backend
    handler.reply(backend.fault_status, b'{"error": "no"}', **backend.fault_headers)


def _with_body(body: bytes, **headers: str) -> Callable[["BackendHandler"], None]:
    return lambda handler: handler.reply(200, body, **headers)


RESET_ON_ACCEPT = "reset-on-accept"
#: Compressed although nobody asked for it: odd, and to be read all the same.
GOOD_DESPITE_ITS_NAME = "gzip"

FAULTS: dict[str, Callable[["BackendHandler"], None]] = {
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
    "gzip-nested": ErrorKind.BAD_ANSWER,
    "gzip-wrapped-often": ErrorKind.BAD_ANSWER,
    "gzip-garbage": ErrorKind.BAD_ANSWER,
    "gzip-cut": ErrorKind.UNREACHABLE,
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
