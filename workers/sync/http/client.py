"""HTTP client with bounds of time and size. The only importer of `requests`.

One `Exchange` is one session with one deadline: no proxy and no password from the environment,
no redirect, no retry (DESIGN 6, facts B1 to B4). Authorities, client certificate and proxy are
those of the configuration.
"""

import contextlib
import functools
import http.client
import importlib
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests
import requests.adapters
import requests.auth
import requests.utils
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from .... import __version__
from ....ipc.messages.sync import BackendAddress, ErrorKind
from ...host.files import in_memory
from ..backend_files import BackendFiles, LocalFiles
from ..base import ExchangeError
from ..bodies.status_reports import printable
from .certificates import context_of, path_to
from .coding import CodingError, CutShortError, unpack
from .deadline import Deadline
from .errors import bad_answer, cut_short, failure, refusal, shown, too_large
from .framing import FramedResponse

#: Bytes read at once.
PIECE_BYTES_MAX = 16 * 1024
#: Share of the time for connecting to each address of a host: a dead one must not cost all.
CONNECT_SHARE = 1 / 3
#: Modules that are imported only once a request needs them.
_LATE_MODULES = ("encodings.idna", "encodings.punycode", "idna")


class Exchange:
    """A session for the requests of one exchange. Its deadline runs from `with` on. `files` are
    those that the backend's settings name."""

    def __init__(self, backend: BackendAddress, files: BackendFiles | None = None) -> None:
        """Raises `ExchangeError` where the files for TLS cannot be used."""
        self.backend = backend
        self.files = LocalFiles(backend) if files is None else files
        context = context_of(backend, self.files, public_authorities)
        self.deadline = Deadline(backend.timeout_seconds)
        self._session = _Session()
        self._session.trust_env = False
        self._session.headers.clear()
        if backend.proxy:
            self._session.proxies = {"http": backend.proxy, "https": backend.proxy}
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(self.deadline, context))
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


def load_late_parts() -> None:
    """Load what the libraries read only once they need it: later this process may have no right
    to. Raises `OSError`."""
    for name in _LATE_MODULES:
        importlib.import_module(name)
    public_authorities()


@functools.cache
def public_authorities() -> str:
    """Return a path to the certificates of the public authorities, in memory, for good. Raises
    `OSError`."""
    authorities = Path(requests.utils.DEFAULT_CA_BUNDLE_PATH)
    return path_to(in_memory("geosched", authorities.read_bytes()))


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
    """Adapter that puts every connection under the deadline, and sends nothing twice. Without a
    context of ours it trusts the public authorities."""

    def __init__(self, deadline: Deadline, context: ssl.SSLContext | None) -> None:
        self._deadline = deadline
        self._context: dict[str, Any] = {} if context is None else {"ssl_context": context}
        super().__init__(max_retries=0)

    def cert_verify(self, conn: Any, url: str, *_: Any) -> None:
        conn.cert_reqs = "CERT_REQUIRED"
        if not self._context and url.lower().startswith("https"):
            conn.ca_certs = public_authorities()

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
