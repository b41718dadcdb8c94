"""Trust in files, by the owners and modes on the whole path to them.

A daemon that runs as root starts no program and uses no configuration that others can write,
because they could become root by it. Access control lists are not read.
"""

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

#: The kernel follows this many.
LINKS_MAX = 40
ROOT = 0


class _Trusted(NamedTuple):
    """Who may write. `to_be_made`: what is missing will be made by us, so that in a sticky
    directory nobody can replace it."""

    users: Collection[int]
    groups: Collection[int]
    to_be_made: bool


def why_not(
    path: Path,
    trusted: Collection[int] = (ROOT,),
    *,
    groups: Collection[int] = (ROOT,),
    to_be_made: bool = False,
) -> str:
    """Say, for people, who besides the users `trusted` and the members of `groups` can change the
    file at an absolute path, a directory above it or a link on the way to it; "" where nobody
    can. A path that leads nowhere is trusted as far as it goes: its caller finds out that it
    does not exist, or makes it where it is `to_be_made`."""
    try:
        return _walk(path, _Trusted(trusted, groups, to_be_made))
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror}"


def _walk(path: Path, trusted: _Trusted) -> str:
    """Walk the path as the kernel does: ".." behind a link leads above the link's target, so the
    path is never shortened as text. Raises `OSError`."""
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
            if trusted.to_be_made:
                return _replaceable(here, above, ROOT, trusted)
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
    directory: Path, found: os.stat_result, owner_of_entry: int, trusted: _Trusted
) -> str:
    """Say who can replace an entry: in a sticky directory only its owner and the directory's."""
    owners = (owner_of_entry, found.st_uid)
    if found.st_mode & stat.S_ISVTX and all(owner in trusted.users for owner in owners):
        return ""
    return _writable(directory, found, trusted)


def _writable(path: Path, found: os.stat_result, trusted: _Trusted) -> str:
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in trusted.users:
        return f"{path} belongs to user {found.st_uid}"
    if mode & stat.S_IWOTH:
        return f"{path} is writable by everybody (mode {mode:04o})"
    if mode & stat.S_IWGRP and found.st_gid not in trusted.groups:
        return f"{path} is writable by group {found.st_gid} (mode {mode:04o})"
    return ""
