"""What somebody who had the daemon's directories before may have left in the place of its locks and
its marker: nothing is written through it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from geosched.supervisor.host.locks import DirectoryLock
from geosched.supervisor.store import files
from geosched.workers.host.dirfd import UntrustedError
from support.second_user import SECOND_USER

PLANT = [Path.symlink_to, Path.hardlink_to]


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "precious"
    path.write_text("keep me")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("plant", PLANT)
def test_the_lock_of_a_directory_is_no_second_name_of_a_file(
    tmp_path: Path, precious: Path, plant: Callable[[Path, Path], None]
):
    directory = tmp_path / "state"
    directory.mkdir()
    plant(directory / "lock", precious)
    with pytest.raises(OSError, match=f"{directory}/lock"):
        DirectoryLock(directory)
    assert precious.read_text() == "keep me"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root distrusts others' files")
def test_a_lock_of_others_is_not_root_s(tmp_path: Path):
    (tmp_path / "lock").touch()
    os.chown(tmp_path / "lock", SECOND_USER, SECOND_USER)
    with pytest.raises(UntrustedError, match=f"lock belongs to user {SECOND_USER}"):
        DirectoryLock(tmp_path)


@pytest.mark.parametrize("plant", PLANT)
@pytest.mark.parametrize("linked", [True, False])
def test_the_lock_file_of_lmdb_is_made_anew(
    tmp_path: Path, precious: Path, plant: Callable[[Path, Path], None], linked: bool
):
    store, lock = tmp_path / "store", tmp_path / "daemondb.lock"
    store.mkdir()
    plant(lock, precious)
    if linked:
        (store / "lock.mdb").symlink_to(lock)
    files.keep_lock_at(store, lock)
    files.fill_lock_file(store / "lock.mdb")
    assert precious.read_text() == "keep me"
    assert (lock.stat().st_size, lock.is_symlink()) == (files.LOCK_BYTES, False)


def test_the_marker_of_a_store_is_written_through_no_link(tmp_path: Path):
    (tmp_path / "data.mdb").touch()
    (tmp_path / "initialised").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        files.mark_initialised(tmp_path)
    assert not (tmp_path / "elsewhere").exists()
