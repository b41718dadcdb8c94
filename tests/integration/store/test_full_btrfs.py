"""A full file system that copies on write: it has blocks for no page, not even an old one's."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.mounts import call, mounted
from support.paths import TESTS

MEBIBYTE = 1024 * 1024
#: A store with its lock file beside it is opened, and then used when nothing is left.
USES_A_STORE = """
import contextlib, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from geosched.supervisor.store.daemondb import DaemonDB
from geosched.supervisor.store.errors import StoreError
from support.mounts import fill
from support.store import add, seen
disk = Path(sys.argv[2])
db = DaemonDB.open(disk / "state")
add(db, "a")
for name in ("ballast", "more"):
    with contextlib.suppress(OSError):
        fill(disk / name)
os.sync()
for number in range(50):
    assert db.read("a") is not None
    try:
        db.commit([seen(f"b{number}")], report=False)
    except StoreError as error:
        assert not error.fatal, error
        print(error.kind)
for name in ("ballast", "more"):
    (disk / name).unlink(missing_ok=True)
add(db, "c")
"""


@contextmanager
def btrfs(directory: Path, image: Path) -> Iterator[None]:
    image.touch()
    os.truncate(image, 300 * MEBIBYTE)
    call("mkfs.btrfs", "-q", image)
    with mounted(directory, "-t", "btrfs", "-o", "loop", image):
        yield


def test_a_process_that_has_a_store_on_it_is_told_and_not_ended(tmp_path: Path):
    """LMDB writes to its lock file by a map: without a block for it that is SIGBUS."""
    with btrfs(tmp_path / "disk", tmp_path / "image"):
        done = subprocess.run(
            [sys.executable, "-c", USES_A_STORE, TESTS, tmp_path / "disk"],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "full" in done.stdout
