"""File systems of a test's own: mounted, filled, frozen, and always let go of."""

import contextlib
import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .daemon import commands

CALL_SECONDS_MAX = 30


def call(*command: str | Path) -> None:
    """A step without which the test cannot be made. Undoing one must never skip: see `undo`."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=CALL_SECONDS_MAX, check=False
        )
    except FileNotFoundError:
        pytest.skip(f"this host has no {command[0]}")
    if done.returncode:
        pytest.skip(f"this host does not let us {command[0]}: {done.stderr.strip()}")


def undo(*command: str | Path) -> None:
    subprocess.run(command, timeout=CALL_SECONDS_MAX, check=True)


@contextmanager
def mounted(directory: Path, *how: str | Path) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("file systems are mounted by root only")
    directory.mkdir(exist_ok=True, mode=0o750)
    call("mount", *how, directory)
    try:
        yield
    finally:
        undo("umount", "--lazy", directory)


@contextmanager
def frozen(directory: Path) -> Iterator[None]:
    """Whoever writes there waits until it is thawed."""
    call("fsfreeze", "--freeze", directory)
    try:
        yield
    finally:
        undo("fsfreeze", "--unfreeze", directory)


def ext4(image: Path, size: int) -> Path:
    image.touch()
    os.truncate(image, size)
    call("mkfs.ext4", "-q", image)
    return image


def fill(path: Path) -> None:
    """Until the file system has no room left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def commands_without(root: Path, kinds: str) -> Path:
    """A directory below `root` with the commands; the daemon sees no file system of these
    kinds, which are separated by blanks."""
    place = root / "bin"
    place.mkdir()
    (place / "geosched-ctl").symlink_to(commands() / "geosched-ctl")
    hide = f"for kind in {kinds}; do umount --lazy --all --types $kind; done"
    unshare = "exec unshare --mount --propagation private sh -c"
    started = f'{hide}; exec "$0" "$@"'
    command = shlex.quote(str(commands() / "geoschedd"))
    (place / "geoschedd").write_text(f"#!/bin/sh\n{unshare} '{started}' {command} \"$@\"\n")
    (place / "geoschedd").chmod(0o755)
    return place
