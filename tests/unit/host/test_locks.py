"""Locks of the daemon's directories, on full disks and where somebody removes their files."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from geosched.supervisor.host import locks
from geosched.supervisor.host.locks import DirectoryLock

HOLDER = (
    "import sys, fcntl, os\n"
    "d = os.open(sys.argv[1], os.O_RDWR)\n"
    "try: fcntl.lockf(d, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    "except BlockingIOError: print('held')\n"
    "else: print('free')\n"
)


def state_of(path: Path) -> str:
    """As another process sees the lock: its own never shuts a process out."""
    done = subprocess.run(
        [sys.executable, "-c", HOLDER, path], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[DirectoryLock]:
    with closing(DirectoryLock(tmp_path)) as held:
        yield held


def test_it_names_its_holder_alone(tmp_path: Path):
    (tmp_path / "lock").write_text("4194304\nof an earlier daemon\n")
    with closing(DirectoryLock(tmp_path)):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_full_disk_costs_the_name_of_the_holder_and_not_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(locks.os, "pwrite", full)
    with closing(DirectoryLock(tmp_path)):
        assert state_of(tmp_path / "lock") == "held"
    assert "who holds the lock" in caplog.text


def test_a_lock_whose_file_is_removed_is_not_in_place_and_is_taken_anew(
    tmp_path: Path, lock: DirectoryLock
):
    assert lock.in_place()
    (tmp_path / "lock").unlink()
    assert not lock.in_place()
    (tmp_path / "lock").touch()
    assert not lock.in_place()
    lock.take_anew()
    assert lock.in_place()
    assert state_of(tmp_path / "lock") == "held"


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path):
    theirs = tmp_path / "theirs"
    theirs.write_text("keep me")
    (tmp_path / "lock").symlink_to(theirs)
    with pytest.raises(OSError, match="symbolic links"):
        DirectoryLock(tmp_path)
    assert theirs.read_text() == "keep me"
