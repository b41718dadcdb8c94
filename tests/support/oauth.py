"""A real OAuth 2.0 server on loopback: refresh tokens, client credentials, device codes.

    with OAuthServer() as server:
        address = backend_address(oauth=server.client(), token_file=...)

It renews refresh tokens with each use as careful servers do: one that comes twice revokes
the login. `answers` are given instead of its own, one a request, in their order.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from .loopback import Asked, HttpHandler, Loopback

DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
#: Status, and what the body is: JSON, or bytes as they are. A status of 0 hangs up.
Answer = tuple[int, dict[str, Any] | bytes]
ACCESS, REFRESH, DEVICE = "access-s3cret", "refresh-s3cret", "device-s3cret"


def keep_tokens(path: Path, **fields: Any) -> None:
    """A token file as the original daemon writes it."""
    tokens = {
        "access_token": f"{ACCESS}-0",
        "refresh_token": f"{REFRESH}-0",
        "id_token": "id-s3cret",
        "scope": "openid offline_access",
        "expires_at": 4_000_000_000,
        "token_type": "Bearer",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps({**tokens, **fields}))


def kept_tokens(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def form_of(asked: Asked) -> dict[str, str]:
    return dict(parse_qsl(asked.body.decode()))


class OAuthHandler(HttpHandler):
    def answer(self, asked: Asked) -> None:
        oauth = self.server.owner
        assert isinstance(oauth, OAuthServer)
        time.sleep(oauth.slow_seconds)
        status, answer = oauth.answer(asked.path, form_of(asked))
        if status == 0:
            self.hang_up()
            return
        elsewhere = {"Location": "https://elsewhere.example/token"} if 300 <= status < 400 else {}
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.reply(status, body, **elsewhere)


class OAuthServer(Loopback):
    """All fields may be changed while it runs. `issued` is called with each new access
    token; `rotates` is whether refresh tokens are renewed; `confirmed` what a person said
    to a device code: None for nothing yet. `slow_seconds` is how long it takes to answer."""

    handler = OAuthHandler

    def __init__(self) -> None:
        self.rotates = True
        self.refreshable = True
        self.expires_in: Any = 3600
        self.interval: Any = 1
        self.valid_seconds: Any = 60
        self.confirmed: bool | None = None
        self.slow_seconds = 0.0
        self.answers: list[Answer] = []
        self.issued: Callable[[str], None] = lambda _: None
        self.revoked = False
        self._good_refresh = f"{REFRESH}-0"
        self._count = 0
        super().__init__()

    @property
    def forms(self) -> list[dict[str, str]]:
        """Every form that came, with its path."""
        return [{"path": asked.path, **form_of(asked)} for asked in self.asked]

    def client(self, **fields: Any) -> dict[str, Any]:
        """Fields of a `BackendAddress`; those given replace, without their `oauth_`."""
        base = {
            "token_url": self.url_of("/token"),
            "device_url": self.url_of("/device"),
            "client_id": "device-1",
        }
        return {"auth": "oauth"} | {f"oauth_{k}": v for k, v in {**base, **fields}.items()}

    def settings(self) -> dict[str, Any]:
        """For the table `[backend]`."""
        return self.client()

    def answer(self, path: str, form: dict[str, str]) -> Answer:
        with self._lock:
            if self.answers:
                return self.answers.pop(0)
            if path == "/device":
                return 200, self._device()
            match form.get("grant_type"):
                case "refresh_token":
                    return self._refreshed(form["refresh_token"])
                case "client_credentials":
                    return 200, self._tokens()
                case grant if grant == DEVICE_CODE_GRANT:
                    return self._confirmed()
                case _:
                    return 400, {"error": "unsupported_grant_type"}

    def _device(self) -> dict[str, Any]:
        return {
            "device_code": DEVICE,
            "user_code": "ABCD-EFGH",
            "verification_uri": "https://login.example/activate",
            "verification_uri_complete": "https://login.example/activate?user_code=ABCD-EFGH",
            "expires_in": self.valid_seconds,
            "interval": self.interval,
        }

    def _confirmed(self) -> Answer:
        if self.confirmed is None:
            return 403, {"error": "authorization_pending", "error_description": "wait"}
        if not self.confirmed:
            return 403, {"error": "access_denied"}
        self.revoked = False
        return 200, self._tokens()

    def _refreshed(self, token: str) -> Answer:
        if self.revoked or token != self._good_refresh:
            self.revoked = True
            return 403, {"error": "invalid_grant", "error_description": f"{token} is unknown"}
        return 200, self._tokens()

    def _tokens(self) -> dict[str, Any]:
        self._count += 1
        access = f"{ACCESS}-{self._count}"
        self.issued(access)
        tokens = {"access_token": access, "token_type": "Bearer", "expires_in": self.expires_in}
        if self.rotates and self.refreshable:
            self._good_refresh = f"{REFRESH}-{self._count}"
            tokens["refresh_token"] = self._good_refresh
        return tokens
