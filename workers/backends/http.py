"""HTTP with bounds, and the backend `http` on top of it. The only importer of `requests`.

One `Exchange` is one session with one deadline: no proxy and no password from the
environment, no redirect, no retry (DESIGN 6, facts B1 to B4). What a backend's answer
means as a snapshot or for reports is decided in `snapshot.py` and `reports.py`.
"""

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import requests
import requests.adapters
import requests.auth
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from ... import __version__
from ...ipc.messages import BackendAddress, ErrorKind, NotModified, Pull, Report, Send, Taken
from .base import ExchangeError, Snapshot
from .deadline import Deadline
from .faults import failure, refusal, shown
from .framing import FramedResponse
from .reports import batch_body, batch_key, read_verdicts
from .snapshot import read_snapshot
from .token import TokenFile

#: Read at once. With compressed bodies, no more than a thousand times this is unpacked.
PIECE_BYTES_MAX = 16 * 1024
#: Each address of a host gets this share of the time: a dead one must not cost all of it.
CONNECT_SHARE = 1 / 3

log = logging.getLogger(__name__)
#: What we keep of an ETag, to send it back: an opaque word.
_ETAG = re.compile(r"[\x21-\x7e]{1,256}")
#: Whole-batch answers that may be about one report in it.
_ABOUT_A_REPORT = (400, 413, 422)


class HttpBackend:
    """`GET {url}/actions` and `POST {url}/actions/status` (INTERFACE, "plain HTTP")."""

    def __init__(self) -> None:
        self._tokens = TokenFile()

    def pull(self, pull: Pull) -> Snapshot | NotModified:
        headers = {"If-None-Match": pull.etag} if pull.etag else {}
        with Exchange(pull.backend, self._tokens) as exchange:
            answer = exchange.ask("GET", "/actions", headers)
            if answer.status == 304 and pull.etag:
                return NotModified(pull.exchange)
            if answer.status != 200:
                raise answer.refusal()
            body = answer.read()
        etag = answer.headers.get("ETag", "")
        return read_snapshot(body, etag if _ETAG.fullmatch(etag) else "", pull)

    def send(self, send: Send) -> Taken:
        """All at once; a batch that is refused as a whole is halved down to the culprit.

        An error after something was settled ends the exchange with what was: repeated as
        a whole, a long halving might never come to its end.
        """
        accepted: list[str] = []
        refused: dict[str, str] = {}
        waiting: list[Sequence[Report]] = [send.reports] if send.reports else []
        with Exchange(send.backend, self._tokens) as exchange:
            while waiting:
                batch = waiting.pop()
                try:
                    answer = _post(exchange, batch)
                    if answer.status in _ABOUT_A_REPORT and len(batch) > 1:
                        middle = len(batch) // 2
                        waiting += [batch[middle:], batch[:middle]]
                        continue
                    newly_accepted, newly_refused = _verdicts(answer, batch)
                except ExchangeError as error:
                    if not accepted and not refused:
                        raise
                    log.warning(
                        "Reports are cut short: %s",
                        error.detail,
                        extra={"event": "reports-cut-short"},
                    )
                    break
                accepted += newly_accepted
                refused |= newly_refused
        return Taken(send.exchange, tuple(accepted), tuple(refused.items()))


def _post(exchange: "Exchange", batch: Sequence[Report]) -> "Answer":
    headers = {"Content-Type": "application/json", "Idempotency-Key": batch_key(batch)}
    return exchange.ask("POST", "/actions/status", headers, batch_body(batch))


def _verdicts(answer: "Answer", batch: Sequence[Report]) -> tuple[list[str], dict[str, str]]:
    """What an answer says of a batch that is not halved further."""
    if answer.status in _ABOUT_A_REPORT:
        return [], {report.key: answer.refusal().detail for report in batch}
    if not 200 <= answer.status < 300:
        raise answer.refusal()
    body = answer.read()
    if not body:
        return [report.key for report in batch], {}
    try:
        if answer.status != 200:
            raise ValueError(f"a {answer.status} with a body")
        return read_verdicts(body, batch)
    except ValueError as error:
        detail = f"cannot use the answer to a report: {error}"
        raise ExchangeError(ErrorKind.BAD_ANSWER, detail) from None


class Exchange:
    """A session for one exchange. Its deadline runs from `with` on."""

    def __init__(self, backend: BackendAddress, tokens: TokenFile) -> None:
        """Raises `ExchangeError` where the token cannot be read."""
        self.backend = backend
        self.deadline = Deadline(backend.timeout_seconds)
        self._session = _Session()
        self._session.trust_env = False
        self._session.headers.clear()
        token = tokens.read(backend.token_file)
        # As an auth object: a header would give way to a password in a netrc (fact B4).
        self._session.auth = _Bearer(token) if token else None
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(self.deadline))
        self._last: requests.Response | None = None

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> "Answer":
        """The answer up to its header, whatever its status. Raises `ExchangeError`.

        It can be read until the next one is asked for.
        """
        self._let_go()
        url = self.backend.url.rstrip("/") + path
        with self.faults(url):
            self._last = response = self._session.request(
                method,
                url,
                headers={**_HEADERS, **headers},
                data=body,
                timeout=(self.deadline.seconds * CONNECT_SHARE, self.deadline.seconds),
                allow_redirects=False,
                stream=True,
            )
        return Answer(self, url, response)

    @contextlib.contextmanager
    def faults(self, url: str) -> Iterator[None]:
        """Everything that reading from the network can raise, as `ExchangeError`.

        A connection that was shut down looks like the end of a header or of a body: only
        the deadline tells.
        """
        try:
            yield
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if not self.deadline.passed:
                raise failure(error, url) from None
        if self.deadline.passed:
            detail = f"no whole answer from {shown(url)} within {self.deadline.seconds:g} s"
            raise ExchangeError(ErrorKind.TIMEOUT, detail)

    def __enter__(self) -> Self:
        self.deadline.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._let_go()
        self._session.close()
        self.deadline.__exit__(kind, error, trace)

    def _let_go(self) -> None:
        """Close the last answer: one that nobody read would keep its connection."""
        if self._last is not None:
            self._last.close()
            self._last = None


class Answer:
    """Status and headers of an answer; its body only where somebody reads it."""

    def __init__(self, exchange: Exchange, url: str, response: requests.Response) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._exchange = exchange
        self._url = url
        self._raw = response.raw

    def read(self) -> bytes:
        """The whole body, unpacked. Raises `ExchangeError`."""
        bytes_max = self._exchange.backend.body_bytes_max
        body = bytearray()
        with self._exchange.faults(self._url):
            while piece := self._raw.read1(PIECE_BYTES_MAX, decode_content=True):
                body += piece
                if len(body) > bytes_max:
                    detail = f"the answer of {shown(self._url)} is longer than {bytes_max} bytes"
                    raise ExchangeError(ErrorKind.TOO_LARGE, detail)
                if self._exchange.deadline.passed:
                    break  # what a peer goes on sending can be read after a shutdown
        return bytes(body)

    def refusal(self) -> ExchangeError:
        """What the status means where it is not the one that was hoped for."""
        return refusal(self.status, self.headers, self._url)


_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": f"geosched/{__version__}",
}


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: `requests` would read the body of a redirect, without a bound."""


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Adapter(requests.adapters.HTTPAdapter):
    """Puts every connection under the deadline, and sends nothing twice."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _watched_pools(self._deadline)


def _watched_pools(deadline: Deadline) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    class Connection(HTTPConnection):
        response_class = FramedResponse

        def connect(self) -> None:
            super().connect()
            deadline.hold(self.sock)

    class TlsConnection(HTTPSConnection):
        response_class = FramedResponse

        def connect(self) -> None:
            super().connect()
            deadline.hold(self.sock)

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    class TlsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    return {"http": Pool, "https": TlsPool}
