"""Mounts, as `/proc/self/mountinfo` shows them (proc_pid_mountinfo(5)). Only reads."""

import os
import re
from pathlib import Path
from typing import NamedTuple

_OCTAL = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mounted file system. `device` is its block device as `MAJOR:MINOR`; where it has none, or
    several as btrfs may, the major number is 0. `options` are those of the mount and of the file
    system."""

    point: str
    kind: str
    device: str
    source: str
    options: frozenset[str]


def mount_of(path: str | Path) -> Mount | None:
    """Return what a path is on, by the longest mount point above it; None where the kernel does
    not tell."""
    place = os.fsencode(os.path.realpath(path))
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return None
    found = None
    for line in lines:
        mount = _mount(line)
        point = os.fsencode(mount.point)
        inside = place == point or place.startswith(point.rstrip(b"/") + b"/")
        if inside and (found is None or len(point) >= len(os.fsencode(found.point))):
            found = mount
    return found


def _mount(line: bytes) -> Mount:
    fields = line.split()
    end = fields.index(b"-")
    kind, source = (_text(field) for field in fields[end + 1 : end + 3])
    options = [*fields[5].split(b","), *fields[end + 3].split(b",")]
    return Mount(
        _text(fields[4]), kind, fields[2].decode(), source, frozenset(map(os.fsdecode, options))
    )


def _text(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), field))
