"""Tokens for a client with a secret, against a real token server."""

from pathlib import Path

import pytest
from geosched.ipc.messages.sync import BackendAddress, ErrorKind
from support.backend import BackendServer
from support.oauth import ACCESS, OAuthServer, kept_tokens
from support.oauth_exchanges import error_of, pull, with_client


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
    assert oauth.forms == [
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
    assert len(oauth.forms) == 2
    assert kept_tokens(tokens)["access_token"] == f"{ACCESS}-2"


def test_a_server_that_quotes_a_secret_does_not_get_it_into_a_message(
    machine: BackendAddress, oauth: OAuthServer
) -> None:
    said = {"error": "invalid_client", "error_description": "client-s3cret is wrong"}
    oauth.answers = [(401, said)]
    error = error_of(machine)
    assert error.kind is ErrorKind.UNAUTHORIZED
    assert "invalid_client: ... is wrong" in error.detail


@pytest.mark.parametrize(
    "odd",
    [
        {"refresh_token": None},
        {"scope": None},
        {"scope": ["actions"]},
        {"expires_in": None},
        {"expires_in": [3600]},
        {"expires_in": "soon"},
        {"error": None, "error_description": None},
    ],
    ids=lambda odd: next(iter(odd)),
)
def test_an_optional_field_of_another_type_counts_as_absent(
    odd: dict[str, object], machine: BackendAddress, server: BackendServer, oauth: OAuthServer
) -> None:
    server.token = "odd-token"
    oauth.answers = [(200, {"access_token": "odd-token", "token_type": "Bearer", **odd})]
    pull(machine)
    assert len(oauth.forms) == 1


@pytest.mark.parametrize("spoil", ["missing", "open"])
def test_a_client_secret_that_cannot_be_used_is_named(
    spoil: str, machine: BackendAddress, oauth: OAuthServer
) -> None:
    secret = Path(machine.oauth_client_secret_file)
    if spoil == "missing":
        secret.unlink()
    else:
        secret.chmod(0o666)
    error = error_of(machine)
    assert error.kind is ErrorKind.UNAUTHORIZED
    assert f"the client secret file {secret}" in error.detail
    assert oauth.forms == []
