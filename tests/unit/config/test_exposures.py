"""A token over plain http to another host is told: at the start, by a check, and by status."""

from pathlib import Path

import pytest
from geosched.supervisor.config.backend_checks import exposures
from geosched.supervisor.startup import preflight
from support.settings import SCRIPT, loaded

HERE = (
    "127.0.0.1",
    "127.9.9.9",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "localhost",
    "LOCALHOST.",
    "a.localhost",
)
ELSEWHERE = ("backend.example", "10.0.0.1", "[fe80::1]", "localhost.example", "[::ffff:10.0.0.1]")


def backend_lines(url: str, token: str = 'token_file = "token"\n') -> str:
    return f'[backend]\nurl = "{url}"\n{token}'


@pytest.mark.parametrize("host", HERE)
def test_on_this_host_nobody_is_on_the_way(tmp_path: Path, host: str) -> None:
    settings = loaded(tmp_path, backend_lines(f"http://{host}:8080/api"))
    assert list(exposures(settings.backend)) == []


@pytest.mark.parametrize("host", ELSEWHERE)
def test_a_token_over_plain_http_is_told(tmp_path: Path, host: str) -> None:
    settings = loaded(tmp_path, backend_lines(f"http://{host}:8080/api") + SCRIPT)
    ((key, reason),) = exposures(settings.backend)
    assert (key, host.strip("[]") in reason) == ("url", True)
    told = f"backend.url: {reason}"
    assert told in preflight.warnings(settings)
    assert told in list(preflight.remarks(settings))


def test_tokens_of_oauth_are_no_better(tmp_path: Path) -> None:
    token = (
        'auth = "oauth"\ntoken_file = "t"\noauth_client_id = "d"\n'
        'oauth_token_url = "https://login.example/token"\n'
    )
    settings = loaded(tmp_path, backend_lines("http://backend.example", token))
    assert len(list(exposures(settings.backend))) == 1


def test_without_a_token_or_with_https_there_is_nothing_to_tell(tmp_path: Path) -> None:
    for text in (backend_lines("https://b.example"), backend_lines("http://b.example", "")):
        assert list(exposures(loaded(tmp_path, text).backend)) == []
