"""Sizes of bodies and chunks that are none: no whole answer, and no report is taken for it."""

from collections.abc import Iterator

import pytest
from geosched.ipc.messages.sync import ErrorKind, Pull, Report, Send
from geosched.workers.sync.backends.http import HttpBackend
from geosched.workers.sync.base import ExchangeError, Snapshot
from support.backend import address
from support.spoken import Spoken

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
REPORT = Report("k1", "a", "FINISHED", 0, 1, None, 0, None, "completed")


@pytest.fixture
def spoken() -> Iterator[Spoken]:
    with Spoken(b"") as server:
        yield server


def failed(spoken: Spoken) -> list[ExchangeError]:
    """The errors of a pull and of a report that are answered so."""
    where = address(url=spoken.url_of())
    errors = []
    for exchange in (
        lambda: HttpBackend().pull(Pull(1, where, 0)),
        lambda: HttpBackend().send(Send(1, where, (REPORT,))),
    ):
        with pytest.raises(ExchangeError) as caught:
            exchange()
        errors.append(caught.value)
    return errors


@pytest.mark.parametrize(
    "size",
    [
        b"-0",
        b"-1",
        b"-9007199254740992",
        b"+2",
        b"0x2",
        b"0_2",
        b" 2",
        b"g",
        b"",
        b"2 e",
        b"f" * 16,
    ],
)
def test_a_body_breaks_off_where_the_size_of_a_chunk_is_no_number(spoken: Spoken, size: bytes):
    spoken.said = CHUNKED + size + b"\r\n[]\r\n0\r\n\r\n"
    for error in failed(spoken):
        assert error.kind is ErrorKind.UNREACHABLE
        assert "breaks off" in error.detail


def test_half_of_the_line_with_a_size_is_not_the_last_chunk(spoken: Spoken):
    """Of `000002` it would be 0, and the body whole and empty."""
    spoken.said = CHUNKED + b"0000"
    assert {error.kind for error in failed(spoken)} == {ErrorKind.UNREACHABLE}


@pytest.mark.parametrize("size", [b"2", b"0002", b"2;name=value", b"2 ;a", b"2\t"])
def test_a_size_may_have_zeros_and_extensions(spoken: Spoken, size: bytes):
    spoken.said = CHUNKED + size + b"\r\n[]\r\n000\r\n\r\n"
    assert isinstance(HttpBackend().pull(Pull(1, address(url=spoken.url_of()), 0)), Snapshot)


@pytest.mark.parametrize(
    "lengths", [(b"9" * 5000,), (b"9" * 19,), (b"2", b"3"), (b"2, 2",), (b"-1",), (b"\xb2",)]
)
def test_a_length_that_no_body_has_or_another_beside_it_is_no_http(
    spoken: Spoken, lengths: tuple[bytes, ...]
):
    header = b"".join(b"Content-Length: %s\r\n" % length for length in lengths)
    spoken.said = OK + header + b"\r\n[]"
    for error in failed(spoken):
        assert error.kind is ErrorKind.BAD_ANSWER
        assert "no valid HTTP: Content-Length is" in error.detail


def test_a_length_that_is_sent_twice_counts_once(spoken: Spoken):
    spoken.said = OK + 2 * b"Content-Length: 2\r\n" + b"\r\n[]"
    assert isinstance(HttpBackend().pull(Pull(1, address(url=spoken.url_of()), 0)), Snapshot)
