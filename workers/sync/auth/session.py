"""Authenticated session with the backend: requests that carry a bearer token.

A token that the backend refuses is renewed once and the request is repeated, because our clock
alone cannot tell that a token is still good.
"""

from collections.abc import Mapping
from typing import Protocol

from ....ipc.messages.sync import BackendAddress
from ..backend_files import BackendFiles
from ..http.client import Exchange, Response
from ..http.secrets import read_secret
from .oauth import OAuthTokenSource


class TokenSource(Protocol):
    """Source of the bearer tokens of one exchange. Both methods raise `ExchangeError`."""

    def token(self, exchange: Exchange) -> str:
        """Return the token for the next request, or "" for none."""

    def renewed(self, exchange: Exchange) -> str:
        """Return a token in place of the one just refused, or "" where there is no other."""


class _FileTokenSource:
    """Source of the one token in a file that others keep."""

    def __init__(self, backend: BackendAddress, files: BackendFiles) -> None:
        self._token = read_secret(files, "token_file", backend.token_file, "token file")

    def token(self, _: Exchange) -> str:
        return self._token

    def renewed(self, _: Exchange) -> str:
        return ""


class BackendExchange(Exchange):
    """An exchange whose requests go to paths below the backend's url, with its token."""

    def __init__(self, backend: BackendAddress, files: BackendFiles) -> None:
        """Raises `ExchangeError` where the token cannot be read."""
        super().__init__(backend, files)
        self._tokens: TokenSource = (
            OAuthTokenSource(backend, files)
            if backend.auth == "oauth"
            else _FileTokenSource(backend, files)
        )

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Response:
        """Send a request as `fetch` does, and repeat it once with a renewed token."""
        url = self.backend.url.rstrip("/") + path
        answer = self.fetch(method, url, headers, body, token=self._tokens.token(self))
        if answer.status != 401:
            return answer
        token = self._tokens.renewed(self)
        return self.fetch(method, url, headers, body, token=token) if token else answer
