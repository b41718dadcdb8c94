"""`geosched-ctl db backup`: a good copy or none, beside a daemon and without one."""

import subprocess

from geosched.supervisor.store.repair.examine import Condition, examine
from support.daemon import entry
from support.db import asking, place, refused, storetools
from support.layout import zero
from support.mounts import mounted
from support.wait import wait_for


def test_a_backup_is_good_and_for_nobody_elses_eyes(either, tmp_path):
    found = either.json("db", "backup", str(tmp_path / "copy"))
    made = tmp_path / "copy" / "data.mdb"
    assert found["backup"] == str(made)
    assert found["sizeBytes"] == made.stat().st_size
    assert (made.stat().st_mode & 0o777, made.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    copied = examine(made.parent)
    assert (copied.condition, copied.damaged, copied.faults) == (Condition.SOUND, (), ())
    assert [path.name for path in made.parent.iterdir()] == ["data.mdb"]


def test_a_backup_takes_the_place_of_an_older_one_at_once(running, tmp_path):
    running.json("db", "backup", str(tmp_path))
    made = tmp_path / "data.mdb"
    with made.open("rb") as older:
        before = older.read()
        running.send([entry("another", 3600, 7200)])
        running.wait_phase("another", "scheduled")
        running.json("db", "backup", str(tmp_path))
        older.seek(0)
        assert older.read() == before
    assert made.read_bytes() != before
    assert list(tmp_path.iterdir()) == [made]


def test_a_killed_backup_leaves_the_older_one_and_nothing_else_for_long(stopped, tmp_path):
    stopped.json("db", "backup", str(tmp_path))
    made = tmp_path / "data.mdb"
    before = made.read_bytes()
    killed = 0
    for _ in range(30):
        make = asking(stopped, "backup", tmp_path, stdout=subprocess.DEVNULL)
        wait_for(lambda make=make: make.poll() is not None or list(tmp_path.glob(".making-*")))
        make.kill()
        make.wait(10)
        wait_for(lambda: not storetools(stopped), what="the end of the one that copied")
        assert made.read_bytes() == before
        killed += bool(list(tmp_path.glob(".making-*")))
        if killed == 3:
            break
    assert killed == 3
    stopped.json("db", "backup", str(tmp_path))
    assert list(tmp_path.iterdir()) == [made]


def test_a_backup_may_be_on_another_file_system(running, tmp_path):
    with mounted(tmp_path / "other", "-t", "tmpfs", "none"):
        running.json("db", "backup", str(tmp_path / "other"))
        assert examine(tmp_path / "other").condition is Condition.SOUND


def test_a_backup_that_cannot_be_written_is_told_why(stopped, tmp_path):
    with mounted(tmp_path / "other", "-t", "tmpfs", "-o", "ro", "none"):
        said = refused(stopped, 1, "backup", tmp_path / "other")
        assert said.startswith(f"cannot backup {tmp_path}/other")
        assert "Read-only file system" in said
    said = refused(stopped, 1, "backup", tmp_path / "no" / "such")
    assert said == f"cannot backup {tmp_path}/no/such: No such file or directory"


def test_a_backup_that_does_not_fit_leaves_the_older_one(stopped, tmp_path):
    with mounted(tmp_path / "other", "-t", "tmpfs", "-o", "size=100k", "none"):
        (tmp_path / "other" / "data.mdb").write_bytes(b"older")
        (tmp_path / "other" / "more").write_bytes(bytes(80 * 1024))
        assert "No space left" in refused(stopped, 1, "backup", tmp_path / "other")
        assert {path.name for path in (tmp_path / "other").iterdir()} == {"data.mdb", "more"}
        assert (tmp_path / "other" / "data.mdb").read_bytes() == b"older"


def test_a_backup_is_never_written_over_a_database(running):
    before = (place(running) / "data.mdb").stat().st_ino
    said = refused(running, 1, "backup", place(running))
    assert said == f"cannot write a backup to {place(running)}: it holds a database"
    assert (place(running) / "data.mdb").stat().st_ino == before
    assert running.ctl("ping").returncode == 0


def test_a_damaged_database_is_not_backed_up(stopped, tmp_path):
    zero(place(stopped) / "data.mdb", 0)
    refused(stopped, 1, "backup", tmp_path)
    assert list(tmp_path.iterdir()) == []
