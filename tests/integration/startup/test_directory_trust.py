"""Directories that others can write: root takes what is empty, does without `log_dir`, and
refuses what else is not its own."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from geosched.supervisor.startup import preflight
from geosched.workers.host import trust
from support.daemon import Daemon, daemon_installation

NOBODY = 65534
KEYS = ("state_dir", "runtime_dir", "log_dir")
FOLDERS = {"state_dir": "state", "runtime_dir": "run", "log_dir": "log"}


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    if os.geteuid() != 0:
        pytest.skip("only a daemon that is root distrusts directories")
    with daemon_installation() as made:
        made.root.chmod(0o755)
        made.configure(scripts={"default": {"command": ["/bin/true"]}})
        yield made


def checked(daemon: Daemon) -> str:
    """What the check refuses, without its beginning."""
    daemon.start("--check", wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(15) == 2
    lines = [line for line in daemon.log_text().splitlines() if ": warning: " not in line]
    assert len(lines) == 1, lines
    daemon.stderr.unlink()
    return lines[0].partition(": daemon.")[2]


def warned(daemon: Daemon) -> str:
    """What the start warns of, without its beginning; then the daemon works."""
    daemon.start()
    daemon.wait_log("others can write it", seconds=15)
    line = next(line for line in daemon.log_text().splitlines() if "others can" in line)
    assert " warning " in line
    return line.partition(": daemon.")[2]


def refused(daemon: Daemon) -> str:
    """What check and start both refuse, without its beginning."""
    said = checked(daemon)
    daemon.start(wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(15) == 2
    daemon.wait_log("others can write it", seconds=15)
    line = next(line for line in daemon.log_text().splitlines() if "others can" in line)
    assert " error " in line
    assert line.partition(": daemon.")[2] == said
    return said


def given_away(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


def for_everybody(path: Path) -> None:
    path.chmod(0o777)


def for_a_group(path: Path) -> None:
    os.chown(path, 0, NOBODY)
    path.chmod(0o770)


UNUSED = "; it is not used, and output of runs is lost"
SHARED = [
    (given_away, f"belongs to user {NOBODY}"),
    (for_everybody, "is writable by everybody (mode 0777)"),
    (for_a_group, f"is writable by group {NOBODY} (mode 0770)"),
]


@pytest.mark.parametrize("key", ["state_dir", "runtime_dir"])
@pytest.mark.parametrize(("share", "reason"), SHARED)
def test_an_empty_directory_that_others_can_write_is_made_root_s_by_the_start(
    daemon: Daemon, key: str, share: Callable[[Path], None], reason: str
):
    path = daemon.root / FOLDERS[key]
    path.mkdir()
    share(path)
    told = f"{key}: others can write it: {path} {reason}"
    assert checked(daemon) == told
    assert warned(daemon) == f"{told}; it was empty, and is root's now"
    found = path.stat()
    modes = {"state_dir": 0o700, "runtime_dir": 0o750}
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, 0, modes[key])


@pytest.mark.parametrize("key", ["state_dir", "runtime_dir"])
@pytest.mark.parametrize(("share", "reason"), SHARED)
def test_a_directory_that_others_can_write_and_where_something_is_is_left_to_them(
    daemon: Daemon, key: str, share: Callable[[Path], None], reason: str
):
    path = daemon.root / FOLDERS[key]
    path.mkdir()
    (path / "daemondb").mkdir()
    share(path)
    before = path.stat()
    assert refused(daemon) == f"{key}: others can write it: {path} {reason}"
    after = path.stat()
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)
    assert [entry.name for entry in path.iterdir()] == ["daemondb"]


@pytest.mark.parametrize(("share", "reason"), SHARED)
def test_a_log_directory_that_others_can_write_is_told_of_and_not_used(
    daemon: Daemon, share: Callable[[Path], None], reason: str
):
    path = daemon.root / "log"
    path.mkdir()
    share(path)
    before = path.stat()
    told = f"log_dir: others can write it: {path} {reason}"
    assert [checked(daemon), warned(daemon)] == [told, told + UNUSED]
    assert (path.stat().st_uid, path.stat().st_mode) == (before.st_uid, before.st_mode)
    assert list(path.iterdir()) == []


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("there", [True, False])
def test_a_directory_above_counts_whether_its_own_is_there_or_not(
    daemon: Daemon, key: str, there: bool
):
    above = daemon.root / "above"
    above.mkdir()
    if there:
        (above / "here").mkdir()
    given_away(above)
    daemon.configure(scripts={}, **{key: str(above / "here")})
    wanted = f"{key}: others can write it: {above} belongs to user {NOBODY}"
    if key == "log_dir":
        assert [checked(daemon), warned(daemon)] == [wanted, wanted + UNUSED]
    else:
        assert refused(daemon) == wanted
    assert (above / "here").exists() == there


@pytest.mark.parametrize("key", KEYS)
def test_a_link_of_others_is_told(daemon: Daemon, key: str):
    link = daemon.root / "others" / "link"
    link.parent.mkdir()
    (daemon.root / "roots").mkdir()
    link.symlink_to(daemon.root / "roots")
    given_away(link.parent)
    daemon.configure(scripts={}, **{key: str(link)})
    if key == "log_dir":
        assert "belongs to user" in checked(daemon)
        assert "belongs to user" in warned(daemon)
    else:
        assert "belongs to user" in refused(daemon)
    assert list((daemon.root / "roots").iterdir()) == []


@pytest.mark.parametrize(
    "below", ["state/daemondb", "state/backups", "run/runs", "run/results", "run/processes"]
)
def test_what_an_earlier_daemon_of_another_user_left_below_them_is_refused(
    daemon: Daemon, below: str
):
    path = daemon.root / below
    path.mkdir(parents=True)
    given_away(path)
    assert f"others can write it: {path} belongs to user" in refused(daemon)


def test_directories_to_be_made_in_a_sticky_one_are_made(daemon: Daemon):
    sticky = daemon.root / "tmp"
    sticky.mkdir()
    sticky.chmod(0o1777)
    places = {key: str(sticky / FOLDERS[key]) for key in KEYS}
    daemon.configure(scripts={}, **places)
    daemon.start()
    assert daemon.ctl("ping").returncode == 0


def test_somebody_who_is_faster_in_a_sticky_directory_is_not_trusted(daemon: Daemon):
    sticky = daemon.root / "tmp"
    sticky.mkdir()
    sticky.chmod(0o1777)
    theirs = sticky / "run"
    theirs.mkdir()
    given_away(theirs)
    daemon.configure(scripts={}, runtime_dir=str(theirs))
    assert "others can write it" in refused(daemon)
    assert theirs.stat().st_uid == NOBODY


def test_the_group_of_the_hosts_logs_may_write_the_log_directory_only(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
):
    """As on Ubuntu, where /var/log belongs to the group syslog, and is writable by it."""
    above = daemon.root / "var"
    above.mkdir()
    for_a_group(above)
    daemon.configure(scripts={}, log_dir=str(above / "log"))
    from geosched.supervisor.config.settings import load

    monkeypatch.setattr(trust, "groups_of_logs", lambda: (0, NOBODY))
    assert preflight.check(load(daemon.config)) == []
    daemon.configure(scripts={}, state_dir=str(above / "log"))
    assert len(preflight.check(load(daemon.config))) == 1
