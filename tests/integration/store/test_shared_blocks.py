"""A store that was copied with shared blocks, on a disk that then fills up."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from geosched.workers.host.linux import shared_bytes, unshare_blocks
from support.daemon import Daemon, daemon_installation, entry
from support.mounts import call, fill, mounted
from support.wait import wait_for

MEBIBYTE = 1024 * 1024


@contextmanager
def xfs(directory: Path, image: Path) -> Iterator[None]:
    image.touch()
    os.truncate(image, 400 * MEBIBYTE)
    call("mkfs.xfs", "-q", image)
    with mounted(directory, "-t", "xfs", "-o", "loop", image):
        yield


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        script = installed.script("s", "trap 'exit 0' TERM\nnote began\nsleep 600 & wait $!")
        scripts = {"default": {"command": [script], "stop_grace": "2s"}}
        installed.configure(scripts=scripts, state_dir="disk/state")
        yield installed


def copy_sharing(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--reflink=always", source, target], check=True)


def shared(path: Path) -> int:
    with path.open("rb") as file:
        return shared_bytes(file.fileno())


def test_a_store_that_shares_blocks_with_a_copy_gets_its_own_and_outlives_a_full_disk(
    daemon: Daemon,
):
    disk = daemon.root / "disk"
    with xfs(disk, daemon.root / "image"):
        known = [entry("a", -1, 600)]
        daemon.send(known)
        daemon.start()
        daemon.wait_phase("a", "running")
        daemon.terminate()
        (disk / "state").rename(disk / "original")
        copy_sharing(disk / "original", disk / "state")
        data = disk / "state" / "daemondb" / "data.mdb"
        assert shared(data) > 0
        daemon.start()
        daemon.wait_phase("a", "running")
        assert shared(data) == 0
        assert daemon.json("status")["store"]["preallocated"] is True
        fill(disk / "ballast")
        added = [entry(f"b{number}", -1, 600) for number in range(20)]
        daemon.send([*known, *added])
        daemon.wait_phase("b19", "running")
        assert daemon.json("status")["store"]["state"] == "ok"
        assert daemon.terminate() == 0


def test_where_there_is_no_room_for_blocks_of_its_own_the_store_says_so_and_waits_for_room(
    daemon: Daemon,
):
    """Not even for the page that names the newest ones: LMDB gives its environment up."""
    disk = daemon.root / "disk"
    with xfs(disk, daemon.root / "image"):
        daemon.start()
        daemon.terminate()
        copy_sharing(disk / "state", disk / "copy")
        fill(disk / "ballast")
        daemon.start()
        assert daemon.json("status")["store"]["preallocated"] is False
        daemon.wait_log("Cannot keep")
        daemon.send([entry("a", -1, 600)])
        wait_for(lambda: daemon.json("status")["store"]["state"] == "full", seconds=20)
        (disk / "ballast").unlink()
        daemon.wait_phase("a", "running", seconds=20)
        assert daemon.terminate() == 0


def test_blocks_that_are_shared_are_counted_and_given_up(tmp_path: Path):
    with xfs(tmp_path / "disk", tmp_path / "image"):
        one, two = tmp_path / "disk" / "one", tmp_path / "disk" / "two"
        one.write_bytes(os.urandom(3 * MEBIBYTE))
        copy_sharing(one, two)
        with two.open("r+b") as file:
            # Extents of one block each, more than are asked for at once.
            for number in range(0, 400, 2):
                os.pwrite(file.fileno(), b"x" * 4096, number * 4096)
            os.fsync(file.fileno())
            assert shared_bytes(file.fileno()) == 3 * MEBIBYTE - 200 * 4096
            content = two.read_bytes()
            unshare_blocks(file.fileno(), 3 * MEBIBYTE)
            assert shared_bytes(file.fileno()) == 0
            assert two.read_bytes() == content


def test_a_file_without_shared_blocks_has_none_where_the_host_can_tell(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    try:
        assert shared(path) == 0
    except OSError as error:
        pytest.skip(f"the file system of {tmp_path} cannot tell: {error}")
