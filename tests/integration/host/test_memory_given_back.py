"""What is let go of when a pull is over: pages that were read, and nothing that they say."""

import mmap
import os
from pathlib import Path

from geosched.workers.host.linux import give_memory_back

PAGES = 256


def resident_kilobytes(path: Path) -> int:
    """Of the map of a file in this process."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(path)):
            return next(int(told.split()[1]) for told in lines if told.startswith("Rss:"))
    raise AssertionError(f"{path} is not mapped")


def test_pages_of_shared_maps_are_let_go_of_and_read_anew(tmp_path: Path):
    path = tmp_path / "store with a space"
    content = os.urandom(mmap.PAGESIZE * PAGES)
    path.write_bytes(content)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == content
        assert resident_kilobytes(path) == len(content) // 1024
        give_memory_back()
        assert resident_kilobytes(path) == 0
        assert mapped[:] == content


def test_what_was_written_to_a_shared_map_stays(tmp_path: Path):
    path = tmp_path / "lock"
    path.write_bytes(bytes(mmap.PAGESIZE))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:4] = b"held"
        give_memory_back()
        assert mapped[:4] == b"held"
    assert path.read_bytes()[:4] == b"held"
