"""Root's `geosched-ctl db` on the store of a daemon that is another user's: nothing of root's is
reached by what that user put there; and backups where others could swap them are refused."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from geosched.supervisor.store.repair.examine import Condition, examine
from geosched.supervisor.store.tools.owner import other_owner
from support.daemon import Daemon, installation_for_everybody
from support.db import make_store, place, refused
from support.second_user import SECOND_USER

SECRET = b"root only" * 1000


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Daemon]:
    """No daemon runs; the store is the second user's."""
    with installation_for_everybody() as installed:
        installed.configure(scripts={"default": {"command": ["/bin/true"]}})
        make_store(installed.root / "state", *(f"action {n}" for n in range(20)))
        give_away(installed.root / "state")
        yield installed


@pytest.fixture
def secret(theirs: Daemon) -> Path:
    path = theirs.root / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def give_away(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        os.chown(path, SECOND_USER, SECOND_USER, follow_symlinks=False)


def untouched(secret: Path) -> bool:
    found = secret.stat()
    return secret.read_bytes() == SECRET and (found.st_uid, found.st_mode & 0o777) == (0, 0o600)


def test_every_verb_works_there_and_what_it_makes_is_that_users(theirs: Daemon, tmp_path: Path):
    assert theirs.json("db", "check")["good"]
    assert theirs.json("db", "stats")["tables"]["actions"]["rows"] == 20
    assert theirs.ctl("db", "export").returncode == 0
    found = theirs.json("db", "backup", str(tmp_path / "copy"))
    made = tmp_path / "copy" / "data.mdb"
    assert found["sizeBytes"] == made.stat().st_size
    assert (made.stat().st_uid, made.stat().st_mode & 0o777) == (0, 0o600)
    assert examine(made.parent).condition is Condition.SOUND
    assert [path.name for path in made.parent.iterdir()] == ["data.mdb"]
    theirs.json("db", "compact")
    assert theirs.json("db", "restore", str(tmp_path / "copy"))["actions"] == 20
    state_dir = theirs.root / "state"
    owners = {path.lstat().st_uid for path in (state_dir, *state_dir.rglob("*"))}
    assert owners == {SECOND_USER}


@pytest.mark.parametrize("name", ["lock", "daemondb/lock.mdb", "daemondb/data.mdb"])
@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to])
@pytest.mark.parametrize("verb", ["check", "backup", "compact", "restore"])
def test_a_link_of_theirs_leads_root_to_nothing(
    theirs: Daemon,
    secret: Path,
    tmp_path: Path,
    name: str,
    plant: Callable[[Path, Path], None],
    verb: str,
):
    theirs.json("db", "backup", str(tmp_path))
    give_away(theirs.root / "state")
    link = theirs.root / "state" / name
    link.unlink(missing_ok=True)
    plant(link, secret)
    more = [str(tmp_path)] if verb in ("backup", "restore") else []
    theirs.ctl("db", verb, *more)
    assert untouched(secret)


@pytest.mark.parametrize(
    "name", ["daemondb.tmp", "daemondb.new", "daemondb.old", "daemondb.copy-1"]
)
@pytest.mark.parametrize("verb", ["compact", "backup"])
def test_a_directory_of_roots_in_the_place_of_one_of_theirs_stays(
    theirs: Daemon, secret: Path, tmp_path: Path, name: str, verb: str
):
    precious = theirs.root / "precious"
    precious.mkdir(mode=0o755)
    (precious / "data.mdb").write_bytes(SECRET)
    link = theirs.root / "state" / name
    link.symlink_to(precious)
    give_away(theirs.root / "state")
    theirs.ctl("db", verb, *([str(tmp_path)] if verb == "backup" else []))
    assert (precious / "data.mdb").read_bytes() == SECRET
    assert (precious.stat().st_uid, (precious / "data.mdb").stat().st_uid) == (0, 0)


def test_root_s_store_is_not_looked_for_where_others_can_put_one(theirs: Daemon):
    state_dir = theirs.root / "state"
    for path in (state_dir, *state_dir.rglob("*")):
        os.chown(path, 0, 0, follow_symlinks=False)
    state_dir.chmod(0o777)
    said = refused(theirs, 1, "check")
    assert f"others can write it: {state_dir} is writable by everybody" in said


@pytest.mark.parametrize("there", [True, False])
def test_a_backup_into_a_directory_of_others_is_refused(
    theirs: Daemon, tmp_path: Path, there: bool
):
    others = tmp_path / "others"
    target = others / "copy" if there else others
    target.mkdir(parents=True)
    os.chown(others, SECOND_USER, SECOND_USER)
    said = refused(theirs, 1, "backup", target if there else others / "copy")
    assert f"cannot backup: others can write it: {others} belongs to user {SECOND_USER}" in said
    assert list(target.iterdir()) == []


def test_a_backup_where_others_can_write_is_not_restored_by_root_for_root(
    theirs: Daemon, tmp_path: Path
):
    theirs.json("db", "backup", str(tmp_path))
    state_dir = theirs.root / "state"
    for path in (state_dir, *state_dir.rglob("*")):
        os.chown(path, 0, 0, follow_symlinks=False)
    os.chown(tmp_path / "data.mdb", SECOND_USER, SECOND_USER)
    said = refused(theirs, 1, "restore", tmp_path)
    assert f"data.mdb belongs to user {SECOND_USER}" in said


def test_a_backup_of_the_daemons_user_is_restored_with_their_rights(theirs: Daemon, secret: Path):
    copy = theirs.root / "copy"
    copy.mkdir()
    data = copy / "data.mdb"
    data.write_bytes((place(theirs) / "data.mdb").read_bytes())
    give_away(copy)
    assert theirs.json("db", "restore", str(copy))["actions"] == 20
    data.unlink()
    data.symlink_to(secret)
    give_away(copy)
    said = refused(theirs, 4, "restore", copy)
    assert "Permission denied" in said


def test_a_copy_is_private_from_its_first_byte(theirs: Daemon, tmp_path: Path):
    before = os.umask(0)
    try:
        theirs.json("db", "backup", str(tmp_path / "copy"))
    finally:
        os.umask(before)
    made = tmp_path / "copy"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (made, made / "data.mdb")]
    assert modes == [0o700, 0o600]


def test_roots_group_is_not_taken_along_where_a_directory_has_it(tmp_path: Path):
    os.chown(tmp_path, SECOND_USER, 0)
    assert other_owner(tmp_path) == (SECOND_USER, SECOND_USER)
