"""A token server, and a backend that takes the newest of its tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc.messages.sync import BackendAddress
from support.backend import BackendServer, address, entry
from support.oauth import ACCESS, OAuthServer, keep_tokens


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
    return address(url=server.url, token_file=str(tokens), **oauth.client())
