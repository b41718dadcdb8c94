"""The file that tokens are kept in, and one process at a time that renews them."""

import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from geosched.ipc.messages.broker import TOKENS_BYTES_MAX
from geosched.ipc.messages.sync import BackendAddress, ErrorKind
from geosched.workers.sync.base import Snapshot
from support.backend import BackendServer
from support.mounts import fill, mounted
from support.oauth import ACCESS, REFRESH, OAuthServer, keep_tokens, kept_tokens
from support.oauth_exchanges import LATE_SECONDS, TIMEOUT_SECONDS, error_of, pull
from support.second_user import SECOND_USER
from support.wait import wait_for

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
    assert f"(mode {mode:04o})" in error_of(where).detail
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


def test_root_uses_no_tokens_in_a_directory_of_others(
    where: BackendAddress, server: BackendServer, tokens: Path, tmp_path: Path
) -> None:
    """Whoever owns the directory could put another name of any file there."""
    if os.geteuid() != 0:
        pytest.skip("only root has files that others must not give it")
    os.chown(tmp_path, SECOND_USER, SECOND_USER)
    error = error_of(where)
    assert error.kind is ErrorKind.UNAUTHORIZED
    assert f"{tmp_path} belongs to user {SECOND_USER}" in error.detail
    assert server.asked == []
    os.chown(tmp_path, 0, 0)
    os.chown(tokens, SECOND_USER, -1)
    assert f"{tokens} belongs to user {SECOND_USER}" in error_of(where).detail


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
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=128k,mode=700", "tmpfs"):
        tokens = tmp_path / "small" / "tokens.json"
        keep_tokens(tokens)
        fill(tmp_path / "small" / "ballast")
        error = error_of(msgspec.structs.replace(where, token_file=str(tokens)))
        assert kept_tokens(tokens)["refresh_token"] == f"{REFRESH}-0"
    assert error.kind is ErrorKind.LOCAL
    assert "No space left" in error.detail
    assert oauth.forms == []


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
    assert len(oauth.forms) == 1
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
        assert len(oauth.forms) == turn + 1


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
    assert oauth.forms == []
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
    assert oauth.forms == []
