"""Trust in files, by the owners and modes on the whole path to them.

A daemon that runs as root starts no program and uses no configuration that others can write,
because they could become root by it. Access control lists are not read. Paths are walked by
descriptors, so that what is checked is what is used (`dirfd.py`).
"""

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

#: The kernel follows this many.
LINKS_MAX = 40
ROOT = 0
LOGS = Path("/var/log")

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Trusted(NamedTuple):
    """Who may write. `to_be_made`: what is missing will be made by us, so that in a sticky
    directory nobody can replace it."""

    users: Collection[int] = (ROOT,)
    groups: Collection[int] = (ROOT,)
    to_be_made: bool = False


class Walked(NamedTuple):
    """The end of a walk. `descriptor` (O_PATH, its receiver closes it) is of what is there, -1
    where nothing is or a link of others was met; `path` leads to it without a link. `reason`
    says who besides the trusted can change the way or what is there; `missing` are the names
    that lead nowhere, the first of which is the last of `path`."""

    descriptor: int
    path: str
    reason: str
    missing: tuple[str, ...] = ()


def why_not(
    path: str | Path,
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
        walked = walk(path, Trusted(trusted, groups, to_be_made))
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror}"
    if walked.descriptor >= 0:
        os.close(walked.descriptor)
    return walked.reason


def groups_of_logs() -> tuple[int, ...]:
    """Return the groups whom the host lets write its logs: root's, and `syslog` on Ubuntu."""
    try:
        found = os.stat(LOGS)
    except OSError:
        return (ROOT,)
    return (ROOT, found.st_gid) if found.st_mode & stat.S_IWGRP else (ROOT,)


def walk(path: str | Path, trusted: Trusted, *, follow: Collection[int] | None = None) -> Walked:
    """Walk the path as the kernel does: ".." behind a link leads above the link's target, so the
    path is never shortened as text. With `follow`, a link is followed only where nobody but
    these users can change it; a member of a group that may write its directory could have put it
    there, unless one of them owns it. Raises `OSError`."""
    leading = None if follow is None else trusted._replace(users=follow)
    given = os.fspath(path)
    todo = _names(given if given.startswith("/") else os.path.join(os.getcwd(), given))
    here, where = os.open("/", _LOOK), "/"
    reason, misleading, links = "", "", 0
    try:
        while todo:
            name, above = todo.pop(), os.fstat(here)
            try:
                entry = _opened(here, name)
            except (FileNotFoundError, NotADirectoryError):
                reason = reason or _addable(where, above, trusted)
                return Walked(-1, os.path.join(where, name), reason, (name, *reversed(todo)))
            try:
                found = os.fstat(entry)
                if name != "..":
                    reason = reason or _changeable(where, name, found, above, trusted)
                    if leading and not misleading:
                        misleading = _changeable(where, name, found, above, leading)
                if not stat.S_ISLNK(found.st_mode):
                    where = os.path.dirname(where) if name == ".." else os.path.join(where, name)
                    here, entry = entry, here
                    continue
                links += 1
                if misleading or links > LINKS_MAX:
                    link = os.path.join(where, name)
                    return Walked(-1, link, misleading or f"{link} is one of too many links")
                target = os.readlink("", dir_fd=entry)
            finally:
                os.close(entry)
            todo += _names(target)
            if target.startswith("/"):
                os.close(here)
                here, where = -1, "/"
                here = os.open("/", _LOOK)
        reason = reason or writable(where, os.fstat(here), trusted)
        descriptor, here = here, -1
        return Walked(descriptor, where, reason)
    except OSError:
        if reason:  # what others can change may also be out of reach
            return Walked(-1, where, reason)
        raise
    finally:
        if here >= 0:
            os.close(here)


def _names(path: str) -> list[str]:
    """Return the names in a path, the first of them last."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _opened(directory: int, name: str) -> int:
    """Open an entry without reading it. As a directory first: only so is it mounted where an
    automounter waits for that (open(2), O_PATH). Raises `OSError`."""
    try:
        return os.open(name, _LOOK | os.O_DIRECTORY, dir_fd=directory)
    except NotADirectoryError:
        return os.open(name, _LOOK, dir_fd=directory)


def _addable(directory: str, found: os.stat_result, trusted: Trusted) -> str:
    """Say who can add an entry that is missing, or replace it once it was made."""
    if trusted.to_be_made:
        return _replaceable(directory, found, ROOT, trusted)
    return writable(directory, found, trusted)


def _changeable(
    directory: str, name: str, found: os.stat_result, above: os.stat_result, trusted: Trusted
) -> str:
    """Say who can replace an entry, or has put it there where it is a link."""
    if reason := _replaceable(directory, above, found.st_uid, trusted):
        return reason
    put_there = stat.S_ISLNK(found.st_mode) and above.st_mode & stat.S_IWGRP
    if put_there and found.st_uid not in trusted.users:
        return f"{os.path.join(directory, name)} belongs to user {found.st_uid}"
    return ""


def _replaceable(
    directory: str, found: os.stat_result, owner_of_entry: int, trusted: Trusted
) -> str:
    """Say who can replace an entry: in a sticky directory only its owner and the directory's."""
    sticky = found.st_mode & stat.S_ISVTX
    if sticky and owner_of_entry in trusted.users and found.st_uid in trusted.users:
        return ""
    return writable(directory, found, trusted)


def writable(path: str | Path, found: os.stat_result, trusted: Trusted) -> str:
    """Say who besides the trusted can write what was found at a path; "" where nobody can."""
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in trusted.users:
        return f"{path} belongs to user {found.st_uid}"
    if mode & stat.S_IWOTH:
        return f"{path} is writable by everybody (mode {mode:04o})"
    if mode & stat.S_IWGRP and found.st_gid not in trusted.groups:
        return f"{path} is writable by group {found.st_gid} (mode {mode:04o})"
    return ""
