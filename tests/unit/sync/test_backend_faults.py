"""What an answer that is of no use means, and when to come back."""

import http.client
import socket

import pytest
import urllib3.exceptions
from geosched.ipc.messages.sync import ErrorKind
from geosched.workers.sync.http.errors import failure, refusal, retry_after_seconds, shown

DATE = "Mon, 23 Nov 2026 08:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"Retry-After": ""}, 0),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "-5"}, 0),
        ({"Retry-After": "1.5"}, 0),
        ({"Retry-After": "\u0665"}, 0),  # a digit, but no ASCII one
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": " 120 "}, 120),
        ({"Retry-After": "864000"}, 3600),
        ({"Retry-After": "9" * 5000}, 3600),
        ({"Retry-After": "Mon, 23 Nov 2026 08:02:00 GMT"}, 0),  # our clock does not count
        ({"Retry-After": "Mon, 23 Nov 2026 08:02:00 GMT", "Date": DATE}, 120),
        ({"Retry-After": "Mon, 23 Nov 2026 07:00:00 GMT", "Date": DATE}, 1),
        ({"Retry-After": "Mon, 23 Nov 2027 08:00:00 GMT", "Date": DATE}, 3600),
        ({"Retry-After": "Mon, 23 Nov 2026 08:02:00 -0000", "Date": DATE}, 0),
        ({"Retry-After": "Mon, 23 Nov 99999 08:02:00 GMT", "Date": DATE}, 0),
        ({"Retry-After": "Mon, 23 Nov 2026 08:02:00 GMT", "Date": "today"}, 0),
        # The two other forms that RFC 9110, 5.6.7 has a reader take.
        ({"Retry-After": "Mon Nov 23 08:02:00 2026", "Date": DATE}, 120),
        (
            {"Retry-After": "Monday, 23-Nov-26 08:02:00 GMT", "Date": "Mon Nov 23 08:00:00 2026"},
            120,
        ),
        # Out of the range of a date.
        ({"Retry-After": "Wed, 21 Oct 99999999999 07:28:00 GMT", "Date": DATE}, 0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 +9999999999999999999999", "Date": DATE}, 0),
        (
            {
                "Retry-After": "Mon, 23 Nov 2026 08:02:00 GMT",
                "Date": DATE.replace("2026", "9" * 11),
            },
            0,
        ),
    ],
)
def test_retry_after_is_clamped_and_a_date_counts_from_the_answers_own(
    headers: dict[str, str], seconds: float
) -> None:
    assert retry_after_seconds(headers) == seconds


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (204, ErrorKind.BAD_ANSWER),
        (206, ErrorKind.BAD_ANSWER),
        (304, ErrorKind.BAD_ANSWER),
        (400, ErrorKind.REFUSED),
        (401, ErrorKind.UNAUTHORIZED),
        (403, ErrorKind.UNAUTHORIZED),
        (404, ErrorKind.REFUSED),
        (429, ErrorKind.BUSY),
        (500, ErrorKind.REFUSED),
        (502, ErrorKind.REFUSED),
        (503, ErrorKind.BUSY),
        (799, ErrorKind.REFUSED),
    ],
)
def test_every_status_has_its_kind(status: int, kind: ErrorKind) -> None:
    error = refusal(status, {}, "https://backend.example/api/actions")
    assert error.kind is kind
    assert str(status) in error.detail


def test_a_redirect_is_refused_and_named() -> None:
    error = refusal(301, {"Location": "https://other.example/"}, "https://backend.example/api")
    assert error.kind is ErrorKind.REFUSED
    assert "https://other.example/" in error.detail


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://user:secret@host:8443/api?token=secret#x", "https://host:8443/api"),
        ("/elsewhere?token=secret", "/elsewhere"),
        ("https://[broken/", "(unreadable)"),
        ("https://host/a\x1b[2Jb", "https://host/a [2Jb"),
    ],
)
def test_urls_are_shown_without_secrets_and_control_characters(url: str, text: str) -> None:
    assert shown(url) == text


def wrapped(innermost: Exception, outermost: type[Exception]) -> Exception:
    """An error as `requests` raises it, made while another one was handled."""
    try:
        try:
            raise innermost
        except type(innermost) as error:
            raise outermost("wrapped") from error
    except outermost as error:
        return error


@pytest.mark.parametrize(
    ("innermost", "kind", "reason"),
    [
        (ConnectionRefusedError(111, "Connection refused"), ErrorKind.UNREACHABLE, "refused"),
        (socket.gaierror(-2, "Name or service not known"), ErrorKind.UNREACHABLE, "Name or"),
        (http.client.RemoteDisconnected("Remote end closed"), ErrorKind.UNREACHABLE, "closed"),
        (http.client.IncompleteRead(b"12", 5), ErrorKind.UNREACHABLE, "breaks off"),
        (TimeoutError("timed out"), ErrorKind.TIMEOUT, "timed out"),
        (http.client.BadStatusLine("SSH-2.0"), ErrorKind.BAD_ANSWER, "SSH-2.0"),
        (urllib3.exceptions.InvalidHeader("two lengths"), ErrorKind.BAD_ANSWER, "two lengths"),
    ],
)
def test_the_innermost_error_tells_what_happened(
    innermost: Exception, kind: ErrorKind, reason: str
) -> None:
    error = failure(wrapped(innermost, OSError), "https://user:secret@backend.example/api")
    assert error.kind is kind
    assert reason in error.detail
    assert "https://backend.example/api" in error.detail
    assert "secret" not in error.detail


def test_two_lengths_in_one_header_are_the_backends_fault_and_not_the_urls() -> None:
    innermost = urllib3.exceptions.InvalidHeader("two lengths")
    assert failure(wrapped(innermost, ValueError), "http://x/").kind is ErrorKind.BAD_ANSWER
    assert failure(ValueError("no host"), "http:///").kind is ErrorKind.LOCAL
