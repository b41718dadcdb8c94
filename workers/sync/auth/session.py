"""Exchanges with the backend itself, which has to be told who asks.

A token that the backend refuses is renewed once and the request is made once more: by our
clock alone nobody can know whether a token is still good. What a token is and how it is
renewed is `secrets.py`'s and `oauth.py`'s.
"""

from collections.abc import Mapping
from typing import Protocol

from ....ipc.messages.sync import BackendAddress
from ..http.client import Answer, Exchange
from ..http.secrets import read_secret
from .oauth import OAuthIdentity


class Identity(Protocol):
    """As whom one exchange asks. Both methods raise `ExchangeError`."""

    def token(self, exchange: Exchange) -> str:
        """The bearer token for the next request, or "" for none."""

    def renewed(self, exchange: Exchange) -> str:
        """One in place of that which was just refused, or "" where there is no other."""


class _FileIdentity:
    """The token in a file that others keep."""

    def __init__(self, backend: BackendAddress) -> None:
        self._token = read_secret(backend.token_file, "token file")

    def token(self, _: Exchange) -> str:
        return self._token

    def renewed(self, _: Exchange) -> str:
        return ""


class BackendExchange(Exchange):
    """An exchange whose requests go below the backend's url."""

    def __init__(self, backend: BackendAddress) -> None:
        """Raises `ExchangeError` where the token cannot be read."""
        super().__init__(backend)
        self._identity: Identity = (
            OAuthIdentity(backend) if backend.auth == "oauth" else _FileIdentity(backend)
        )

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """As `fetch`, below the backend's url and with its token."""
        url = self.backend.url.rstrip("/") + path
        answer = self.fetch(method, url, headers, body, token=self._identity.token(self))
        if answer.status != 401:
            return answer
        token = self._identity.renewed(self)
        return self.fetch(method, url, headers, body, token=token) if token else answer
