"""A body in several content codings is refused, and not unpacked by anybody on the way: a few
hundred bytes of gzip in gzip in gzip are a gigabyte."""

import contextlib
import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
from geosched.ipc.messages.sync import ErrorKind, Pull, Report, Send
from geosched.workers.sync.backends.http import HttpBackend
from geosched.workers.sync.base import ExchangeError
from support.backend import address
from support.spoken import Spoken

MEBIBYTE = 1024**2
REPORT = Report("k1", "a", "FINISHED", 0, 1, None, 0, None, "completed")
#: More than an exchange takes without a body, and far less than what these unpack to.
MEMORY_BYTES_MAX = 8 * MEBIBYTE


def bomb(mebibytes: int = 256) -> bytes:
    packing = zlib.compressobj(9, wbits=31)
    packed = b"".join(packing.compress(bytes(MEBIBYTE)) for _ in range(mebibytes))
    return gzip.compress(gzip.compress(packed + packing.flush()))


BOMB = bomb()


def said(status: bytes, *codings: bytes, body: bytes = BOMB) -> bytes:
    headers = b"".join(b"Content-Encoding: " + coding + b"\r\n" for coding in codings)
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    return b"HTTP/1.1 " + status + b"\r\n" + headers + length + body


def pull(server: Spoken) -> object:
    where = address(url=server.url_of(), timeout_seconds=20.0, max_body_bytes=MEBIBYTE)
    return HttpBackend().pull(Pull(1, where, 0))


def send(server: Spoken) -> object:
    where = address(url=server.url_of(), timeout_seconds=20.0, max_body_bytes=MEBIBYTE)
    return HttpBackend().send(Send(1, where, (REPORT,)))


@pytest.fixture
def measured() -> Iterator[None]:
    tracemalloc.start()
    yield
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < MEMORY_BYTES_MAX


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("ask", [pull, send])
@pytest.mark.parametrize(
    "codings",
    [
        (b"gzip, gzip, gzip",),
        (b"gzip", b"gzip", b"gzip"),
        (b"identity, gzip",),
        (b"gzip,",),
        (b"deflate,gzip",),
        (b", ".join([b"gzip"] * 50),),
    ],
    ids=["list", "lines", "identity", "empty", "mixed", "fifty"],
)
def test_a_chain_of_codings_is_no_answer(
    ask: Callable[[Spoken], object], codings: tuple[bytes, ...]
) -> None:
    with Spoken(said(b"200 OK", *codings)) as server, pytest.raises(ExchangeError) as caught:
        ask(server)
    assert caught.value.kind is ErrorKind.BAD_ANSWER
    assert "more than one Content-Encoding" in caught.value.detail


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("ask", [pull, send])
@pytest.mark.parametrize(
    "status",
    [
        b"302 Found",
        b"400 Bad",
        b"401 Who",
        b"407 Proxy",
        b"422 No",
        b"429 Later",
        b"500 Oh",
        b"503 No",
    ],
)
def test_nobody_unpacks_the_body_of_a_refusal(
    ask: Callable[[Spoken], object], status: bytes
) -> None:
    with Spoken(said(status, b"gzip, gzip, gzip")) as server, contextlib.suppress(ExchangeError):
        ask(server)  # a report that is refused is no error, all else is


@pytest.mark.usefixtures("measured")
def test_one_coding_is_unpacked_to_its_bound_and_no_further() -> None:
    once = gzip.decompress(gzip.decompress(BOMB))
    with (
        Spoken(said(b"200 OK", b"gzip", body=once)) as server,
        pytest.raises(ExchangeError) as caught,
    ):
        pull(server)
    assert caught.value.kind is ErrorKind.TOO_LARGE
