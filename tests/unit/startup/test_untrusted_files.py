"""Files of `[backend]` that others can write: refused by the check, the start and a reload of root,
as a configuration is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from geosched.supervisor.config.sections import Settings, SettingsError
from geosched.supervisor.startup import directories, preflight
from support.second_user import SECOND_USER
from support.settings import OAUTH, SCRIPT, loaded

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root distrusts others' files")

DAEMON = '[daemon]\nstate_dir = "state"\nruntime_dir = "run"\nlog_dir = "log"\n'
BACKEND = """[backend]
url = "https://b"
auth = "token"
token_file = "secrets/token"
ca_file = "secrets/ca.pem"
client_cert = "secrets/cert.pem"
client_key = "secrets/key.pem"
"""
FILES = {
    "token_file": "token",
    "ca_file": "ca.pem",
    "client_cert": "cert.pem",
    "client_key": "key.pem",
}


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The files of a backend, which only root can write."""
    path = tmp_path / "secrets"
    path.mkdir(mode=0o700)
    authority = trustme.CA()
    identity = authority.issue_cert("device-1")
    authority.cert_pem.write_to_path(str(path / "ca.pem"))
    identity.private_key_pem.write_to_path(str(path / "key.pem"))
    identity.cert_chain_pems[0].write_to_path(str(path / "cert.pem"))
    (path / "token").write_text("secret")
    for each in path.iterdir():
        each.chmod(0o600)
    return path


@pytest.fixture
def settings(tmp_path: Path, secrets: Path) -> Settings:
    return loaded(tmp_path, DAEMON + BACKEND.replace('auth = "token"\n', "") + SCRIPT)


def given_away(path: Path) -> None:
    os.chown(path, SECOND_USER, SECOND_USER)


def for_a_group(path: Path) -> None:
    os.chown(path, 0, SECOND_USER)
    path.chmod(0o660)


def theirs_by_a_link(path: Path) -> None:
    """The name is a link in a directory of theirs."""
    others = path.parent.parent / "others"
    others.mkdir()
    (others / "link").symlink_to(path.rename(path.with_suffix(".real")))
    given_away(others)
    path.symlink_to(others / "link")


@pytest.mark.parametrize("key", FILES)
@pytest.mark.parametrize("share", [given_away, for_a_group, theirs_by_a_link])
def test_a_file_that_others_can_write_is_refused(
    settings: Settings, secrets: Path, key: str, share: Callable[[Path], None]
):
    assert preflight.check(settings) == []
    preflight.refuse_untrusted(settings)
    share(secrets / FILES[key])
    told = rf"backend\.{key}: others can write it: .*(user|group)"
    with pytest.raises(SettingsError, match=told):
        preflight.refuse_untrusted(settings)
    found = [each for each in preflight.check(settings) if "others can write it" in each]
    assert [each.split(": ")[0] for each in found] == [f"backend.{key}"]


def test_a_directory_above_such_a_file_counts(settings: Settings, secrets: Path):
    given_away(secrets)
    told = [each.split(": ")[0] for each in preflight.trust_problems(settings)]
    assert sorted(told) == sorted(f"backend.{key}" for key in FILES)


@pytest.mark.parametrize("there", [True, False])
def test_tokens_that_the_daemon_keeps_are_refused_where_others_can_put_theirs(
    tmp_path: Path, there: bool
):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    if there:
        (theirs / "tokens.json").write_text("{}")
    settings = loaded(tmp_path, DAEMON + OAUTH.replace('"tokens.json', '"theirs/tokens.json'))
    preflight.refuse_untrusted(settings)
    given_away(theirs)
    with pytest.raises(SettingsError, match=r"backend\.token_file: others can write it"):
        preflight.refuse_untrusted(settings)
    preflight.refuse_untrusted(settings, of_backend=False)  # a login gives them to the owner


def test_tokens_in_a_state_directory_that_a_start_takes_are_no_fault_of_their_own(tmp_path: Path):
    state = tmp_path / "state"
    state.mkdir()
    given_away(state)
    settings = loaded(tmp_path, DAEMON + OAUTH.replace('"tokens.json', '"state/tokens.json'))
    preflight.refuse_untrusted(settings)
    directories.prepare(settings)
    assert state.stat().st_uid == 0
    (state / "tokens.json").write_text("{}")
    given_away(state / "tokens.json")
    with pytest.raises(SettingsError, match=r"backend\.token_file: others can write it"):
        preflight.refuse_untrusted(settings)


@pytest.mark.parametrize("report", ["true", "false"])
def test_a_directory_of_others_serves_for_actions_and_not_for_reports(tmp_path: Path, report: str):
    place = tmp_path / "actions"
    place.mkdir()
    (place / "actions.json").write_text("[]")
    backend = f'[backend]\nkind = "file"\npath = "actions/actions.json"\nreport = {report}\n'
    settings = loaded(tmp_path, DAEMON + backend + SCRIPT)
    assert preflight.check(settings) == []
    given_away(place)
    told = (
        f"backend.path: reports cannot be kept in {place}/actions.json.status.jsonl: others can"
        f" write it: {place} belongs to user {SECOND_USER}"
    )
    assert preflight.check(settings) == ([told] if report == "true" else [])
