"""Files of `[backend]` in the reach of other users, opened as root: no link of theirs leads
anywhere, and nothing of root's is given away."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc.messages.login import LoggedIn, NotLoggedIn, Said
from geosched.ipc.messages.sync import BackendAddress, ErrorKind, Pull, Report, Send
from geosched.workers.sync.auth import device_flow
from geosched.workers.sync.backend_files import REPORTS_MODE, LocalFiles
from geosched.workers.sync.backends.file import FileBackend
from geosched.workers.sync.base import ExchangeError, Snapshot
from support.backend import address, entry
from support.oauth import OAuthServer
from support.second_user import SECOND_USER

REPORT = Report("k1", "a", "STARTED", 0, 1, "r", None, None, "due")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that only root may read and write."""
    path = tmp_path / "victim"
    path.touch(mode=0o600)
    path.write_text(json.dumps([entry("secret")]))
    return path


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory of the second user, on the way to which there is nothing of theirs."""
    tmp_path.chmod(0o711)
    path = tmp_path / "theirs"
    path.mkdir()
    os.chown(path, SECOND_USER, SECOND_USER)
    return path


def given(path: Path, content: str = "") -> Path:
    path.write_text(content)
    os.chown(path, SECOND_USER, SECOND_USER)
    return path


def where(directory: Path) -> BackendAddress:
    return address("file", path=str(directory / "actions.json"))


def error_of_sending(at: BackendAddress) -> str:
    with pytest.raises(ExchangeError) as caught:
        FileBackend().send(Send(1, at, (REPORT,)))
    assert caught.value.kind is ErrorKind.LOCAL
    return caught.value.detail


def error_of_pulling(at: BackendAddress) -> str:
    with pytest.raises(ExchangeError) as caught:
        FileBackend().pull(Pull(1, at, 0))
    return caught.value.detail


# --- reports -----------------------------------------------------------------------------


def test_reports_are_not_appended_through_a_link_of_others(theirs: Path, victim: Path) -> None:
    before = victim.read_text()
    journal = theirs / "actions.json.status.jsonl"
    journal.symlink_to(victim)
    assert f"belongs to user {SECOND_USER}" in error_of_sending(where(theirs))
    journal.unlink()
    os.link(victim, journal)
    assert f"belongs to user {SECOND_USER}" in error_of_sending(where(theirs))
    assert victim.read_text() == before


def test_a_second_name_of_another_file_takes_no_reports(tmp_path: Path, victim: Path) -> None:
    before = victim.read_text()
    os.link(victim, tmp_path / "actions.json.status.jsonl")
    assert "has other names" in error_of_sending(where(tmp_path))
    assert victim.read_text() == before


def test_a_link_that_root_made_is_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.touch()
    (tmp_path / "actions.json.status.jsonl").symlink_to(target)
    FileBackend().send(Send(1, where(tmp_path), (REPORT,)))
    assert json.loads(target.read_text())["key"] == "k1"


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_the_file_of_reports_is_made_with_one_mode_and_keeps_its_own(
    umask: int, tmp_path: Path
) -> None:
    journal = tmp_path / "actions.json.status.jsonl"
    before = os.umask(umask)
    try:
        FileBackend().send(Send(1, where(tmp_path), (REPORT,)))
    finally:
        os.umask(before)
    assert stat.S_IMODE(journal.stat().st_mode) == REPORTS_MODE
    journal.chmod(0o604)
    FileBackend().send(Send(1, where(tmp_path), (REPORT,)))
    assert stat.S_IMODE(journal.stat().st_mode) == 0o604


# --- actions -----------------------------------------------------------------------------


def test_another_user_may_be_the_backend(theirs: Path) -> None:
    given(theirs / "actions.json", json.dumps([entry("a")]))
    found = FileBackend().pull(Pull(1, where(theirs), 0))
    assert isinstance(found, Snapshot)
    assert [action.id for action in found.actions] == ["a"]


def test_a_file_of_roots_among_those_of_everybody_is_read(tmp_path: Path) -> None:
    """In a sticky directory nobody can put another in its place."""
    (tmp_path / "all").mkdir()
    (tmp_path / "all").chmod(0o1777)
    (tmp_path / "all" / "actions.json").write_text("[]")
    FileBackend().pull(Pull(1, where(tmp_path / "all"), 0))
    (tmp_path / "all").chmod(0o777)
    assert "writable by everybody" in error_of_pulling(where(tmp_path / "all"))


def test_but_has_no_file_of_roots_read(theirs: Path, victim: Path) -> None:
    actions = theirs / "actions.json"
    actions.symlink_to(victim)
    error_of_pulling(where(theirs))
    actions.unlink()
    os.link(victim, actions)
    assert "has other names" in error_of_pulling(where(theirs))
    actions.unlink()
    (theirs / "way").symlink_to(victim.parent)
    error_of_pulling(address("file", path=str(theirs / "way" / "victim")))


# --- tokens ------------------------------------------------------------------------------


@pytest.fixture
def oauth() -> Iterator[OAuthServer]:
    with OAuthServer() as running:
        running.confirmed = True
        yield running


def said_last(oauth: OAuthServer, tokens: Path, trusted: tuple[int, ...]) -> Said:
    """What a login says in the end."""
    at = address(token_file=str(tokens), **oauth.client())
    said: list[Said] = []
    device_flow.run(at, 60.0, said.append, LocalFiles(at, trusted))
    return said[-1]


@pytest.mark.parametrize("name", ["tokens.json", "tokens.json.new", "tokens.json.lock"])
@pytest.mark.parametrize("how", ["link", "second name"])
def test_a_login_by_root_touches_no_file_that_another_name_leads_to(
    name: str, how: str, oauth: OAuthServer, theirs: Path, victim: Path
) -> None:
    """Not even where the directory's owner is the daemon's own user."""
    before = victim.read_text()
    if how == "link":
        (theirs / name).symlink_to(victim)
    else:
        os.link(victim, theirs / name)
    said_last(oauth, theirs / "tokens.json", (SECOND_USER,))
    assert victim.read_text() == before
    found = victim.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)


def test_a_login_by_root_gives_the_daemons_user_what_it_made(
    oauth: OAuthServer, theirs: Path
) -> None:
    assert isinstance(said_last(oauth, theirs / "tokens.json", (SECOND_USER,)), LoggedIn)
    for path in theirs.iterdir():
        assert (path.stat().st_uid, path.stat().st_gid) == (SECOND_USER, SECOND_USER), path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_of_roots_that_was_moved_there_is_not_given_away(
    oauth: OAuthServer, theirs: Path, victim: Path
) -> None:
    victim.rename(theirs / "tokens.json.lock")
    assert isinstance(said_last(oauth, theirs / "tokens.json", (SECOND_USER,)), LoggedIn)
    assert (theirs / "tokens.json.lock").stat().st_uid == 0


@pytest.mark.parametrize("trusted", [(), (0,), (SECOND_USER + 1,)])
def test_a_login_by_root_for_somebody_else_is_refused_before_a_server_is_asked(
    trusted: tuple[int, ...], oauth: OAuthServer, theirs: Path
) -> None:
    said = said_last(oauth, theirs / "tokens.json", trusted)
    assert isinstance(said, NotLoggedIn)
    assert f"{theirs} belongs to user {SECOND_USER}" in said.detail
    assert oauth.asked == []
    assert list(theirs.iterdir()) == []


def test_nothing_is_done_that_the_settings_have_no_use_for(tmp_path: Path) -> None:
    """Who asks may be a synchroniser that was taken over."""
    tokens = tmp_path / "token"
    tokens.write_text("the operator's")
    tokens.chmod(0o600)
    files = LocalFiles(address("http", auth="token", token_file=str(tokens)))
    for ask in (
        files.lock_tokens,
        lambda: files.replace_tokens(b"{}"),
        files.open_reports,
        lambda: files.open("ca_file"),
    ):
        with pytest.raises(OSError, match=r"operator|not locked|keeps no reports|not set"):
            ask()
    assert os.listdir(tmp_path) == ["token"]
    assert tokens.read_text() == "the operator's"
