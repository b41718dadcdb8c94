"""Directories that others can write: root uses no file there. What those whom it trusts put in
theirs is not followed; and what is made has its mode, whatever the umask."""

import errno
import os
import stat
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from geosched.workers.host.dirfd import Directory, UntrustedError, refuse_exposed
from support.second_user import SECOND_USER

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root distrusts others' directories")
READ, WRITE, MAKE = os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory that another user can write."""
    path = tmp_path / "theirs"
    path.mkdir(mode=0o755)
    if os.geteuid() == 0:
        os.chown(path, SECOND_USER, SECOND_USER)
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("root only")
    path.chmod(0o600)
    return path


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- the way to it -----------------------------------------------------------------------


@root_only
def test_a_directory_of_others_is_refused_by_root_unless_they_are_trusted(theirs: Path):
    before = descriptors()
    with pytest.raises(UntrustedError, match=f"^{theirs} belongs to user {SECOND_USER}$"):
        Directory.open(theirs)
    with Directory.open(theirs, trusted={SECOND_USER}) as opened:
        assert opened.exposed == ""
    with Directory.open_exposed(theirs) as opened:
        assert opened.exposed == f"{theirs} belongs to user {SECOND_USER}"
    assert descriptors() == before


@root_only
def test_a_directory_below_one_of_others_is_theirs_too(theirs: Path):
    (theirs / "below").mkdir(mode=0o700)
    with pytest.raises(UntrustedError, match=f"{theirs} belongs to user"):
        Directory.open(theirs / "below")


@root_only
@pytest.mark.parametrize("trusted", [set[int](), {SECOND_USER}])
def test_a_link_of_others_is_followed_by_nobody_of_root(
    theirs: Path, tmp_path: Path, trusted: set[int]
):
    (tmp_path / "roots").mkdir()
    (theirs / "link").symlink_to(tmp_path / "roots")
    os.chown(theirs / "link", SECOND_USER, SECOND_USER, follow_symlinks=False)
    before = descriptors()
    for path in (theirs / "link", theirs / "link" / "below"):
        with pytest.raises(UntrustedError):
            Directory.open(path, trusted=trusted)
        with pytest.raises(UntrustedError):
            Directory.open_exposed(path, trusted=trusted)
    assert descriptors() == before


def test_a_link_of_ones_own_is_followed(tmp_path: Path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with Directory.open(tmp_path / "link") as opened:
        opened.replace("file", b"content", durable=True)
    assert (tmp_path / "there" / "file").read_bytes() == b"content"


@pytest.mark.parametrize("there", [True, False])
def test_the_directory_of_a_file_is_that_of_what_a_link_of_ones_own_leads_to(
    tmp_path: Path, there: bool
):
    (tmp_path / "secrets").mkdir()
    if there:
        (tmp_path / "secrets" / "token.1").write_text("secret")
    (tmp_path / "token").symlink_to("secrets/token.1")
    directory, name = Directory.holding(tmp_path / "token")
    with directory:
        assert (directory.path, name) == (tmp_path / "secrets", "token.1")


def test_a_file_below_a_missing_directory_is_missing(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="none"):
        Directory.holding(tmp_path / "none" / "file")


@root_only
def test_a_file_of_others_is_not_reached_through_their_link(theirs: Path, secret: Path):
    (theirs / "token").symlink_to(secret)
    with pytest.raises(UntrustedError):
        Directory.holding(theirs / "token", trusted={SECOND_USER})


@pytest.mark.parametrize(("name", "number"), [("missing", errno.ENOENT), ("file", errno.ENOTDIR)])
def test_what_is_no_directory_is_told_by_its_whole_path(tmp_path: Path, name: str, number: int):
    (tmp_path / "file").touch()
    before = descriptors()
    with pytest.raises(OSError) as raised:
        Directory.open(tmp_path / name)
    assert (raised.value.errno, raised.value.filename) == (number, str(tmp_path / name))
    assert descriptors() == before


@root_only
def test_a_sticky_directory_serves_for_what_is_made_there_and_is_not_there_yet(tmp_path: Path):
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    with pytest.raises(UntrustedError, match="is writable by everybody"):
        Directory.open(sticky)
    refuse_exposed(sticky / "free")
    Directory.open_or_make(sticky / "free", 0o700).close()
    assert stat.S_IMODE((sticky / "free").stat().st_mode) == 0o700
    (sticky / "taken").mkdir()
    os.chown(sticky / "taken", SECOND_USER, SECOND_USER)
    with pytest.raises(UntrustedError):
        refuse_exposed(sticky / "taken")
    with pytest.raises(UntrustedError):
        Directory.open_or_make(sticky / "taken", 0o700)


@root_only
def test_nothing_is_made_in_a_directory_of_others_that_would_be_refused(theirs: Path):
    with pytest.raises(UntrustedError):
        Directory.open_or_make(theirs / "made", 0o700)
    assert list(theirs.iterdir()) == []


# --- files in it -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../passwd"])
def test_what_leads_elsewhere_is_no_name(tmp_path: Path, name: str):
    with Directory.open(tmp_path) as opened, pytest.raises(ValueError, match="no name of a file"):
        opened.open_file(name, READ)


def a_link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def a_dangling_link(path: Path, _target: Path) -> None:
    path.symlink_to("/tmp/geosched-nobody-makes-this")


def a_fifo(path: Path, _target: Path) -> None:
    os.mkfifo(path)


def a_directory(path: Path, _target: Path) -> None:
    path.mkdir()


def a_hard_link(path: Path, target: Path) -> None:
    path.hardlink_to(target)


PLANTED = [a_link, a_dangling_link, a_fifo, a_directory, a_hard_link]


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize("flags", [WRITE, MAKE, MAKE | os.O_TRUNC, WRITE | os.O_APPEND])
def test_what_others_put_in_the_place_of_a_file_is_not_written(
    theirs: Path, secret: Path, plant: Callable[[Path, Path], None], flags: int
):
    plant(theirs / "file", secret)
    before = descriptors()
    refused: list[BaseException] = []

    def write() -> None:
        with Directory.open(theirs, trusted={SECOND_USER}) as opened:
            try:
                os.close(opened.open_file("file", flags))
            except OSError as error:
                refused.append(error)

    writer = threading.Thread(target=write, daemon=True)  # a FIFO could be waited for
    writer.start()
    writer.join(5)
    assert len(refused) == 1
    assert str(theirs / "file") in str(refused[0])
    assert "None" not in str(refused[0])
    assert secret.read_text() == "root only"
    assert descriptors() == before


@root_only
@pytest.mark.parametrize("owner", [0, SECOND_USER])
@pytest.mark.parametrize("lent", [False, True])
def test_no_file_is_used_where_others_could_have_put_it(theirs: Path, owner: int, lent: bool):
    """Not even one of root's with one name: a second one may be gone since it was opened."""
    path = theirs / "file"
    path.write_text("content")
    os.chown(path, owner, owner)
    before = descriptors()
    with Directory.open_exposed(theirs) as opened:
        for flags in (READ, MAKE, MAKE | os.O_TRUNC):
            for name in ("file", "new"):
                with pytest.raises(UntrustedError, match=f"{theirs} belongs to user"):
                    opened.open_file(name, flags, lent=lent)
        with pytest.raises(UntrustedError):
            opened.replace("file", b"new", durable=False)
        with pytest.raises(UntrustedError):
            opened.rename("file", "new")
        with pytest.raises(UntrustedError):
            opened.unlink("file", missing_ok=True)
        with pytest.raises(UntrustedError):
            opened.made("directory", 0o700)
    assert path.read_text() == "content"
    assert descriptors() == before


@root_only
def test_a_file_that_root_lent_to_others_is_used_where_only_root_could_put_it(tmp_path: Path):
    path = tmp_path / "run.log"
    path.write_text("output")
    os.chown(path, SECOND_USER, SECOND_USER)
    with Directory.open(tmp_path) as opened:
        assert opened.read("run.log", 100, lent=True) == b"output"
        with pytest.raises(UntrustedError, match=f"belongs to user {SECOND_USER}"):
            opened.read("run.log", 100)


@root_only
def test_a_file_that_everybody_can_write_is_refused(tmp_path: Path):
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(0o666)
    with (
        Directory.open(tmp_path) as opened,
        pytest.raises(UntrustedError, match="is writable by everybody"),
    ):
        opened.read("token", 100)


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_what_is_made_has_its_mode_whatever_the_umask(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        with Directory.open(tmp_path) as opened:
            os.close(opened.open_file("file", MAKE, 0o640))
            opened.replace("whole", b"", durable=False, mode=0o600)
            opened.mkdir("directory", 0o750)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"file": 0o640, "whole": 0o600, "directory": 0o750}


def test_a_file_that_is_there_keeps_its_mode_and_loses_its_content_only_where_that_is_asked_for(
    tmp_path: Path,
):
    path = tmp_path / "file"
    path.write_text("content")
    path.chmod(0o644)
    with Directory.open(tmp_path) as opened:
        os.close(opened.open_file("file", MAKE))
        assert path.read_text() == "content"
        os.close(opened.open_file("file", MAKE | os.O_TRUNC))
        assert path.read_text() == ""
        with pytest.raises(FileExistsError):
            opened.open_file("file", MAKE | os.O_EXCL)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


# --- replacing, renaming, removing -------------------------------------------------------


@pytest.mark.parametrize("plant", [a_link, a_dangling_link, a_fifo, a_hard_link])
@pytest.mark.parametrize("name", ["file", "file.tmp"])
def test_a_replacement_takes_the_place_of_what_others_put_there(
    theirs: Path, secret: Path, plant: Callable[[Path, Path], None], name: str
):
    plant(theirs / name, secret)
    with Directory.open(theirs, trusted={SECOND_USER}) as opened:
        opened.replace("file", b"new", durable=True)
        assert opened.read("file", 100) == b"new"
        assert opened.names() == ["file"]
    assert secret.read_text() == "root only"


@pytest.mark.parametrize("fails", ["fsync", "rename"])
def test_a_replacement_that_fails_leaves_the_old_content_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
):
    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, fails, no_space)
    with Directory.open(tmp_path) as opened, pytest.raises(OSError, match="No space left"):
        opened.replace("file", b"new", durable=True)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_link_is_removed_and_not_what_it_leads_to(theirs: Path, secret: Path):
    (theirs / "file").symlink_to(secret)
    with Directory.open(theirs, trusted={SECOND_USER}) as opened:
        opened.unlink("file")
        opened.unlink("file", missing_ok=True)
        with pytest.raises(FileNotFoundError, match=f"{theirs}/file"):
            opened.unlink("file")
        assert opened.stat("file") is None
    assert secret.exists()


def test_what_was_opened_stays_where_it_is_whatever_takes_its_name(theirs: Path, tmp_path: Path):
    with Directory.open(theirs, trusted={SECOND_USER}) as opened:
        theirs.rename(tmp_path / "moved")
        theirs.mkdir()
        opened.replace("file", b"content", durable=False)
    assert (tmp_path / "moved" / "file").exists()
    assert list(theirs.iterdir()) == []


# --- directories in it -------------------------------------------------------------------


@root_only
def test_what_others_put_in_the_place_of_a_directory_is_not_entered(tmp_path: Path):
    (tmp_path / "forged").mkdir()
    os.chown(tmp_path / "forged", SECOND_USER, SECOND_USER)
    before = descriptors()
    with Directory.open(tmp_path) as opened:
        with pytest.raises(UntrustedError, match=f"{tmp_path}/forged belongs to user"):
            opened.made("forged", 0o700)
        with opened.made("own", 0o700) as own:
            own.replace("file", b"content", durable=False)
    assert (tmp_path / "own" / "file").exists()
    assert descriptors() == before


def test_a_link_of_ones_own_to_a_directory_is_entered(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "backups").symlink_to("elsewhere")
    with Directory.open(tmp_path) as opened, opened.made("backups", 0o700) as entered:
        entered.replace("file", b"content", durable=False)
    assert (tmp_path / "elsewhere" / "file").exists()


# --- taking ------------------------------------------------------------------------------


@root_only
def test_a_directory_that_is_taken_keeps_no_rights_of_others(theirs: Path):
    """An access control list, as acl(5) and `linux/posix_acl_xattr.h` have it."""
    everybody = 0xFFFFFFFF
    rights = [(1, 7, everybody), (2, 7, SECOND_USER), (4, 5, everybody), (16, 7, everybody)]
    listed = b"".join(struct.pack("<HHI", *each) for each in (*rights, (32, 0, everybody)))
    names = ("system.posix_acl_access", "system.posix_acl_default")
    try:
        for name in names:
            os.setxattr(theirs, name, struct.pack("<I", 2) + listed)
    except OSError as error:
        pytest.skip(f"the file system of {theirs} has no access control lists: {error}")
    with Directory.open_exposed(theirs) as directory:
        directory.take(0o700)
    assert not {*names} & {*os.listxattr(theirs)}


@root_only
def test_an_empty_directory_is_taken(theirs: Path):
    with Directory.open_exposed(theirs) as opened:
        opened.take(0o700)
    found = theirs.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, 0o700)


@root_only
@pytest.mark.parametrize("why", ["not empty", "for everybody"])
def test_what_is_in_use_or_for_everybody_is_not_taken(theirs: Path, why: str):
    if why == "not empty":
        (theirs / "file").touch()
    else:
        os.chown(theirs, 0, 0)
        theirs.chmod(0o1777)
    before = theirs.stat()
    with Directory.open_exposed(theirs) as opened, pytest.raises(UntrustedError):
        opened.take(0o700)
    after = theirs.stat()
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)


# --- somebody who is not root --------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


@root_only
def test_who_is_not_root_uses_what_others_let_them_use(place: Path):
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "file").write_text("of root")
    (shared / "file").chmod(0o644)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(SECOND_USER)
            os.setuid(SECOND_USER)
            with Directory.open(shared) as opened:
                opened.replace("own", opened.read("file", 100), durable=True)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (shared / "own").read_text() == "of root"
