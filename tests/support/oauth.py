"""A real OAuth 2.0 server on loopback: refresh tokens, client credentials, device codes.

    with OAuthServer() as server:
        address = backend_address(oauth=server.client(), token_file=...)

It renews refresh tokens with each use as careful servers do: one that comes twice revokes
the login. `answers` are given instead of its own, one a request, in their order.
"""

import json
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

from geosched.ipc.messages.sync import OAuthClient

DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
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


class OAuthServer:
    """All fields may be changed while it runs. `issued` is called with each new access
    token; `rotates` is whether refresh tokens are renewed; `confirmed` what a person said
    to a device code: None for nothing yet. `slow_seconds` is how long it takes to answer."""

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
        self.asked: list[dict[str, str]] = []  # every form that came, with its path
        self.revoked = False
        self._good_refresh = f"{REFRESH}-0"
        self._count = 0
        self._lock = threading.Lock()
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def client(self, **fields: Any) -> OAuthClient:
        base: dict[str, Any] = {
            "grant": "refresh_token",
            "token_url": self.url("/token"),
            "device_url": self.url("/device"),
            "client_id": "device-1",
            "client_secret_file": "",
            "audience": "",
            "scope": "",
        }
        return OAuthClient(**{**base, **fields})

    def settings(self) -> dict[str, Any]:
        """For the table `[backend]`."""
        client = self.client()
        return {
            "auth": "oauth",
            "oauth_token_url": client.token_url,
            "oauth_device_url": client.device_url,
            "oauth_client_id": client.client_id,
        }

    def answer(self, path: str, form: dict[str, str]) -> "Answer":
        with self._lock:
            self.asked.append({"path": path, **form})
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

    def _confirmed(self) -> "Answer":
        if self.confirmed is None:
            return 403, {"error": "authorization_pending", "error_description": "wait"}
        if not self.confirmed:
            return 403, {"error": "access_denied"}
        self.revoked = False
        return 200, self._tokens()

    def _refreshed(self, token: str) -> "Answer":
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


#: Status, and what the body is: JSON, or bytes as they are.
Answer = tuple[int, dict[str, Any] | bytes]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, oauth: OAuthServer) -> None:
        self.oauth = oauth
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        """Without the look-up of our own name that `HTTPServer` makes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:  # the name that BaseHTTPRequestHandler looks for
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        time.sleep(self.server.oauth.slow_seconds)
        status, answer = self.server.oauth.answer(self.path, dict(parse_qsl(body.decode())))
        if status == 0:  # hang up
            self.close_connection = True
            return
        encoded = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(encoded)))
        if 300 <= status < 400:
            self.send_header("Location", "https://elsewhere.example/token")
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests look at `asked`."""
