"""Root's `geosched-ctl db` and `login` where the way to the store is one user's, and the store
another's: whoever can change the way chooses whose files are worked on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.supervisor.startup.handover import owner_of
from geosched.supervisor.store.tools.owner import other_owner
from geosched.workers.host.dirfd import UntrustedError
from support.daemon import Daemon, installation_for_everybody
from support.db import make_store, refused
from support.second_user import SECOND_USER

ALICE, BOB = SECOND_USER, SECOND_USER + 1
VERBS = ("stats", "check", "export", "backup", "compact", "restore")


@pytest.fixture
def installed() -> Iterator[Daemon]:
    """`state_dir` is `alice/st`; a store of bob's is in `bob/state`."""
    with installation_for_everybody() as made:
        made.configure(scripts={"default": {"command": ["/bin/true"]}}, state_dir="alice/st")
        (made.root / "alice").mkdir()
        (made.root / "bob").mkdir()
        make_store(made.root / "bob" / "state", *(f"action {n}" for n in range(20)))
        give(made.root / "alice", ALICE)
        give(made.root / "bob", BOB)
        yield made


def give(directory: Path, user: int) -> None:
    for path in (directory, *directory.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


def link(installed: Daemon, owner: int) -> Path:
    made = installed.root / "alice" / "st"
    made.symlink_to(installed.root / "bob" / "state")
    os.chown(made, owner, owner, follow_symlinks=False)
    return made


def contents(directory: Path) -> dict[Path, tuple[int, int, int]]:
    found = {path: path.lstat() for path in (directory, *directory.rglob("*"))}
    return {path: (one.st_ino, one.st_size, one.st_mtime_ns) for path, one in found.items()}


@pytest.mark.parametrize("verb", VERBS)
def test_a_link_of_one_user_to_the_store_of_another_is_not_followed(
    installed: Daemon, tmp_path: Path, verb: str
) -> None:
    link(installed, ALICE)
    before = contents(installed.root / "bob")
    more = [tmp_path] if verb in ("backup", "restore") else []
    said = refused(installed, 1, verb, *more)
    assert f"others can write it: {installed.root}/alice belongs to user {ALICE}" in said
    assert contents(installed.root / "bob") == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["stats", "compact"])
def test_a_store_in_a_directory_of_another_user_is_not_worked_on(
    installed: Daemon, verb: str
) -> None:
    """They could put a third one's in its place."""
    (installed.root / "bob" / "state").rename(installed.root / "alice" / "st")
    said = refused(installed, 1, verb)
    assert f"{installed.root}/alice belongs to user {ALICE}" in said


def test_a_link_of_a_users_own_leads_root_to_no_store_either(installed: Daemon) -> None:
    """Only root's links are followed: what is at its end may be anybody's a moment later."""
    made = installed.root / "bob" / "link"
    made.symlink_to(installed.root / "bob" / "state")
    os.chown(made, BOB, BOB, follow_symlinks=False)
    with pytest.raises(UntrustedError, match=f"bob belongs to user {BOB}"):
        other_owner(made)


def test_a_link_of_roots_is_followed_and_so_is_a_way_through_the_owners_directories(
    installed: Daemon, tmp_path: Path
) -> None:
    made = installed.root / "st"
    made.symlink_to(installed.root / "bob" / "state")
    assert other_owner(made) == (BOB, BOB)
    assert owner_of(made) == BOB
    assert other_owner(installed.root / "bob" / "state") == (BOB, BOB)


def test_a_login_by_root_asks_no_link_of_others_whose_the_daemon_is(installed: Daemon) -> None:
    with pytest.raises(UntrustedError, match=f"alice belongs to user {ALICE}"):
        owner_of(link(installed, ALICE))
    assert owner_of(installed.root / "not there") == 0
