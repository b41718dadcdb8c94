"""A new configuration is the example that ships, with its comments, for one backend."""

import string
import tomllib
from pathlib import Path
from typing import Any

import pytest
from geosched.supervisor.config.settings import parse
from geosched.supervisor.startup.first_run.configuration import filled, toml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import DEPLOY

EXAMPLE = (DEPLOY / "geosched.example.toml").read_text()
URL = "https://b.example/api"
OAUTH = {
    "backend.kind": "trpc",
    "backend.url": URL,
    "backend.auth": "oauth",
    "backend.oauth_grant": "refresh_token",
    "backend.oauth_token_url": "https://login.example/token",
    "backend.oauth_device_url": "https://login.example/device",
    "backend.oauth_client_id": "device-1",
    "backend.token_file": "/var/lib/geosched/tokens.json",
}
#: Values of a configuration, as deep as one has them.
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=10,
)


def keys(text: str) -> set[str]:
    return set(tomllib.loads(text)["backend"])


def test_a_backend_over_http_has_only_the_keys_that_it_uses() -> None:
    text = filled(EXAMPLE, {"backend.kind": "http", "backend.url": URL})
    settings = parse(text.encode(), Path("/etc/geosched/geosched.toml"))
    assert (settings.backend.kind, settings.backend.url) == ("http", URL)
    assert not any(key.startswith("oauth_") for key in keys(text))
    assert "path = " not in text
    assert "token_file = " in text  # as the example mentions it


def test_a_file_needs_nothing_of_a_network() -> None:
    text = filled(EXAMPLE, {"backend.kind": "file", "backend.path": "/srv/actions.json"})
    settings = parse(text.encode(), Path("/etc/geosched/geosched.toml"))
    assert settings.backend.path == "/srv/actions.json"
    assert keys(text).isdisjoint({"url", "auth", "proxy", "token_file"})
    assert "Certificates" not in text


def test_a_login_has_its_keys() -> None:
    settings = parse(filled(EXAMPLE, OAUTH).encode(), Path("/etc/geosched/geosched.toml"))
    assert settings.backend.oauth_client_id == "device-1"
    assert settings.backend.token_file == "/var/lib/geosched/tokens.json"


@pytest.mark.parametrize(
    "values", [{"backend.kind": "file", "backend.path": "/a"}, {"backend.url": URL}, OAUTH]
)
def test_every_comment_is_one_of_the_example(values: dict[str, Any]) -> None:
    comments = [line for line in filled(EXAMPLE, values).splitlines() if line.startswith("#")]
    rest = iter(EXAMPLE.splitlines())
    assert len(comments) > 50
    assert all(comment in rest for comment in comments), "in the example's order"


def test_each_key_of_the_example_can_be_set() -> None:
    for section, table in tomllib.loads(EXAMPLE).items():
        name, found = (
            ("scripts.default", table["default"])
            if section == "scripts"
            else (
                section,
                table,
            )
        )
        for key, value in found.items():
            text = filled(EXAMPLE, {f"{name}.{key}": value})
            assert f"\n{key} = {toml(value)}\n" in text


@pytest.mark.parametrize("key", ["backend.nothing", "nothing", "scripts.night.command"])
def test_a_key_that_the_example_does_not_have_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"there is no key {key}"):
        filled(EXAMPLE, {key: 1})


@settings(max_examples=50)
@given(VALUES)
def test_a_value_is_read_back_as_it_was_written(value: Any) -> None:
    assert tomllib.loads(f"x = {toml(value)}")["x"] == value


@pytest.mark.parametrize("value", [None, b"x", object(), "\udcff"])
def test_what_is_no_value_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"no value|not UTF-8"):
        toml(value)


@settings(max_examples=50)
@given(st.text(string.printable + "\x00\x1f\x7f\x85\u2028", max_size=30))
def test_no_text_breaks_out_of_its_line(text: str) -> None:
    assert "\n" not in toml(text)
