"""An ext4 of its own on a loop device, whose kernel counts what it is given to write. For root."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

DISK_BYTES = 512 * 1024**2
SECTOR_BYTES = 512  # of the kernel's counters, whatever the device has
TOOLS = ("mkfs.ext4", "losetup", "mount", "umount", "sync")


def why_not() -> str:
    """The reason why no device can be made here, or ""."""
    if os.geteuid() != 0:
        return "only root can make a file system to count on"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"this host has no {missing[0]}" if missing else ""


@dataclass(frozen=True)
class Written:
    """What a block device was given to write, and how often to let go of its cache."""

    bytes: int
    flushes: int

    def __sub__(self, before: "Written") -> "Written":
        return Written(self.bytes - before.bytes, self.flushes - before.flushes)


@dataclass(frozen=True)
class Device:
    """An ext4 on a loop device, mounted at `place`."""

    name: str
    place: Path

    def written(self) -> Written:
        fields = Path(f"/sys/block/{self.name}/stat").read_text().split()
        return Written(int(fields[6]) * SECTOR_BYTES, int(fields[15]))

    def settled(self) -> Written:
        """The same, once the file system has written what it would have written later."""
        run("sync", "--file-system", self.place)
        return self.written()


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def device() -> Iterator[Device]:
    with ExitStack() as undo:
        root = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="gs-flash-")))
        image, place = root / "disk", root / "mounted"
        place.mkdir()
        image.touch()
        os.truncate(image, DISK_BYTES)
        loop = run("losetup", "--find", "--show", image)
        undo.callback(run, "losetup", "--detach", loop)
        # All at once: else the kernel goes on making the file system while we count.
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", loop)
        run("mount", "-o", "noatime", loop, place)
        undo.callback(run, "umount", "--lazy", place)  # should a process still have a file there
        yield Device(Path(loop).name, place)
