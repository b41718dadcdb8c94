"""Classification of HTTP failures as `ExchangeError`, by the remedy. Pure.

`requests` wraps the errors of `urllib3`, which wraps those of `http.client` and of the system;
the innermost one tells what happened.
"""

import http
import http.client
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import urllib3.exceptions

from ....ipc.messages.sync import RETRY_AFTER_SECONDS_MAX, RETRY_AFTER_SECONDS_MIN, ErrorKind
from ..base import ExchangeError
from ..bodies.status_reports import printable

_BUSY = (429, 503)
_UNAUTHORIZED = (401, 403)
#: X.509 codes for "not yet valid" and "expired", of certificates and revocation lists.
_TIME_CODES = (9, 10, 11, 12)
#: Alerts of a peer about our certificate, or the lack of one.
_ABOUT_OUR_CERTIFICATE = (
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    "TLSV1_ALERT_ACCESS_DENIED",
    "TLSV1_ALERT_DECRYPT_ERROR",
    "TLSV1_ALERT_UNKNOWN_CA",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_REVOKED",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
)
#: Alert of TLS 1.2 both for a missing certificate and for no cipher in common.
_HANDSHAKE_FAILURE = "SSLV3_ALERT_HANDSHAKE_FAILURE"


def failure(error: BaseException, url: str) -> ExchangeError:
    """Return the error for a request to `url` without a whole response."""
    chain = list(_chain(error))
    root = chain[-1]
    reason = printable((isinstance(root, OSError) and root.strerror) or str(root) or repr(root))
    for link in chain:
        if isinstance(link, ssl.SSLError):
            return _tls_failure(link, url)
    if any(isinstance(link, urllib3.exceptions.ProxyError) for link in chain):
        reason = f"its proxy: {reason}"
    if any(isinstance(link, urllib3.exceptions.InvalidHeader) for link in chain):
        return bad_answer(url, f"no valid HTTP: {reason}")
    if isinstance(error, ValueError):
        return ExchangeError(ErrorKind.LOCAL, f"cannot use the url {shown(url)}: {reason}")
    if isinstance(root, TimeoutError):
        return ExchangeError(ErrorKind.TIMEOUT, f"cannot get an answer from {shown(url)}: {reason}")
    if any(isinstance(link, http.client.IncompleteRead) for link in chain):
        return cut_short(url, "it breaks off")
    if isinstance(root, http.client.HTTPException) and not isinstance(root, ConnectionError):
        return bad_answer(url, f"no valid HTTP: {reason}")
    return ExchangeError(ErrorKind.UNREACHABLE, f"cannot reach {shown(url)}: {reason}")


def _tls_failure(error: ssl.SSLError, url: str) -> ExchangeError:
    """Return the error for a connection that TLS could not secure."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        if error.verify_code in _TIME_CODES:
            reason += ", or the clock of this host is wrong"
        detail = f"cannot trust the certificate of {shown(url)}: {printable(reason)}"
        return ExchangeError(ErrorKind.UNTRUSTED, detail)
    reason = printable((error.reason or str(error)).lower().replace("_", " "))
    if error.reason == _HANDSHAKE_FAILURE:
        detail = f"{shown(url)} wants a client certificate, or has no TLS in common with us"
        return ExchangeError(ErrorKind.UNAUTHORIZED, f"{detail}: {reason}")
    if error.reason in _ABOUT_OUR_CERTIFICATE:
        detail = f"{shown(url)} does not take our client certificate: {reason}"
        return ExchangeError(ErrorKind.UNAUTHORIZED, detail)
    return ExchangeError(ErrorKind.UNREACHABLE, f"cannot speak TLS with {shown(url)}: {reason}")


def refusal(status: int, headers: Mapping[str, str], url: str) -> ExchangeError:
    """Return the error for a response with a status that is of no use."""
    said = f"{shown(url)} answers {_phrase(status)}"
    if status in _BUSY:
        return ExchangeError(ErrorKind.BUSY, said, retry_after_seconds(headers))
    if status in _UNAUTHORIZED:
        return ExchangeError(ErrorKind.UNAUTHORIZED, said)
    if status >= 400:
        return ExchangeError(ErrorKind.REFUSED, said)
    if status >= 300 and "Location" in headers:
        target = shown(headers["Location"])
        return ExchangeError(
            ErrorKind.REFUSED, f"{said}: redirects are not followed, this one leads to {target!r}"
        )
    return ExchangeError(ErrorKind.BAD_ANSWER, f"{said}, which is no answer to this request")


def bad_answer(url: str, reason: str) -> ExchangeError:
    return ExchangeError(ErrorKind.BAD_ANSWER, f"cannot use the answer of {shown(url)}: {reason}")


def cut_short(url: str, reason: str) -> ExchangeError:
    detail = f"cannot get a whole answer from {shown(url)}: {reason}"
    return ExchangeError(ErrorKind.UNREACHABLE, detail)


def too_large(url: str, bytes_max: int) -> ExchangeError:
    detail = f"the answer of {shown(url)} is longer than {bytes_max} bytes"
    return ExchangeError(ErrorKind.TOO_LARGE, detail)


def retry_after_seconds(headers: Mapping[str, str]) -> float:
    """Return the wait of `Retry-After`, 1 s to 1 h, or 0 where it has no usable value.

    A date counts from the response's own `Date`, because our clock may be wrong (fact B3).
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        seconds = float(text)
    else:
        later, now = http_date(text), http_date(headers.get("Date", ""))
        if later is None or now is None:
            return 0.0
        seconds = (later - now).total_seconds()
    return min(max(seconds, RETRY_AFTER_SECONDS_MIN), RETRY_AFTER_SECONDS_MAX)


def http_date(text: str) -> datetime | None:
    """Return an HTTP date, in any of the three forms of RFC 9110, 5.6.7; None for other text.

    A date in the form of asctime names no zone, and is UTC as all are.
    """
    try:
        date = parsedate_to_datetime(text)
        if "," not in text:  # only that of asctime has none
            date = date.replace(tzinfo=UTC)
        return date if date.tzinfo else None
    except (ValueError, OverflowError):  # a year or a zone out of range is no ValueError
        return None


def shown(url: str) -> str:
    """Return a URL as it may be logged: without user, password and query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(unreadable)"
    host = parts.netloc.rpartition("@")[2]
    return printable(f"{parts.scheme}://{host}{parts.path}" if host else parts.path)


def _phrase(status: int) -> str:
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, down to the first."""
    link: BaseException | None = error
    while link is not None:
        yield link
        # Behind a proxy `urllib3` keeps what happened as an argument only.
        wrapped = (part for part in link.args if isinstance(part, BaseException))
        link = link.__cause__ or link.__context__ or next(wrapped, None)
