"""Another user who swaps names as fast as they can, while root opens, replaces and writes."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from geosched.workers.host.dirfd import Directory
from geosched.workers.runfiles.output import CappedFile, read_output, remove_output
from support.second_user import SECOND_USER, as_user

#: Each outcome is to be seen so often, within the time; a loaded machine takes longer.
OUTCOMES = 30
SECONDS_MAX = 30.0

SWAP_DIRECTORIES = """
import os, sys
base, target = sys.argv[1:]
become()
place, aside = f"{base}/place", f"{base}/aside"
print("ready", flush=True)
while True:
    os.rename(place, aside)
    os.symlink(target, place)
    os.unlink(place)
    os.rename(aside, place)
"""
SWAP_FILES = """
import contextlib, os, sys
base, target = sys.argv[1:]
become()
path = f"{base}/place/file"
print("ready", flush=True)
while True:
    with contextlib.suppress(OSError):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.symlink(target, path)
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.link(target, path)  # where the host lets them (fs.protected_hardlinks)
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.mkfifo(path)
        os.unlink(path)
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory of the second user, with another in it."""
    if os.geteuid() != 0:
        pytest.skip("only root has anything to lose in a directory of others")
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="gs-") as made:
        path = Path(made)
        path.chmod(0o755)
        for each in (path / "base", path / "base" / "place"):
            each.mkdir()
            os.chown(each, SECOND_USER, SECOND_USER)
        yield path / "base"


@pytest.fixture
def precious(base: Path) -> Path:
    """A directory of root's, with files that root's daemon must not touch."""
    path = base.parent / "precious"
    path.mkdir(mode=0o755)
    (path / "file").write_text("root only")
    (path / "file").chmod(0o600)
    return path


def untouched(precious: Path) -> bool:
    kept = (precious / "file").stat()
    content = (precious / "file").read_text()
    names = [path.name for path in precious.iterdir()]
    owner = (kept.st_uid, kept.st_mode & 0o777)
    return (content, names, owner) == ("root only", ["file"], (0, 0o600))


def try_until_both_were_seen(work: Callable[[], object], precious: Path) -> None:
    """Until it was done, and refused, often enough; whatever was tried, nothing was touched."""
    done = refused = 0
    ends_monotonic = time.monotonic() + SECONDS_MAX
    while min(done, refused) < OUTCOMES:
        assert time.monotonic() < ends_monotonic, (done, refused)
        try:
            work()
            done += 1
        except OSError:
            refused += 1
        assert untouched(precious)


def replace_in(place: Path) -> None:
    with Directory.open(place, trusted={SECOND_USER}) as opened:
        opened.replace("file", b"written", durable=False)


def make_in(place: Path) -> None:
    with Directory.open(place, trusted={SECOND_USER}) as opened:
        made = opened.open_file("file", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640)
        os.write(made, b"written")
        os.fchmod(made, 0o666)  # what is given away is one's own
        os.close(made)
        opened.unlink("file", missing_ok=True)


@pytest.mark.parametrize("work", [replace_in, make_in])
@pytest.mark.parametrize("swap", [SWAP_DIRECTORIES, SWAP_FILES])
def test_nothing_of_root_s_is_reached_through_what_others_swap(
    base: Path, precious: Path, work: Callable[[Path], None], swap: str
):
    target = precious if swap is SWAP_DIRECTORIES else precious / "file"
    with as_user(SECOND_USER, swap, base, target) as swapping:
        assert swapping.stdout is not None
        assert swapping.stdout.readline() == "ready\n"
        if swap is SWAP_FILES and work is replace_in:
            for _ in range(300):  # a replacement fails of nothing that others put there
                try_once(work, base / "place", precious)
        else:
            try_until_both_were_seen(lambda: work(base / "place"), precious)
        assert swapping.poll() is None


@pytest.mark.parametrize("swap", [SWAP_DIRECTORIES, SWAP_FILES])
def test_output_is_neither_written_nor_read_nor_removed_whatever_others_swap(
    base: Path, precious: Path, swap: str
):
    target = precious if swap is SWAP_DIRECTORIES else precious / "file"
    output = base / "place" / "file"
    with as_user(SECOND_USER, swap, base, target) as swapping:
        assert swapping.stdout is not None
        assert swapping.stdout.readline() == "ready\n"
        for _ in range(300):
            with pytest.raises(OSError):
                CappedFile(output, 4096)
            with pytest.raises(OSError):
                read_output(output, 0, 100)
            with pytest.raises(OSError):
                remove_output(output)
            assert untouched(precious)
        assert swapping.poll() is None


def try_once(work: Callable[[Path], None], place: Path, precious: Path) -> None:
    with contextlib.suppress(OSError):
        work(place)
    assert untouched(precious)
