"""Access tokens are renewed by refresh tokens, against a real token server."""

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from geosched.ipc.messages.sync import BackendAddress, ErrorKind
from support.backend import BackendServer, address
from support.oauth import ACCESS, REFRESH, Answer, OAuthServer, keep_tokens, kept_tokens
from support.oauth_exchanges import LATE_SECONDS, TIMEOUT_SECONDS, error_of, pull, with_client

LONG_AGO, FAR_AHEAD = 1, 4_000_000_000


def test_a_token_that_is_good_is_used_and_not_renewed(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer
) -> None:
    pull(where)
    assert server.asked[0].headers["Authorization"] == f"Bearer {ACCESS}-0"
    assert oauth.forms == []


def test_a_token_that_the_backend_refuses_is_renewed_once_and_asked_with_once_more(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    server.token = "revoked"
    assert len(pull(where).actions) == 1
    assert oauth.forms == [
        {
            "path": "/token",
            "grant_type": "refresh_token",
            "refresh_token": f"{REFRESH}-0",
            "client_id": "device-1",
        }
    ]
    sent = [asked.headers["Authorization"] for asked in server.asked]
    assert sent == [f"Bearer {ACCESS}-0", f"Bearer {ACCESS}-1"]
    kept = kept_tokens(tokens)
    assert (kept["access_token"], kept["refresh_token"]) == (f"{ACCESS}-1", f"{REFRESH}-1")
    assert abs(kept["expires_at"] - time.time() - 3600) < 60
    pull(where)
    assert len(oauth.forms) == 1


def test_a_backend_that_refuses_the_new_token_too_is_unauthorized_and_the_login_is_kept(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    oauth.issued = lambda _: None
    server.token = "of somebody else"
    assert error_of(where).kind is ErrorKind.UNAUTHORIZED
    assert (len(server.asked), len(oauth.forms)) == (2, 1)
    assert kept_tokens(tokens)["refresh_token"] == f"{REFRESH}-1"


def test_new_tokens_are_on_the_disk_before_the_backend_sees_them(
    oauth: OAuthServer, tokens: Path
) -> None:
    class OnDisk(BackendServer):
        """Lets in who has the token that the file holds, if that is not the first one."""

        @property
        def token(self) -> str:
            kept = str(kept_tokens(tokens)["access_token"])
            return "none" if kept == f"{ACCESS}-0" else kept

        @token.setter
        def token(self, _: str) -> None: ...

    with OnDisk() as server:
        at = address(url=server.url, token_file=str(tokens), **oauth.client())
        pull(at)
        keep_tokens(tokens, expires_at=LONG_AGO, refresh_token=f"{REFRESH}-1")
        pull(at)
        assert len(server.asked) == 3


def test_a_refresh_token_that_is_not_rotated_stays_good(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    oauth.rotates = False
    for _ in range(2):
        server.token = "revoked"
        pull(where)
    assert kept_tokens(tokens)["refresh_token"] == f"{REFRESH}-0"


def test_a_token_near_its_end_is_renewed_before_it_is_used(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    keep_tokens(tokens, expires_at=time.time() + 10)
    pull(where)
    assert [asked.headers["Authorization"] for asked in server.asked] == [f"Bearer {ACCESS}-1"]
    assert len(oauth.forms) == 1


@pytest.mark.parametrize("expires_at", [LONG_AGO, FAR_AHEAD, 0])
def test_however_wrong_the_clock_is_a_revoked_token_is_renewed_and_used(
    expires_at: int, where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    keep_tokens(tokens, expires_at=expires_at)
    server.token = "revoked"
    pull(where)
    assert len(oauth.forms) == 1


@pytest.mark.parametrize("answer", [(503, b"later"), (0, b""), (403, {"error": "invalid_grant"})])
def test_a_token_that_only_our_clock_calls_expired_is_used_when_there_is_no_other(
    answer: Answer, where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    keep_tokens(tokens, expires_at=LONG_AGO)
    before = tokens.read_bytes()
    oauth.answers = [answer]
    assert len(pull(where).actions) == 1
    server.token = "revoked"
    oauth.answers = [answer]
    error_of(where)
    assert len(oauth.forms) == 2, "one try an exchange"
    assert tokens.read_bytes() == before


def test_a_login_that_is_over_says_so_and_is_not_thrown_away(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    before = tokens.read_bytes()
    server.token, oauth.revoked = "revoked", True
    error = error_of(where)
    assert error.kind is ErrorKind.UNAUTHORIZED
    assert "invalid_grant: ... is unknown" in error.detail
    assert "log in with geosched-ctl login" in error.detail
    assert tokens.read_bytes() == before


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((0, b""), ErrorKind.UNREACHABLE),
        ((200, b"<html>Welcome"), ErrorKind.BAD_ANSWER),
        ((200, b"[" * 60_000), ErrorKind.BAD_ANSWER),
        ((200, b" " * 100_000), ErrorKind.TOO_LARGE),
        ((200, {}), ErrorKind.BAD_ANSWER),
        ((200, {"access_token": "x"}), ErrorKind.BAD_ANSWER),
        ((200, {"access_token": "x", "token_type": "mac"}), ErrorKind.BAD_ANSWER),
        ((200, {"access_token": "a b", "token_type": "Bearer"}), ErrorKind.BAD_ANSWER),
        ((200, {"error": "invalid_grant"}), ErrorKind.UNAUTHORIZED),
        ((307, b""), ErrorKind.REFUSED),
        ((400, {"error": "invalid_scope"}), ErrorKind.REFUSED),
        ((401, {"error": "invalid_client"}), ErrorKind.UNAUTHORIZED),
        ((403, b"<html>Forbidden"), ErrorKind.UNAUTHORIZED),
        ((429, {"error": "slow_down"}), ErrorKind.BUSY),
        ((500, {"message": "no"}), ErrorKind.REFUSED),
        ((503, b""), ErrorKind.BUSY),
    ],
)
def test_a_token_server_that_fails_is_an_error_of_its_kind_and_costs_no_login(
    answer: Answer,
    kind: ErrorKind,
    where: BackendAddress,
    server: BackendServer,
    oauth: OAuthServer,
    tokens: Path,
) -> None:
    before = tokens.read_bytes()
    server.token = "revoked"
    oauth.answers = [answer]
    assert error_of(where).kind is kind
    assert tokens.read_bytes() == before
    assert sorted(path.name for path in tokens.parent.iterdir()) == [
        "tokens.json",
        "tokens.json.lock",
    ]
    pull(where)


@pytest.mark.parametrize("expires_in", ["3600", 1e300, -5, None])
def test_what_a_server_says_of_a_tokens_life_never_spoils_the_file(
    expires_in: Any, where: BackendAddress, server: BackendServer, oauth: OAuthServer
) -> None:
    oauth.expires_in = expires_in
    server.token = "revoked"
    pull(where)
    pull(where)
    assert len(oauth.forms) == 1


def test_a_silent_token_server_ends_with_the_exchange(
    where: BackendAddress, server: BackendServer
) -> None:
    server.token = "revoked"
    with BackendServer(fault="slow", slow_seconds=20) as silent:
        at = with_client(where, token_url=silent.url)
        at = msgspec.structs.replace(at, timeout_seconds=TIMEOUT_SECONDS)
        begun = time.monotonic()
        assert error_of(at).kind is ErrorKind.TIMEOUT
        assert time.monotonic() - begun < TIMEOUT_SECONDS + LATE_SECONDS


def test_without_a_login_the_error_says_how_to_get_one(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    tokens.unlink()
    error = error_of(where)
    assert error.kind is ErrorKind.UNAUTHORIZED
    assert f"{tokens} is not there; log in with geosched-ctl login" in error.detail
    assert (server.asked, oauth.forms) == ([], [])


def test_a_login_without_a_refresh_token_lasts_as_long_as_its_access_token(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    keep_tokens(tokens, refresh_token="")
    pull(where)
    server.token = "revoked"
    assert "has no refresh token; log in" in error_of(where).detail
    assert oauth.forms == []
