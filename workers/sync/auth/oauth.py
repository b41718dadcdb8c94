"""OAuth 2.0 client: access tokens by refresh token or client credentials (RFC 6749).

A refresh token is kept until a newer one is on the disk: neither an error of the token server
nor a refused access token proves it bad. The login of a person is in `device_flow.py`.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from ....ipc.messages.sync import BackendAddress, ErrorKind
from ..backend_files import BackendFiles
from ..base import ExchangeError
from ..bodies.snapshot import decode_strictly
from ..bodies.status_reports import printable
from ..http.client import Exchange
from ..http.errors import refusal, shown
from ..http.secrets import is_secret, read_secret
from .tokens import TokenFile, Tokens

#: Margin before a token's expiry: it should not expire on the way.
EXPIRY_MARGIN_SECONDS = 30.0
ANSWER_BYTES_MAX = 64 * 1024
#: Longest life of a token: no server means a longer one, and it has to fit the file.
LIFE_SECONDS_MAX = 10 * 365 * 86_400.0

#: Error words of a server that does not accept the client or its grant.
_UNAUTHORIZED = (
    "invalid_grant",
    "invalid_client",
    "unauthorized_client",
    "access_denied",
    "expired_token",
)
_BUSY = ("slow_down", "temporarily_unavailable")

log = logging.getLogger(__name__)


class OAuthError(ExchangeError):
    """A token server responded with an error; `error` is the standard's word for it."""

    def __init__(self, kind: ErrorKind, detail: str, error: str, retry_after: float) -> None:
        super().__init__(kind, detail, retry_after)
        self.error = error


class _ErrorResponse(msgspec.Struct):
    """RFC 6749, 5.2. Some servers send errors with 200: the field decides, not the status."""

    error: str | None = None
    error_description: str | None = None


class _TokenResponse(msgspec.Struct):
    """RFC 6749, 5.1. What is optional counts as absent where it is null, or of another type."""

    access_token: str
    token_type: str
    expires_in: Any = None
    refresh_token: Any = None
    scope: Any = None

    @property
    def life_seconds(self) -> float:
        try:
            seconds = float(self.expires_in)
        except (TypeError, ValueError, OverflowError):
            return 0.0
        return min(seconds, LIFE_SECONDS_MAX) if seconds > 0 else 0.0


_decode_error = msgspec.json.Decoder(_ErrorResponse).decode
_decode_granted = msgspec.json.Decoder(_TokenResponse, strict=False).decode


class OAuthTokenSource:
    """Source of tokens that the daemon keeps; renews them at most once in an exchange."""

    def __init__(self, backend: BackendAddress, files: BackendFiles) -> None:
        self._file = TokenFile(files, backend.token_file)
        self._current = ""
        self._failure: ExchangeError | None = None
        self._renewed = False

    def token(self, exchange: Exchange) -> str:
        """Return the access token, renewed where it is about to expire by our clock.

        The old one is returned where that fails: should the clock be wrong, it is still good.
        """
        if self._current:
            return self._current
        tokens = self._file.read()
        if tokens is None:
            return self._renew(exchange)
        self._current = tokens.access_token
        if 0 < tokens.expires_at < time.time() + EXPIRY_MARGIN_SECONDS:
            try:
                self._renew(exchange)
            except ExchangeError as error:
                log.info("Go on with a token that seems expired: %s", error.detail)
        return self._current

    def renewed(self, exchange: Exchange) -> str:
        """Return another token than the one just refused, "" where it was new already."""
        if self._failure is not None:
            raise self._failure
        return "" if self._renewed else self._renew(exchange)

    def _renew(self, exchange: Exchange) -> str:
        """Return a token that is not the current one, from the file or the token server."""
        self._renewed = True
        try:
            with self._file.locked(exchange.deadline.left_seconds) as replace:
                tokens = self._file.read()
                if tokens is None or tokens.access_token == self._current:
                    tokens = self._granted(exchange, tokens)
                    replace(tokens)
        except ExchangeError as error:
            self._failure = error
            raise
        self._current = tokens.access_token
        return self._current

    def _granted(self, exchange: Exchange, tokens: Tokens | None) -> Tokens:
        grant_type = exchange.backend.oauth_grant
        refresh_token = tokens.refresh_token if tokens else ""
        if grant_type == "client_credentials":
            return grant(exchange, time.time(), {"grant_type": grant_type})
        if not refresh_token:
            missing = "has no refresh token" if tokens else "is not there"
            raise _log_in(f"the token file {self._file.path} {missing}")
        asked = {"grant_type": grant_type, "refresh_token": refresh_token}
        try:
            new = grant(exchange, time.time(), asked)
        except OAuthError as error:
            if error.error == "invalid_grant":
                raise _log_in(error.detail) from None
            raise
        # A server that does not rotate refresh tokens sends none: the old one stays good.
        return msgspec.structs.replace(new, refresh_token=new.refresh_token or refresh_token)


def _log_in(reason: str) -> ExchangeError:
    detail = f"cannot get a token: {reason}; log in with geosched-ctl login"
    return ExchangeError(ErrorKind.UNAUTHORIZED, detail)


def grant(exchange: Exchange, now: float, asked: Mapping[str, str]) -> Tokens:
    """Return the tokens that the token server grants for the form `asked`.

    `now` is in seconds since 1970 by our clock. Raises `OAuthError` where the server says why
    it grants none, else `ExchangeError`.
    """
    backend = exchange.backend
    if asked["grant_type"] == "client_credentials":
        asked = {**asked, "scope": backend.oauth_scope, "audience": backend.oauth_audience}
    body = post_form(exchange, backend.oauth_token_url, asked)
    said_by = shown(backend.oauth_token_url)
    granted = decode_strictly(body, _decode_granted, f"tokens of {said_by}")
    if granted.token_type.lower() != "bearer" or not is_secret(granted.access_token):
        detail = f"cannot use the answer of {said_by}: no bearer token"
        raise ExchangeError(ErrorKind.BAD_ANSWER, detail)
    return Tokens(
        granted.access_token,
        granted.refresh_token if isinstance(granted.refresh_token, str) else "",
        "Bearer",
        granted.scope if isinstance(granted.scope, str) else "",
        now + granted.life_seconds if granted.life_seconds else 0,
    )


def post_form(exchange: Exchange, url: str, fields: Mapping[str, str]) -> bytes:
    """Send a form as the client; return the body of a response that is no error.

    Empty fields are left out. Raises as `grant` does.
    """
    backend = exchange.backend
    secret = read_secret(
        exchange.files,
        "oauth_client_secret_file",
        backend.oauth_client_secret_file,
        "client secret file",
    )
    form = {**fields, "client_id": backend.oauth_client_id, "client_secret": secret}
    given = {name: value for name, value in form.items() if value}
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = exchange.fetch("POST", url, headers, urlencode(given).encode())
    if 300 <= answer.status < 400:
        raise answer.refusal()
    body = answer.read(ANSWER_BYTES_MAX)
    try:
        said = decode_strictly(body, _decode_error, f"OAuth answer of {shown(url)}")
    except ExchangeError:
        if answer.status == 200:
            raise
        raise answer.refusal() from None
    if said.error:
        secrets = {value for name, value in given.items() if name in _SECRET_FIELDS}
        raise _oauth_error(said, secrets, refusal(answer.status, answer.headers, url), url)
    if answer.status != 200:
        raise answer.refusal()
    return body


_SECRET_FIELDS = ("client_secret", "refresh_token", "device_code")


def _oauth_error(
    said: _ErrorResponse, secrets: set[str], by_status: ExchangeError, url: str
) -> OAuthError:
    """Return the error, of a kind by its own word, else by the status."""
    text = ": ".join(part for part in (said.error, said.error_description) if part)
    for secret in secrets:
        text = text.replace(secret, "...")  # a server that quotes what it was asked
    kind = by_status.kind
    if said.error in _UNAUTHORIZED:
        kind = ErrorKind.UNAUTHORIZED
    elif said.error in _BUSY:
        kind = ErrorKind.BUSY
    detail = f"{shown(url)} answers {printable(text)}"
    return OAuthError(kind, detail, said.error or "", by_status.retry_after_seconds)
