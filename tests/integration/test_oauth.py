"""Tokens by OAuth 2.0 against a real token server, with the real backends."""

import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from geosched.ipc.messages.sync import BackendAddress, ErrorKind, Pull
from geosched.workers.sync.auth.tokens import TOKENS_BYTES_MAX
from geosched.workers.sync.backends.http import HttpBackend
from geosched.workers.sync.base import ExchangeError, Snapshot
from support.backend import BackendServer, address, entry
from support.mounts import fill, mounted
from support.oauth import ACCESS, REFRESH, Answer, OAuthServer, keep_tokens, kept_tokens
from support.wait import wait_for

LONG_AGO, FAR_AHEAD = 1, 4_000_000_000
TIMEOUT_SECONDS = 1.0
LATE_SECONDS = 1.5


@pytest.fixture
def oauth() -> Iterator[OAuthServer]:
    with OAuthServer() as running:
        yield running


@pytest.fixture
def server(oauth: OAuthServer) -> Iterator[BackendServer]:
    """A backend that takes the newest token of the token server and no other."""
    with BackendServer(token=f"{ACCESS}-0") as running:
        running.set_actions([entry("a")])
        oauth.issued = lambda token: setattr(running, "token", token)
        yield running


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.json"
    keep_tokens(path)
    return path


@pytest.fixture
def where(server: BackendServer, oauth: OAuthServer, tokens: Path) -> BackendAddress:
    return address(url=server.url, token_file=str(tokens), oauth=oauth.client())


def pull(at: BackendAddress) -> Snapshot:
    found = HttpBackend().pull(Pull(1, at, 0))
    assert isinstance(found, Snapshot)
    return found


def error_of(at: BackendAddress) -> ExchangeError:
    with pytest.raises(ExchangeError) as caught:
        pull(at)
    assert "s3cret" not in caught.value.detail
    return caught.value


def with_client(at: BackendAddress, **fields: Any) -> BackendAddress:
    assert at.oauth is not None
    return msgspec.structs.replace(at, oauth=msgspec.structs.replace(at.oauth, **fields))


# --- the refresh token -------------------------------------------------------------------


def test_a_token_that_is_good_is_used_and_not_renewed(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer
) -> None:
    pull(where)
    assert server.asked[0].headers["Authorization"] == f"Bearer {ACCESS}-0"
    assert oauth.asked == []


def test_a_token_that_the_backend_refuses_is_renewed_once_and_asked_with_once_more(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    server.token = "revoked"
    assert len(pull(where).actions) == 1
    assert oauth.asked == [
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
    assert len(oauth.asked) == 1


def test_a_backend_that_refuses_the_new_token_too_is_unauthorized_and_the_login_is_kept(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    oauth.issued = lambda _: None
    server.token = "of somebody else"
    assert error_of(where).kind is ErrorKind.UNAUTHORIZED
    assert (len(server.asked), len(oauth.asked)) == (2, 1)
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
        at = address(url=server.url, token_file=str(tokens), oauth=oauth.client())
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
    assert len(oauth.asked) == 1


@pytest.mark.parametrize("expires_at", [LONG_AGO, FAR_AHEAD, 0])
def test_however_wrong_the_clock_is_a_revoked_token_is_renewed_and_used(
    expires_at: int, where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    keep_tokens(tokens, expires_at=expires_at)
    server.token = "revoked"
    pull(where)
    assert len(oauth.asked) == 1


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
    assert len(oauth.asked) == 2, "one try an exchange"
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
    if expires_in is None:
        assert error_of(where).kind is ErrorKind.BAD_ANSWER
        return
    pull(where)
    pull(where)
    assert len(oauth.asked) == 1


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
    assert (server.asked, oauth.asked) == ([], [])


def test_a_login_without_a_refresh_token_lasts_as_long_as_its_access_token(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    keep_tokens(tokens, refresh_token="")
    pull(where)
    server.token = "revoked"
    assert "has no refresh token; log in" in error_of(where).detail
    assert oauth.asked == []


# --- the file ----------------------------------------------------------------------------


def test_new_tokens_are_for_their_owner_only_whatever_the_umask(
    where: BackendAddress, server: BackendServer, tokens: Path
) -> None:
    server.token = "revoked"
    before = os.umask(0)
    try:
        pull(where)
    finally:
        os.umask(before)
    for path in tokens.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"s3cret",
        b'{"access_token": 5}',
        b'{"access_token": "a b"}',
        b'{"access_token": "\xff s3cret"}',
        b"[" * 50_000,
        b" " * (TOKENS_BYTES_MAX + 1),
    ],
)
def test_a_file_that_holds_no_tokens_is_unauthorized_and_left_as_it_is(
    content: bytes, where: BackendAddress, server: BackendServer, tokens: Path
) -> None:
    tokens.write_bytes(content)
    error = error_of(where)
    assert error.kind is ErrorKind.UNAUTHORIZED
    assert str(tokens) in error.detail
    assert tokens.read_bytes() == content
    assert server.asked == []


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(
    mode: int, where: BackendAddress, server: BackendServer, tokens: Path
) -> None:
    tokens.chmod(mode)
    assert f"others than its owner can write it (mode {mode:04o})" in error_of(where).detail
    assert server.asked == []


def test_what_a_process_left_that_was_killed_meanwhile_is_overcome(
    where: BackendAddress, server: BackendServer, tokens: Path
) -> None:
    Path(f"{tokens}.new").write_text("half")
    Path(f"{tokens}.lock").touch()
    server.token = "revoked"
    pull(where)
    assert not Path(f"{tokens}.new").exists()


def test_a_link_in_the_place_of_the_new_file_is_not_followed(
    where: BackendAddress, server: BackendServer, tokens: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    Path(f"{tokens}.new").symlink_to(victim)
    server.token = "revoked"
    pull(where)
    assert victim.read_text() == "precious"


def test_root_gives_away_only_what_it_made(
    where: BackendAddress, server: BackendServer, tokens: Path, tmp_path: Path
) -> None:
    """Whoever owns the directory could have put another name of any file there."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)
    os.link(precious, f"{tokens}.lock")
    os.chown(tmp_path, 65534, 65534)
    server.token = "revoked"
    pull(where)
    assert precious.stat().st_uid == 0
    assert tokens.stat().st_uid == 65534


def test_a_link_to_the_tokens_stays_one(
    where: BackendAddress, server: BackendServer, tokens: Path, tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    link = tmp_path / "etc" / "tokens.json"
    link.symlink_to(tokens)
    server.token = "revoked"
    pull(msgspec.structs.replace(where, token_file=str(link)))
    assert link.is_symlink()
    assert kept_tokens(tokens)["access_token"] == f"{ACCESS}-1"
    assert list(link.parent.iterdir()) == [link]


def test_a_full_disk_is_found_out_before_a_token_is_asked_for(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tmp_path: Path
) -> None:
    server.token = "revoked"
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=128k", "tmpfs"):
        tokens = tmp_path / "small" / "tokens.json"
        keep_tokens(tokens)
        fill(tmp_path / "small" / "ballast")
        error = error_of(msgspec.structs.replace(where, token_file=str(tokens)))
        assert kept_tokens(tokens)["refresh_token"] == f"{REFRESH}-0"
    assert error.kind is ErrorKind.LOCAL
    assert "No space left" in error.detail
    assert oauth.asked == []


# --- one at a time -----------------------------------------------------------------------

PULLER = """
import sys, msgspec
from geosched.ipc.messages.sync import BackendAddress, Pull
from geosched.workers.sync.backends.http import HttpBackend
HttpBackend().pull(Pull(1, msgspec.json.decode(sys.argv[1], type=BackendAddress), 0))
"""


def test_of_many_processes_one_renews_the_token_and_the_others_use_it(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    """A server that rotates refresh tokens ends the login when an old one comes again."""
    server.token, oauth.slow_seconds = "revoked", 0.3  # two that ask at once would be seen
    at = msgspec.structs.replace(where, timeout_seconds=20.0)
    command = [sys.executable, "-P", "-c", PULLER, msgspec.json.encode(at).decode()]
    with Path(f"{tokens}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
        wait_for(lambda: len(server.asked) == 4, seconds=20, what="four refused requests")
    for process in processes:
        _, complaint = process.communicate(timeout=20)
        assert process.returncode == 0, complaint.decode()
    assert len(oauth.asked) == 1
    assert not oauth.revoked


def test_many_that_make_the_lock_at_once_do_not_disturb_each_other(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    for turn in range(10):
        server.token = "revoked"
        Path(f"{tokens}.lock").unlink(missing_ok=True)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: pull(where), range(8)))
        assert len(found) == 8
        assert len(oauth.asked) == turn + 1


def test_a_process_that_holds_the_lock_too_long_costs_an_exchange_and_no_more(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    server.token = "revoked"
    at = msgspec.structs.replace(where, timeout_seconds=TIMEOUT_SECONDS)
    with Path(f"{tokens}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        begun = time.monotonic()
        error = error_of(at)
        assert time.monotonic() - begun < TIMEOUT_SECONDS + LATE_SECONDS
    assert error.kind is ErrorKind.LOCAL
    assert "another process has held" in error.detail
    assert oauth.asked == []
    pull(at)


def test_tokens_of_a_login_meanwhile_are_used_instead_of_asking_for_others(
    where: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    server.token = "of the login"
    with Path(f"{tokens}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found: list[Snapshot] = []
        puller = threading.Thread(target=lambda: found.append(pull(where)))
        puller.start()
        wait_for(lambda: server.asked, what="the request with the old token")
        server.token = "token-of-the-login"
        keep_tokens(tokens, access_token="token-of-the-login")
    puller.join(10)
    assert len(found) == 1
    assert oauth.asked == []


# --- client credentials ------------------------------------------------------------------


@pytest.fixture
def machine(where: BackendAddress, tokens: Path, tmp_path: Path) -> BackendAddress:
    tokens.unlink()
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("client-s3cret\n")
    return with_client(
        where,
        grant="client_credentials",
        client_secret_file=str(secret),
        audience="https://backend.example/",
        scope="actions",
    )


def test_a_client_with_a_secret_gets_a_token_and_keeps_it(
    machine: BackendAddress, server: BackendServer, oauth: OAuthServer, tokens: Path
) -> None:
    for _ in range(2):
        pull(machine)
    assert oauth.asked == [
        {
            "path": "/token",
            "grant_type": "client_credentials",
            "scope": "actions",
            "audience": "https://backend.example/",
            "client_id": "device-1",
            "client_secret": "client-s3cret",
        }
    ]
    server.token = "revoked"
    pull(machine)
    assert len(oauth.asked) == 2
    assert kept_tokens(tokens)["access_token"] == f"{ACCESS}-2"


def test_a_server_that_quotes_a_secret_does_not_get_it_into_a_message(
    machine: BackendAddress, oauth: OAuthServer
) -> None:
    said = {"error": "invalid_client", "error_description": "client-s3cret is wrong"}
    oauth.answers = [(401, said)]
    error = error_of(machine)
    assert error.kind is ErrorKind.UNAUTHORIZED
    assert "invalid_client: ... is wrong" in error.detail


@pytest.mark.parametrize("spoil", ["missing", "open"])
def test_a_client_secret_that_cannot_be_used_is_named(
    spoil: str, machine: BackendAddress, oauth: OAuthServer
) -> None:
    assert machine.oauth is not None
    secret = Path(machine.oauth.client_secret_file)
    if spoil == "missing":
        secret.unlink()
    else:
        secret.chmod(0o666)
    error = error_of(machine)
    assert error.kind is ErrorKind.UNAUTHORIZED
    assert f"the client secret file {secret}" in error.detail
    assert oauth.asked == []
