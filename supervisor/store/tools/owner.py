"""The user on whose behalf root works on a store: the owner of its directory.

A daemon that is not root keeps its store in a directory of its own. With root's rights a command
of root's would follow links of that user's there, give files away, and map what that user wrote.
"""

import os
import pwd
import signal
from pathlib import Path
from typing import NamedTuple

from ....workers.host.dirfd import Directory, refuse_exposed
from ....workers.host.linux import (
    forbid_new_privileges,
    leave_session_keyring,
    set_parent_death_signal,
)
from ....workers.host.trust import ROOT


class Owner(NamedTuple):
    """User and group of a directory."""

    uid: int
    gid: int


def other_owner(state_dir: Path) -> Owner | None:
    """Return the owner of `state_dir` where this process is root and that is not, else None.

    Raises `UntrustedError` for a directory that others than root and its owner can change, or to
    which a link of theirs leads: they could have root work as anybody. Also for one that is
    missing where others can make it; `OSError`.

    By then nobody but root and that owner can have the path lead elsewhere, and whatever it is
    used for later is done with the owner's rights.
    """
    if os.geteuid() != ROOT:
        return None
    try:
        directory, found = Directory.of_one_owner(state_dir)
    except FileNotFoundError:
        refuse_exposed(state_dir)
        return None
    directory.close()
    if found.st_uid == ROOT:
        return None
    return Owner(found.st_uid, found.st_gid or _own_group(found.st_uid))


def _own_group(uid: int) -> int:
    """Return the group of an account, which a directory given away by `chown` alone does not tell:
    it has that of root."""
    try:
        return pwd.getpwuid(uid).pw_gid or uid
    except KeyError:
        return uid


def become(owner: Owner | None) -> None:
    """Be that user for good, without root's groups; nothing for None. Raises `OSError`."""
    if owner is None:
        return
    parent = os.getppid()
    forbid_new_privileges()
    leave_session_keyring()
    os.setgroups([])
    os.setresgid(owner.gid, owner.gid, owner.gid)
    os.setresuid(owner.uid, owner.uid, owner.uid)
    set_parent_death_signal(signal.SIGKILL)  # the kernel forgot it with the user (prctl(2))
    if os.getppid() != parent:
        raise SystemExit(1)
