"""Whether somebody else could change what a path leads to. Reads the file system only.

A daemon that runs as root starts nothing, and believes no configuration, that others can
write: whoever could, would be root. Access control lists are not looked at.
"""

import os
import stat
from collections.abc import Collection
from pathlib import Path

#: As many as the kernel follows.
LINKS_MAX = 40
ROOT = 0


def why_not(path: Path, trusted: Collection[int] = (ROOT,)) -> str:
    """Who besides the users `trusted` can change the file at an absolute path, a directory
    above it or a link on the way to it, in words; "" where nobody can, or where the path
    leads nowhere: what does not exist is for others to complain about."""
    try:
        return _walk(path, trusted)
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror}"


def _walk(path: Path, trusted: Collection[int]) -> str:
    """Step by step as the kernel goes: a ".." behind a link leads to where the link points,
    so the path is never shortened as a text. Raises `OSError`."""
    todo = list(reversed(path.absolute().parts[1:]))
    here, above = Path("/"), os.stat("/")
    links = 0
    while todo:
        name = todo.pop()
        if name == "..":
            here = here.parent
            above = os.stat(here)
            continue
        entry = here / name
        try:
            found = os.lstat(entry)
        except (FileNotFoundError, NotADirectoryError):
            return _writable(here, above, trusted)
        if reason := _replaceable(here, above, found.st_uid, trusted):
            return reason
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > LINKS_MAX:
                return f"{entry} is one of too many links"
            target = Path(os.readlink(entry))
            todo += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            here = Path("/") if target.is_absolute() else here
            above = os.stat(here)
            continue
        here, above = entry, found
    return _writable(here, above, trusted)


def _replaceable(
    directory: Path, found: os.stat_result, owner_of_entry: int, trusted: Collection[int]
) -> str:
    """In a sticky directory an entry is its owner's alone."""
    if found.st_mode & stat.S_ISVTX and owner_of_entry in trusted and found.st_uid in trusted:
        return ""
    return _writable(directory, found, trusted)


def _writable(path: Path, found: os.stat_result, trusted: Collection[int]) -> str:
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in trusted:
        return f"{path} belongs to user {found.st_uid}"
    if mode & stat.S_IWOTH:
        return f"{path} is writable by everybody (mode {mode:04o})"
    if mode & stat.S_IWGRP and found.st_gid != ROOT:
        return f"{path} is writable by group {found.st_gid} (mode {mode:04o})"
    return ""
