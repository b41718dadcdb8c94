"""Whom the synchroniser trusts, how it says who it is, and through which proxy: with real
certificates, real TLS and a real proxy on loopback."""

import os
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from geosched.ipc.messages.sync import BackendAddress, ErrorKind, Pull
from geosched.workers.sync.backends.http import HttpBackend
from geosched.workers.sync.base import ExchangeError, Snapshot
from support.backend import BackendServer, address, entry
from support.oauth import OAuthServer, keep_tokens
from support.tls import Dripping, Proxy, authority, ca_file, client_files, server_context

TIMEOUT_SECONDS = 1.0
LATE_SECONDS = 1.5


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return authority()


@pytest.fixture(scope="module")
def other_ca() -> trustme.CA:
    return authority()


@pytest.fixture
def server(ca: trustme.CA) -> Iterator[BackendServer]:
    with BackendServer(tls=server_context(ca), token="s3cret") as running:
        running.set_actions([entry("a")])
        yield running


@pytest.fixture
def where(server: BackendServer, ca: trustme.CA, tmp_path: Path) -> Callable[..., BackendAddress]:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("s3cret")

    def made(**fields: Any) -> BackendAddress:
        base = {"url": server.url, "ca_file": ca_file(ca, tmp_path), "token_file": str(token)}
        return address(**{**base, **fields})

    return made


def pull(at: BackendAddress) -> Snapshot:
    found = HttpBackend().pull(Pull(1, at, 0))
    assert isinstance(found, Snapshot)
    return found


def error_of(at: BackendAddress) -> ExchangeError:
    with pytest.raises(ExchangeError) as caught:
        pull(at)
    assert caught.value.detail.isprintable()
    assert "s3cret" not in caught.value.detail
    return caught.value


# --- whom we trust -----------------------------------------------------------------------


def test_a_private_authority_is_trusted_where_it_is_configured_and_nowhere_else(
    where: Callable[..., BackendAddress],
    server: BackendServer,
    other_ca: trustme.CA,
    tmp_path: Path,
) -> None:
    assert len(pull(where()).actions) == 1
    server.asked.clear()
    for known in ("", ca_file(other_ca, tmp_path, "other.pem")):
        error = error_of(where(ca_file=known))
        assert error.kind is ErrorKind.UNTRUSTED
        assert f"the certificate of {server.url}/actions: unable to get local" in error.detail
    assert server.asked == [], "no token for a stranger"


@pytest.mark.parametrize(
    ("names", "valid_days", "reason"),
    [
        (["backend.example"], (-1, 1), "IP address mismatch"),
        (["127.0.0.1"], (-2, -1), "certificate has expired, or the clock of this host is wrong"),
        (["127.0.0.1"], (1, 2), "certificate is not yet valid, or the clock of this host is"),
    ],
)
def test_a_certificate_that_is_not_the_peers_or_not_of_today_is_not_trusted(
    names: list[str],
    valid_days: tuple[float, float],
    reason: str,
    where: Callable[..., BackendAddress],
    server: BackendServer,
    ca: trustme.CA,
) -> None:
    server.tls = server_context(ca, *names, valid_days=valid_days)
    error = error_of(where())
    assert error.kind is ErrorKind.UNTRUSTED
    assert reason in error.detail
    assert server.asked == []


@pytest.mark.parametrize("valid_days", [(-2, -1), (1, 2)], ids=["expired", "not-yet-valid"])
def test_a_clock_that_is_not_believed_says_nothing_about_dates(
    valid_days: tuple[float, float],
    where: Callable[..., BackendAddress],
    server: BackendServer,
    ca: trustme.CA,
    other_ca: trustme.CA,
    tmp_path: Path,
) -> None:
    """But only to our own authority; whose name and whose chain it is still counts."""
    server.tls = server_context(ca, valid_days=valid_days)
    assert len(pull(where(clock_believed=False)).actions) == 1
    server.asked.clear()
    unknown = ca_file(other_ca, tmp_path, "other.pem")
    for at in (
        where(),
        where(clock_believed=False, ca_file=unknown),
        where(clock_believed=False, ca_file=""),
    ):
        assert error_of(at).kind is ErrorKind.UNTRUSTED
    server.tls = server_context(ca, "backend.example", valid_days=valid_days)
    assert "IP address mismatch" in error_of(where(clock_believed=False)).detail
    assert server.asked == []


def test_a_peer_without_any_cipher_in_common_is_told_as_far_as_it_can_be(
    where: Callable[..., BackendAddress], server: BackendServer
) -> None:
    """In TLS 1.2 it says the same as one that wants a certificate."""
    assert server.tls is not None
    server.tls.maximum_version = ssl.TLSVersion.TLSv1_2
    server.tls.set_ciphers("AES128-SHA")
    assert "or has no TLS in common with us" in error_of(where()).detail


def test_a_handshake_that_drips_ends_in_time() -> None:
    with Dripping() as dripping:
        begun = time.monotonic()
        error = error_of(address(url=dripping.url, timeout_seconds=TIMEOUT_SECONDS))
    assert error.kind is ErrorKind.TIMEOUT
    assert time.monotonic() - begun < TIMEOUT_SECONDS + LATE_SECONDS


def test_tokens_are_renewed_over_the_same_authorities(
    where: Callable[..., BackendAddress], server: BackendServer, tmp_path: Path
) -> None:
    """A token server whose certificate proves nothing gets no refresh token."""
    tokens = tmp_path / "tokens.json"
    keep_tokens(tokens)
    with OAuthServer() as plain, BackendServer(tls=server.tls) as token_server:
        client = plain.client(token_url=token_server.url)
        at = where(token_file=str(tokens), **client)
        assert "404 Not Found" in error_of(at).detail
        assert len(token_server.asked) == 1
        token_server.asked.clear()
        assert error_of(where(token_file=str(tokens), ca_file="", **client)).kind is (
            ErrorKind.UNTRUSTED
        )
        assert token_server.asked == []


# --- who we are --------------------------------------------------------------------------


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def strict(request: pytest.FixtureRequest, server: BackendServer, ca: trustme.CA) -> BackendServer:
    """A backend that wants a certificate of its own authority."""
    context = server_context(ca)
    context.minimum_version = context.maximum_version = request.param
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    server.tls = context
    return server


def test_our_certificate_lets_us_in(
    strict: BackendServer, where: Callable[..., BackendAddress], ca: trustme.CA, tmp_path: Path
) -> None:
    assert len(pull(where(**client_files(ca, tmp_path))).actions) == 1


def test_without_a_certificate_or_with_one_of_strangers_we_are_unauthorized(
    strict: BackendServer,
    where: Callable[..., BackendAddress],
    other_ca: trustme.CA,
    tmp_path: Path,
) -> None:
    for files in ({}, client_files(other_ca, tmp_path)):
        error = error_of(where(**files))
        assert error.kind is ErrorKind.UNAUTHORIZED
        assert "client certificate" in error.detail
    assert strict.asked == []


def spoiled(files: dict[str, str], how: str, ca: trustme.CA, tmp_path: Path) -> str:
    """What the error has to say once the files are spoiled."""
    cert, key = Path(files["client_cert"]), Path(files["client_key"])
    match how:
        case "no certificate":
            cert.unlink()
            return f"client_cert: cannot read {cert}: No such file"
        case "no key":
            key.unlink()
            return f"cannot use the client key {key}: No such file"
        case "garbage":
            cert.write_text("garbage")
            return f"client_cert: cannot use {cert} with {key}: they are no PEM"
        case "another key":
            ca.issue_cert("other").private_key_pem.write_to_path(str(key))
            return f"client_cert: cannot use {cert} with {key}: they do not belong together"
        case "encrypted":
            loaded = serialization.load_pem_private_key(key.read_bytes(), None)
            key.write_bytes(
                loaded.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.BestAvailableEncryption(b"s3cret"),
                )
            )
            return f"client_key: {key} is encrypted"
        case _:
            key.chmod(0o660)
            return f"cannot use the client key {key}: others than its owner can write it"


@pytest.mark.parametrize(
    "how", ["no certificate", "no key", "garbage", "another key", "encrypted", "open"]
)
def test_a_certificate_of_ours_that_cannot_be_used_is_named(
    how: str,
    server: BackendServer,
    where: Callable[..., BackendAddress],
    ca: trustme.CA,
    tmp_path: Path,
) -> None:
    files = client_files(ca, tmp_path)
    reason = spoiled(files, how, ca, tmp_path)
    error = error_of(where(**files))
    assert reason in error.detail
    assert error.kind in (ErrorKind.LOCAL, ErrorKind.UNAUTHORIZED)
    assert server.asked == []


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_authorities_that_cannot_be_read_are_our_own_fault(
    content: bytes | None, where: Callable[..., BackendAddress], tmp_path: Path
) -> None:
    known = tmp_path / "known.pem"
    if content is not None:
        known.write_bytes(content)
    error = error_of(where(ca_file=str(known)))
    assert error.kind is ErrorKind.LOCAL
    assert f"backend.ca_file: {'cannot read ' if content is None else ''}{known}" in error.detail


# --- the proxy ---------------------------------------------------------------------------


def test_https_goes_through_the_proxy_which_sees_no_token(
    where: Callable[..., BackendAddress], server: BackendServer
) -> None:
    with Proxy() as proxy:
        assert len(pull(where(proxy=proxy.url)).actions) == 1
        (asked,) = proxy.asked
        assert (asked.method, asked.path) == ("CONNECT", f"127.0.0.1:{server.port}")
        assert not [name for name in asked.headers if "authorization" in name.lower()]
    assert server.asked[0].headers["Authorization"] == "Bearer s3cret"


def test_plain_http_goes_through_the_proxy_too() -> None:
    with Proxy() as proxy:
        url = "http://backend.example/api"
        assert pull(address(url=url, proxy=proxy.url)).actions == ()
        (asked,) = proxy.asked
        assert (asked.method, asked.path) == ("GET", "http://backend.example/api/actions")


def test_a_peer_behind_the_proxy_is_not_trusted_any_more_than_before(
    where: Callable[..., BackendAddress],
) -> None:
    with Proxy() as proxy:
        assert error_of(where(proxy=proxy.url, ca_file="")).kind is ErrorKind.UNTRUSTED


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "502 Bad Gateway"])
def test_a_proxy_that_refuses_is_named(
    status: str, where: Callable[..., BackendAddress], server: BackendServer
) -> None:
    with Proxy(refuse=status) as proxy:
        error = error_of(where(proxy=proxy.url))
    assert error.kind is ErrorKind.UNREACHABLE
    assert "its proxy: " in error.detail
    assert status[:3] in error.detail


def test_a_proxy_that_is_not_there_is_named(where: Callable[..., BackendAddress]) -> None:
    with Proxy() as proxy:
        url = proxy.url
    error = error_of(where(proxy=url))
    assert error.kind is ErrorKind.UNREACHABLE
    assert "its proxy: Connection refused" in error.detail


def test_a_proxy_that_drips_ends_in_time(where: Callable[..., BackendAddress]) -> None:
    with Proxy(drip=True) as proxy:
        begun = time.monotonic()
        error = error_of(where(proxy=proxy.url, timeout_seconds=TIMEOUT_SECONDS))
    assert error.kind is ErrorKind.TIMEOUT
    assert time.monotonic() - begun < TIMEOUT_SECONDS + LATE_SECONDS


def test_a_proxy_of_the_environment_counts_for_nothing(
    where: Callable[..., BackendAddress], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", os.devnull)
    assert len(pull(where()).actions) == 1
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Proxy() as proxy:
        pull(where(proxy=proxy.url))
        assert len(proxy.asked) == 1, "nor do its exceptions"
