"""HTTP client with bounds of time and size. The only importer of `requests`.

One `Exchange` is one session with one deadline: no proxy and no password from the environment,
no redirect, no retry (DESIGN 6, facts B1 to B4). Authorities, client certificate and proxy are
those of the configuration.
"""

import contextlib
import http.client
import socket
import ssl
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import requests
import requests.adapters
import requests.auth
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

from .... import __version__
from ....ipc.messages.sync import BackendAddress, ErrorKind
from ...host import tls_files
from ..base import ExchangeError
from ..bodies.status_reports import printable
from .coding import CodingError, CutShortError, unpack
from .deadline import Deadline
from .errors import bad_answer, cut_short, failure, refusal, shown, too_large
from .framing import FramedResponse
from .secrets import read_private, unusable

#: Bytes read at once.
PIECE_BYTES_MAX = 16 * 1024
#: Share of the time for connecting to each address of a host: a dead one must not cost all.
CONNECT_SHARE = 1 / 3
KEY_BYTES_MAX = 64 * 1024
#: From OpenSSL's `x509_vfy.h`; Python has no name for it.
_X509_V_FLAG_NO_CHECK_TIME = 0x200000


class Exchange:
    """A session for the requests of one exchange. Its deadline runs from `with` on."""

    def __init__(self, backend: BackendAddress) -> None:
        """Raises `ExchangeError` where the files for TLS cannot be used."""
        _check_tls(backend)
        self.backend = backend
        self.deadline = Deadline(backend.timeout_seconds)
        self._session = _Session()
        self._session.trust_env = False
        self._session.headers.clear()
        self._session.verify = backend.ca_file or True
        if backend.client_cert:
            self._session.cert = (backend.client_cert, backend.client_key)
        if backend.proxy:
            self._session.proxies = {"http": backend.proxy, "https": backend.proxy}
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(self.deadline, _context(backend)))
        self._last: requests.Response | None = None

    def fetch(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        token: str = "",
    ) -> "Response":
        """Send a request; return the response with its header read, whatever its status.

        Its body can be read until the next request. Raises `ExchangeError`.
        """
        self._let_go()
        with self.errors_of(url):
            self._last = response = self._session.request(
                method,
                url,
                headers={**_HEADERS, **headers},
                data=body,
                # As an auth object: a header would give way to a password in a netrc (B4).
                auth=_Bearer(token) if token else None,
                timeout=(self.deadline.seconds * CONNECT_SHARE, self.deadline.seconds),
                allow_redirects=False,
                stream=True,
            )
        return Response(self, url, response, token)

    @contextlib.contextmanager
    def errors_of(self, url: str) -> Iterator[None]:
        """Raise everything that reading from the network can raise as `ExchangeError`.

        A connection that was shut down looks like the end of a header or a body, so the
        deadline decides.
        """
        try:
            yield
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if not self.deadline.passed:
                raise failure(error, url) from None
        except (http.client.HTTPException, ArithmeticError, LookupError, ValueError) as error:
            if not self.deadline.passed:  # what the library does not take for an error of its own
                raise bad_answer(url, f"no valid HTTP: {printable(str(error))}") from None
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
        """Close the last response: one that nobody read would keep its connection."""
        if self._last is not None:
            self._last.close()
            self._last = None


class Response:
    """A response: status and headers, and a body that is fetched when it is read."""

    def __init__(
        self, exchange: Exchange, url: str, response: requests.Response, token: str = ""
    ) -> None:
        self.url = url
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._exchange = exchange
        self._token = token.encode()
        self._raw = response.raw

    def read(self, bytes_max: int | None = None) -> bytes:
        """Return the whole body, unpacked; at most `max_body` long where no bound is given.

        Raises `ExchangeError`.
        """
        bytes_max = bytes_max or self._exchange.backend.max_body_bytes
        body = bytearray()
        with self._exchange.errors_of(self.url):
            while piece := self._raw.read1(PIECE_BYTES_MAX, decode_content=False):
                body += piece
                if len(body) > bytes_max:
                    raise too_large(self.url, bytes_max)
                if self._exchange.deadline.passed:
                    break  # what a peer goes on sending can be read after a shutdown
        return self._unpacked(bytes(body), bytes_max)

    def _unpacked(self, body: bytes, bytes_max: int) -> bytes:
        coding = self.headers.get("Content-Encoding", "")
        is_empty = self.headers.get("Content-Length") == "0"
        try:
            unpacked = unpack(body, coding, bytes_max, is_empty=is_empty)
        except CutShortError as error:
            raise cut_short(self.url, str(error)) from None
        except CodingError as error:
            raise bad_answer(self.url, str(error)) from None
        if len(unpacked) > bytes_max:
            raise too_large(self.url, bytes_max)
        return unpacked

    def discreet(self, body: bytes) -> bytes:
        """Return the body without the token that was sent, which a server can quote."""
        return body.replace(self._token, b"...") if self._token else body

    def refusal(self) -> ExchangeError:
        """Return the error for a status that is not the expected one."""
        return refusal(self.status, self.headers, self.url)


def _check_tls(backend: BackendAddress) -> None:
    """Check the files for TLS, for each exchange: they may be renewed at any time.

    Raises `ExchangeError`.
    """
    if backend.client_key:
        try:
            read_private(backend.client_key, KEY_BYTES_MAX)
        except (OSError, ValueError) as error:
            raise unusable(backend.client_key, "client key", error) from None
    if reason := tls_files.why_not(backend.ca_file, backend.client_cert, backend.client_key):
        raise ExchangeError(ErrorKind.LOCAL, f"cannot use TLS: backend.{reason}")


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


def _context(backend: BackendAddress) -> ssl.SSLContext | None:
    """Return a context that ignores the dates of certificates, None for the usual one.

    A clock that is not believed says nothing about dates. Names and the chain to our own
    authority still count (fact B5); with public authorities the exchange fails until the clock
    is right.
    """
    if backend.clock_believed or not backend.ca_file:
        return None
    context = create_urllib3_context()
    context.load_verify_locations(backend.ca_file)
    context.verify_flags |= ssl.VerifyFlags(_X509_V_FLAG_NO_CHECK_TIME)
    return context


class _Adapter(requests.adapters.HTTPAdapter):
    """Adapter that puts every connection under the deadline, and sends nothing twice."""

    def __init__(self, deadline: Deadline, context: ssl.SSLContext | None) -> None:
        self._deadline = deadline
        self._context: dict[str, Any] = {} if context is None else {"ssl_context": context}
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **{**options, **self._context})
        self.poolmanager.pool_classes_by_scheme = _watched_pools(self._deadline)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **{**options, **self._context})
        manager.pool_classes_by_scheme = _watched_pools(self._deadline)
        return manager


def _watched_pools(deadline: Deadline) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Return pools whose connections are under the deadline from the start: the handshakes of TLS
    and of a proxy can come byte by byte, too."""

    class Connection(HTTPConnection):
        response_class = FramedResponse

        def _new_conn(self) -> socket.socket:
            connection = super()._new_conn()
            deadline.hold(connection)
            return connection

    class TlsConnection(HTTPSConnection):
        response_class = FramedResponse

        def _new_conn(self) -> socket.socket:
            connection = super()._new_conn()
            deadline.hold(connection)
            return connection

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    class TlsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    return {"http": Pool, "https": TlsPool}
