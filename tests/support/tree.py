"""A Debian in a directory: made by debootstrap once, copied for each test, entered by chroot.

Commands run there with namespaces of their own for mounts and processes, so that what they start
ends with them; without a network where that is asked for.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from .paths import ROOT

#: Where trees are kept for the next time.
KEPT = Path(os.environ.get("TREES", ROOT / "build" / "trees"))
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
#: In the mount namespace of a command.
_ENTER = """
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs -o mode=0755 tmpfs "$1/tmp"
chmod 1777 "$1/tmp"
exec chroot "$@"
"""
_NEEDED = ("debootstrap", "unshare", "chroot", "cp", "mount")


def require() -> None:
    """Skip where no tree can be made, and say what is missing."""
    missing = [command for command in _NEEDED if shutil.which(command) is None]
    if os.geteuid() != 0:
        missing.insert(0, "root's rights")
    if missing:
        pytest.skip(f"a tree of Debian needs {', '.join(missing)}")


class Tree:
    """The root of another Debian."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(
        self,
        *command: str,
        network: bool = True,
        check: bool = True,
        seconds_max: float = 600.0,
        environment: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command there. What it prints is in `stdout`, both streams as they came."""
        apart = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
        there = ("sh", str(self.root), *command)
        done = subprocess.run(
            [*apart, *(() if network else ("--net",)), "sh", "-eu", "-c", _ENTER, *there],
            env=_ENVIRONMENT | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds_max,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
        return done

    def sh(self, script: str, *, check: bool = True, network: bool = True) -> str:
        return self.run("sh", "-c", script, check=check, network=network).stdout

    def apt(self, *arguments: str) -> str:
        options = ("-q", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0")
        return self.run("apt-get", *options, *arguments).stdout

    def copy(self, root: Path) -> "Tree":
        """A copy of its own to change."""
        subprocess.run(
            ["cp", "-a", "--reflink=auto", str(self.root), str(root)], timeout=300, check=True
        )
        return Tree(root)

    def entries(self) -> dict[str, str]:
        """All that is in it, each path with what it is and, of a file, its size and its date."""
        listed = {}
        for directory, directories, files in os.walk(self.root):
            for name in (*directories, *files):
                path = Path(directory, name)
                found = path.lstat()
                kind = f"{found.st_mode:o} {found.st_uid}:{found.st_gid}"
                if not path.is_dir():
                    kind += f" {found.st_size} {found.st_mtime_ns}"
                listed[f"/{path.relative_to(self.root)}"] = kind
        return listed


class Copies(AbstractContextManager["Copies"]):
    """Copies of trees to change, removed at the end."""

    def __init__(self) -> None:
        self._places: list[Path] = []

    def __exit__(self, *_: object) -> None:
        for place in self._places:
            shutil.rmtree(place)

    def of(self, tree: Tree) -> Tree:
        place = Path(tempfile.mkdtemp(prefix="copy-", dir=KEPT))
        self._places.append(place)
        return tree.copy(place / "root")


def bare(suite: str) -> Tree:
    """A tree of what debootstrap calls minbase, with lists of packages of today. Not to be
    changed."""
    require()
    kept = KEPT / suite
    if not kept.exists():
        making = KEPT / f"{suite}.tmp"
        shutil.rmtree(making, ignore_errors=True)
        KEPT.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["debootstrap", "--variant=minbase", suite, str(making)],
            stdout=subprocess.DEVNULL,
            timeout=1800,
            check=True,
        )
        making.rename(kept)
    return Tree(kept)


def with_python(suite: str) -> Tree:
    """The same with python3, neither pip nor a compiler. Not to be changed."""
    kept = KEPT / f"{suite}-python3"
    if not kept.exists():
        making = KEPT / f"{suite}-python3.tmp"
        shutil.rmtree(making, ignore_errors=True)
        tree = bare(suite).copy(making)
        # A tree of a test need not survive a power cut.
        (making / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
        tree.apt("update")
        tree.apt("install", "python3")
        tree.apt("clean")
        making.rename(kept)
    return Tree(kept)
