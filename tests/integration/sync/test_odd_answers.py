"""Answers that RFCs allow and few servers give, and broken ones that look whole."""

import gzip
import json
import zlib
from collections.abc import Iterator

import pytest
from geosched.ipc.messages.sync import BackendAddress, ErrorKind, Pull, Report, Send, Taken
from geosched.workers.sync.backends.http import HttpBackend
from geosched.workers.sync.base import ExchangeError, Snapshot
from support.backend import address, entry
from support.spoken import Spoken

BODY = json.dumps([entry("a")]).encode()
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
OK = b"HTTP/1.1 200 OK\r\n"
REPORT = Report("k1", "a", "FINISHED", 0, 1, None, 0, None, "completed")
GOOD = OK + LENGTH + b"\r\n" + BODY


@pytest.fixture
def spoken() -> Iterator[Spoken]:
    with Spoken(GOOD) as server:
        yield server


def where(server: Spoken) -> BackendAddress:
    return address(url=server.url_of(), timeout_seconds=5.0)


def ids_pulled(server: Spoken, said: bytes) -> list[str]:
    server.said = said
    found = HttpBackend().pull(Pull(1, where(server), 0))
    assert isinstance(found, Snapshot)
    return [action.id for action in found.actions]


def error_of(server: Spoken, said: bytes) -> ExchangeError:
    with pytest.raises(ExchangeError) as caught:
        ids_pulled(server, said)
    return caught.value


def sent(server: Spoken, said: bytes) -> Taken:
    server.said = said
    return HttpBackend().send(Send(1, where(server), (REPORT,)))


# --- informational responses ------------------------------------------------------------


@pytest.mark.parametrize(
    "before",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
    ],
    ids=["100", "102", "103", "two"],
)
def test_informational_responses_are_read_past(spoken: Spoken, before: bytes):
    assert ids_pulled(spoken, before + GOOD) == ["a"]


def test_informational_responses_without_end_are_no_answer(spoken: Spoken):
    error = error_of(spoken, b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)
    assert error.kind is ErrorKind.BAD_ANSWER


def test_a_header_without_end_in_an_informational_response_is_no_answer(spoken: Spoken):
    error = error_of(spoken, b"HTTP/1.1 103 Early Hints\r\n" + b"Link: </a>\r\n" * 1000)
    assert error.kind is ErrorKind.BAD_ANSWER
    assert "informational" in error.detail


# --- header lines -----------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"X-N : a\r\n", b"no colon at all\r\n"], ids=["space", "none"])
def test_a_header_line_without_a_name_is_no_http_and_takes_no_report(
    spoken: Spoken, line: bytes, caplog: pytest.LogCaptureFixture
):
    assert error_of(spoken, OK + line + LENGTH + b"\r\n" + BODY).kind is ErrorKind.BAD_ANSWER
    with pytest.raises(ExchangeError) as caught:
        sent(spoken, OK + line + b"Content-Length: 57\r\n\r\n")  # and there it breaks off
    assert caught.value.kind is ErrorKind.BAD_ANSWER
    assert caplog.records == []


# --- content codings --------------------------------------------------------------------


def coded(name: bytes, body: bytes) -> bytes:
    return OK + b"Content-Encoding: " + name + b"\r\n\r\n" + body


def bare_deflate(body: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-15)
    return packing.compress(body) + packing.flush()


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (b"gzip", gzip.compress(BODY)),
        (b"X-Gzip", gzip.compress(BODY)),
        (b"gzip", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])),
        (b"deflate", zlib.compress(BODY)),
        (b"deflate", bare_deflate(BODY)),
        (b"identity", BODY),
    ],
    ids=["gzip", "x-gzip", "two-members", "zlib", "deflate", "identity"],
)
def test_a_body_is_unpacked_though_nobody_asked_for_a_coding(
    spoken: Spoken, name: bytes, body: bytes
):
    assert ids_pulled(spoken, coded(name, body)) == ["a"]


@pytest.mark.parametrize("length", [0, 1, 10, len(gzip.compress(BODY)) - 8])
def test_a_coding_that_is_cut_short_is_no_answer_and_takes_no_report(spoken: Spoken, length: int):
    said = coded(b"gzip", gzip.compress(BODY)[:length])
    assert error_of(spoken, said).kind is ErrorKind.UNREACHABLE
    with pytest.raises(ExchangeError, match="breaks off"):
        sent(spoken, said)


@pytest.mark.parametrize(
    ("name", "body", "word"),
    [
        (b"br", b"\x1b\x00", "'br'"),
        (b"zstd", b"\x28\xb5", "'zstd'"),
        (b"gzip", b"nonsense", "gzip"),
        (b"gzip", gzip.compress(b"") * 101, "more than 100 files"),
    ],
)
def test_a_coding_that_is_unknown_or_damaged_is_called_by_its_name(
    spoken: Spoken, name: bytes, body: bytes, word: str
):
    error = error_of(spoken, coded(name, body))
    assert error.kind is ErrorKind.BAD_ANSWER
    assert word in error.detail


# --- bodies -----------------------------------------------------------------------------


def answer(body: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_a_byte_order_mark_is_skipped(spoken: Spoken):
    assert ids_pulled(spoken, answer(b"\xef\xbb\xbf" + BODY)) == ["a"]
    verdicts = b'\xef\xbb\xbf{"accepted": ["k1"]}'
    assert sent(spoken, answer(verdicts)).accepted == ("k1",)


def test_half_a_character_costs_its_entry_and_no_other(spoken: Spoken):
    """As JavaScript writes a text that was cut between two halves of a character."""
    spoiled = entry("b") | {"appNames": ["\ud83d"]}
    spoken.said = answer(json.dumps([entry("a"), spoiled]).encode())
    found = HttpBackend().pull(Pull(1, where(spoken), 0))
    assert isinstance(found, Snapshot)
    assert [action.id for action in found.actions] == ["a"]
    assert [(aside.id, "lone surrogate" in aside.reason) for aside in found.set_aside] == [
        ("b", True)
    ]
    assert found.unreadable_ids == 0


def test_half_a_character_in_a_field_that_nobody_reads_costs_nothing(spoken: Spoken):
    body = json.dumps([entry("a") | {"title": "\udc00", "path": "\\ud83d", "face": "\U0001f600"}])
    assert ids_pulled(spoken, answer(body.encode())) == ["a"]
