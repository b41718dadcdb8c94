"""Targets: what backends and token servers answer, by its body alone and by way of HTTP."""

import contextlib
import io
import math
import socket
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
import urllib3.connection
from geosched.ipc.messages import login
from geosched.ipc.messages.sync import (
    RETRY_AFTER_SECONDS_MAX,
    BackendAddress,
    ExchangeFailed,
    FromSynchroniser,
    Page,
    Pull,
    Pulled,
    Report,
    Send,
)
from geosched.ipc.wire import SYNC_FRAME_BYTES_MAX
from geosched.workers.sync.auth import device_flow, oauth
from geosched.workers.sync.backends import trpc
from geosched.workers.sync.base import ExchangeError, Snapshot
from geosched.workers.sync.bodies.snapshot import decode_strictly, read_snapshot
from geosched.workers.sync.bodies.status_reports import read_verdicts
from geosched.workers.sync.http.client import Exchange, Response
from geosched.workers.sync.http.coding import CodingError, CutShortError, unpack
from geosched.workers.sync.http.errors import refusal, retry_after_seconds
from geosched.workers.sync.http.framing import FramedResponse
from geosched.workers.sync.synchroniser import carry_out

from .oracle import Feed, Target

_HERE = "http://127.0.0.1:9"
_NOW_US = 1_795_000_000_000_000
_BODY_BYTES_MAX = 256 * 1024
_BACKEND = BackendAddress(
    "http", f"{_HERE}/api", timeout_seconds=30.0, max_body_bytes=_BODY_BYTES_MAX, max_actions=1000
)
_REPORTS = tuple(
    Report(f"g-{number}", "a", "FINISHED", _NOW_US, 1, "r", 0, None, "completed")
    for number in range(3)
)


# --- bodies ----------------------------------------------------------------------------


def _snapshot(unwrap: Callable[[bytes], list[msgspec.Raw]] | None) -> Callable[[Path], Feed]:
    order = Pull(1, _BACKEND, _NOW_US)
    ways = () if unwrap is None else (unwrap,)

    def feed(data: bytes) -> bool:
        found = read_snapshot(data, "", order, *ways)
        return isinstance(found, Snapshot) and bool(found.actions)

    return lambda _: feed


def _verdicts(data: bytes) -> bool:
    accepted, refused = read_verdicts(data, _REPORTS)
    assert {*accepted} | refused.keys() <= {report.key for report in _REPORTS}
    return True


def _trpc_error(data: bytes) -> bool:
    return trpc.error_in(data, 500, {}, _HERE) is not None


def _coding(data: bytes) -> bool:
    """The first byte chooses the coding."""
    coding = ("gzip", "deflate", "x-gzip", "identity", "br")[data[0] % 5 if data else 0]
    assert len(unpack(data[1:], coding, 4096)) <= max(4097, len(data))
    return True


def _dates(data: bytes) -> bool:
    later, _, now = data.decode("latin-1").partition("|")
    headers = {"Retry-After": later, "Date": now}
    seconds = retry_after_seconds(headers)
    assert 0 <= seconds <= RETRY_AFTER_SECONDS_MAX
    refusal(503, headers, later)
    refusal(302, {"Location": now}, later)
    return seconds > 0


def _granted(data: bytes) -> bool:
    granted = decode_strictly(data, oauth._decode_granted, "tokens")
    assert 0 <= granted.life_seconds <= oauth.LIFE_SECONDS_MAX
    decode_strictly(data, oauth._decode_error, "answer")
    return True


def _said(data: bytes) -> bool:
    said = login.decode(data)
    assert login.decode(login.encode(said)) == said
    return True


# --- by way of HTTP --------------------------------------------------------------------


class _Peer:
    """Connects everybody to a socket that answers with `data` and closes, whatever is asked."""

    def __init__(self) -> None:
        self.data = b""
        self._opened: list[socket.socket] = []

    def connect(self, *_: object, **__: object) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.sendall(self.data)
        theirs.shutdown(socket.SHUT_WR)
        self._opened.append(theirs)
        return ours

    def hang_up(self) -> None:
        while self._opened:
            self._opened.pop().close()


@contextlib.contextmanager
def _answering() -> Iterator[_Peer]:
    peer = _Peer()
    with mock.patch.object(urllib3.connection.connection, "create_connection", peer.connect):
        try:
            yield peer
        finally:
            peer.hang_up()


def _exchanged(order: Pull | Send) -> Callable[[Path], Feed]:
    """What the synchroniser sends for an answer fits its socket, and can be read there."""
    decode = msgspec.msgpack.Decoder(FromSynchroniser).decode

    def feed(data: bytes) -> bool:
        with _answering() as peer:
            peer.data = data
            messages = list(carry_out(order))
        for message in messages:
            packed = msgspec.msgpack.encode(message)
            assert len(packed) <= SYNC_FRAME_BYTES_MAX
            assert decode(packed) == message
        *pages, last = messages
        assert all(isinstance(page, Page) for page in pages)
        assert not pages or isinstance(last, Pulled)
        return not isinstance(last, ExchangeFailed)

    return lambda _: feed


class _Answer:
    """In the place of a connected socket: gives these bytes, and takes any."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._data)

    def sendall(self, _: bytes) -> None:
        pass

    def close(self) -> None:
        pass

    settimeout = sendall


class _Connection(urllib3.connection.HTTPConnection):
    response_class = FramedResponse


def _framing(_: Path) -> Feed:
    """Our client without `requests` and its connections, which take ten times as long."""
    exchange = Exchange(msgspec.structs.replace(_BACKEND, timeout_seconds=86_400.0))
    exchange.deadline.__enter__()

    def feed(data: bytes) -> bool:
        connection = _Connection("127.0.0.1", 9)
        connection.sock = _Answer(data)
        with exchange.errors_of(_HERE):
            connection.request("GET", "/", preload_content=False, decode_content=False)
            raw = connection.getresponse()
        head = SimpleNamespace(status_code=raw.status, headers=raw.headers, raw=raw)
        answer = Response(exchange, _HERE, head, "token")
        body = answer.read()
        assert len(body) <= _BODY_BYTES_MAX
        answer.refusal()
        return bool(body)

    return feed


def _actions_file(directory: Path) -> Feed:
    """The backend that is a file, whoever writes it."""
    path = directory / "actions.json"
    where = msgspec.structs.replace(_BACKEND, kind="file", path=str(path))
    read = _exchanged(Pull(1, where, _NOW_US))(directory)

    def feed(data: bytes) -> bool:
        path.write_bytes(data)
        return read(b"")

    return feed


def _with_tokens(directory: Path) -> BackendAddress:
    changes: dict[str, Any] = {
        "auth": "oauth",
        "token_file": str(directory / "tokens.json"),
        "oauth_token_url": f"{_HERE}/token",
        "oauth_device_url": f"{_HERE}/device",
        "oauth_client_id": "client",
    }
    return msgspec.structs.replace(_BACKEND, **changes)


def _token_server(directory: Path) -> Feed:
    backend = _with_tokens(directory)
    asked = {"grant_type": "refresh_token", "refresh_token": "old"}

    def feed(data: bytes) -> bool:
        with _answering() as peer, Exchange(backend) as exchange:
            peer.data = data
            tokens = oauth.grant(exchange, 1.0, asked)
        assert math.isfinite(tokens.expires_at)
        assert msgspec.json.decode(msgspec.json.encode(tokens), type=type(tokens)) == tokens
        return True

    return feed


def _device_server(directory: Path) -> Feed:
    backend = _with_tokens(directory)

    def pause(seconds: float) -> None:
        assert 0 < seconds <= device_flow.INTERVAL_SECONDS_MAX + device_flow.SLOW_DOWN_SECONDS
        raise device_flow.NotLoggedInError(login.Why.NOT_CONFIRMED, "enough")

    def say(said: login.Said) -> None:
        assert login.decode(login.encode(said)) == said
        if isinstance(said, login.CodeGiven):
            shown.append(said)

    shown: list[login.CodeGiven] = []

    def feed(data: bytes) -> bool:
        shown.clear()
        with _answering() as peer:
            peer.data = data
            with contextlib.suppress(device_flow.NotLoggedInError):
                device_flow.log_in(backend, 60.0, say, pause)
        return bool(shown)

    return feed


def _http(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = (b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers)
    return b"\r\n".join((*lines, b"", body))


def _chunked(body: bytes, *headers: bytes) -> bytes:
    lines = (b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", *headers, b"")
    return b"\r\n".join((*lines, b"%x" % len(body), body, b"0", b"", b""))


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(body) + packer.flush()


_ENTRY = (
    b'{"id":"a","fromDate":"2026-11-23T08:00:00.000Z","toDate":"2026-11-23T12:30:00+01:00",'
    b'"shouldBeExecuted":true,"appNames":["Chrome"],"type":"default","args":{"a":[1,2.5e1]}}'
)
_OTHER = _ENTRY.replace(b'"a"', b'"\\u00e9b"', 1).replace(b"30:00+", b"30:60.1234567+")
_ACTIONS = b"[" + _ENTRY + b"," + _OTHER + b"]"
_SUPERJSON = b'{"result":{"data":{"json":' + _ACTIONS + b',"meta":{"values":{}}}}}'
_ERROR = (
    b'{"error":{"json":{"message":"NOT_FOUND","code":-32004,"data":{"code":"NOT_FOUND",'
    b'"httpStatus":404,"path":"actions.getAll"}}}}'
)
_VERDICTS = b'{"accepted":["g-0","g-1"],"rejected":[{"key":"g-2","error":"unknown"}]}'
_TOKENS = b'{"access_token":"abc","token_type":"bearer","expires_in":3600,"refresh_token":"d"}'
_DENIED = b'{"error":"slow_down","error_description":"later"}'
_DEVICE = (
    b'{"device_code":"d","user_code":"U-1","verification_uri":"https://a.example","expires_in":900,'
    b'"interval":5,"verification_uri_complete":"https://a.example?c=U-1"}'
)
_DATE = b"Mon, 23 Nov 2026 08:00:00 GMT"
_HEADS = (
    *(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    *(b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 304 Not Modified\r\n\r\n", b'ETag: "a"\r\n', b"\r\n"),
    *(b"Content-Encoding: gzip\r\n", b"Content-Encoding: deflate\r\n", b"Connection: close\r\n"),
    *(
        b"Retry-After: 99999999999\r\n",
        b"Date: " + _DATE + b"\r\n",
        b"Transfer-Encoding: chunked\r\n",
    ),
    *(
        b"Content-Length: ",
        b"Location: http://[\r\n",
        b"Set-Cookie: a=b; expires=1\r\n",
        b"\r\n\r\n",
    ),
    *(b"Transfer-Encoding: gzip, chunked\r\n", b"Content-Type: application/json; charset=x\r\n"),
)
_FIELDS = (
    *(b'"id":', b'"fromDate":', b'"toDate":', b'"appNames":', b'"args":', b'"type":', b"null"),
    *(b"9999-12-31T23:59:59.9999999Z", b"0001-01-01T00:00:00+23:59", b'"1970-01-01T00:00:00Z"'),
    *(b"\xef\xbb\xbf", b"\\ud83d\\ude00", b"\\ud83d", b'"nan"', b'"inf"', b"1e999", b"-0"),
)
_BUSY = _http(b"", b"Retry-After: 7", b"Date: " + _DATE, status=b"503 Service Unavailable")
_MOVED = _http(b"", b"Location: https://b.example/", status=b"302 Found")
_DENIED_HTTP = _http(_DENIED, status=b"400 Bad Request")


def _ways(body: bytes) -> tuple[bytes, ...]:
    """An answer as HTTP can bring it."""
    packed = _gzip(body)
    return (
        _http(body, b'ETag: "a"', b"Content-Type: application/json"),
        _chunked(body),
        _http(packed, b"Content-Encoding: gzip"),
        _chunked(packed, b"Content-Encoding: gzip"),
        b"HTTP/1.0 200 OK\r\n\r\n" + body,
        _HEADS[0] + _http(body),
        _BUSY,
    )


_EXCHANGE = (ExchangeError,)
_TRPC = msgspec.structs.replace(_BACKEND, kind="trpc")

TARGETS = (
    Target(
        "snapshot",
        (_ACTIONS, b'{"actions":' + _ACTIONS + b"}"),
        _snapshot(None),
        _EXCHANGE,
        _FIELDS,
    ),
    Target(
        "snapshot of tRPC",
        (_SUPERJSON, b"[" + _SUPERJSON + b"]"),
        _snapshot(trpc.actions_in),
        _EXCHANGE,
        _FIELDS,
    ),
    Target("error of tRPC", (_ERROR, b"[" + _ERROR + b"]"), lambda _: _trpc_error, _EXCHANGE),
    Target("verdicts on reports", (_VERDICTS,), lambda _: _verdicts, (ValueError,), (b'"g-1"',)),
    Target("tokens granted", (_TOKENS, _DENIED), lambda _: _granted, _EXCHANGE, _FIELDS),
    Target(
        "line of a login",
        tuple(
            map(
                login.encode,
                (
                    login.CodeGiven("https://a", "", "U", 2.5),
                    login.LoggedIn("/t", True),
                    login.NotLoggedIn(login.Why.DENIED, "no"),
                ),
            )
        ),
        lambda _: _said,
        (ValueError, RecursionError),
    ),
    Target(
        "content coding",
        (
            b"\0" + _gzip(_ACTIONS),
            b"\1" + zlib.compress(_ACTIONS),
            b"\0" + _gzip(b"a") * 3,
            b"\0" + _gzip(bytes(100_000)),
        ),
        lambda _: _coding,
        (CodingError, CutShortError),
        (_gzip(b"b"),),
    ),
    Target(
        "Retry-After and Date",
        (
            b"120|",
            _DATE + b"|" + _DATE,
            b"Mon Nov 23 08:02:00 2026|" + _DATE,
            b"Monday, 23-Nov-26 08:02:00 GMT|" + _DATE,
        ),
        lambda _: _dates,
        words=(b"Feb", b"24:60:61", b"+9999", b"-0000", b"(", b"EST", b"," * 40, b" " * 40),
    ),
    Target("HTTP", _ways(_ACTIONS), _framing, _EXCHANGE, _HEADS),
    Target("actions file", (_ACTIONS,), _actions_file, words=_FIELDS, share=0.2),
    Target(
        "pull over HTTP",
        _ways(_ACTIONS),
        _exchanged(Pull(1, _BACKEND, _NOW_US, '"a"')),
        words=_HEADS,
        share=0.05,
    ),
    Target(
        "report over HTTP",
        _ways(_VERDICTS),
        _exchanged(Send(1, _BACKEND, _REPORTS)),
        words=_HEADS,
        share=0.02,
    ),
    Target(
        "pull over tRPC",
        (*_ways(_SUPERJSON), _http(_ERROR, status=b"404 Not Found")),
        _exchanged(Pull(1, _TRPC, _NOW_US)),
        words=_HEADS,
        share=0.02,
    ),
    Target(
        "report over tRPC",
        (*_ways(_SUPERJSON), _http(_ERROR, status=b"404 Not Found")),
        _exchanged(Send(1, _TRPC, _REPORTS[:1])),
        words=_HEADS,
        share=0.02,
    ),
    Target(
        "token server",
        (*_ways(_TOKENS), _DENIED_HTTP, _MOVED),
        _token_server,
        _EXCHANGE,
        (*_HEADS, *_FIELDS),
        share=0.05,
    ),
    Target(
        "device server",
        (*_ways(_DEVICE), _DENIED_HTTP),
        _device_server,
        _EXCHANGE,
        (*_HEADS, *_FIELDS),
        share=0.02,
    ),
)
