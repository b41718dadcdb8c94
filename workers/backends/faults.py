"""What went wrong in an exchange over HTTP, by what helps. Pure.

`requests` wraps the errors of `urllib3`, which wraps those of `http.client` and of the
system; which of them is at the bottom tells what happened.
"""

import http
import http.client
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import urllib3.exceptions

from ...ipc.messages import ErrorKind
from .base import ExchangeError
from .reports import printable

RETRY_AFTER_SECONDS_MIN = 1.0
RETRY_AFTER_SECONDS_MAX = 3600.0

_BUSY = (429, 503)
_UNAUTHORIZED = (401, 403)
_UNDECODABLE = (urllib3.exceptions.DecodeError, urllib3.exceptions.InvalidHeader)


def failure(error: BaseException, url: str) -> ExchangeError:
    """Of a request to `url` that brought no whole answer."""
    chain = list(_chain(error))
    root = chain[-1]
    reason = printable((isinstance(root, OSError) and root.strerror) or str(root) or repr(root))
    if any(isinstance(link, _UNDECODABLE) for link in chain):
        return _bad_answer(url, reason)
    if isinstance(error, ValueError):
        return ExchangeError(ErrorKind.LOCAL, f"cannot use the url {shown(url)}: {reason}")
    if isinstance(root, TimeoutError):
        return ExchangeError(ErrorKind.TIMEOUT, f"cannot get an answer from {shown(url)}: {reason}")
    if any(isinstance(link, http.client.IncompleteRead) for link in chain):
        detail = f"cannot get a whole answer from {shown(url)}: it breaks off"
        return ExchangeError(ErrorKind.UNREACHABLE, detail)
    if isinstance(root, http.client.HTTPException) and not isinstance(root, ConnectionError):
        return _bad_answer(url, reason)
    return ExchangeError(ErrorKind.UNREACHABLE, f"cannot reach {shown(url)}: {reason}")


def refusal(status: int, headers: Mapping[str, str], url: str) -> ExchangeError:
    """Of a request that was answered, with a status that is of no use."""
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


def _bad_answer(url: str, reason: str) -> ExchangeError:
    return ExchangeError(
        ErrorKind.BAD_ANSWER, f"cannot use the answer of {shown(url)}: no valid HTTP: {reason}"
    )


def retry_after_seconds(headers: Mapping[str, str]) -> float:
    """From 1 s to 1 h, or 0 where `Retry-After` says nothing that can be used.

    A date counts from the answer's own `Date`: our clock may be wrong (fact B3).
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        seconds = float(text)
    else:
        later, now = _date(text), _date(headers.get("Date", ""))
        if later is None or now is None:
            return 0.0
        seconds = (later - now).total_seconds()
    return min(max(seconds, RETRY_AFTER_SECONDS_MIN), RETRY_AFTER_SECONDS_MAX)


def _date(text: str) -> datetime | None:
    """An aware HTTP date; one without a zone is none."""
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else None


def shown(url: str) -> str:
    """A URL as it may be logged: without a user, a password or a query."""
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
    """The error, then what it was made from, down to the first."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
