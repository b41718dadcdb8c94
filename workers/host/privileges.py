"""Privilege drop: a process of root becomes a user without rights, for good.

It takes two steps, because a change of user needs rights, and leaves some sets as they are:
`prepare`, while the process has one thread, and `become`, which the C library does in all threads.
"""

import contextlib
import os
import pwd
import resource
from pathlib import Path
from typing import NamedTuple

from .linux import (
    clear_inheritable_capabilities,
    drop_bounding_capabilities,
    forbid_new_privileges,
    forbid_tracing,
    leave_ipc_namespace,
    leave_session_keyring,
    let_capabilities_go,
)
from .trust import ROOT

#: The user where none is configured, a number that no account has: systemd and Debian give 65520
#: to 65533 to nobody, and a container with 65536 ids has it. `nobody` is shared with strangers.
UNNAMED_UID = 65529
#: Bytes of a file that such a process writes: a copy of certificates in memory, at most.
FILE_BYTES_MAX = 8 * 1024 * 1024

#: From `linux/capability.h`: signals to processes of other users.
_CAP_KILL = 5
_CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")


class UnusableUserError(Exception):
    """A user that cannot be become; the message is a reason."""


class Account(NamedTuple):
    """A user, and its group."""

    uid: int
    gid: int


def drops_to(user: str) -> str | None:
    """Return the user that a process with our rights drops to, where `user` is configured ("" is
    none), as text; None where it stays what it is: no root, or told to stay root."""
    if os.geteuid() != ROOT or user in ("root", str(ROOT)):
        return None
    return user or str(UNNAMED_UID)


def look_up(user: str) -> Account:
    """Return the account of a user; a number needs none. It may wait for a name service, but where
    none is configured. Raises `UnusableUserError`."""
    if not user:
        return Account(UNNAMED_UID, UNNAMED_UID)
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        account = Account(entry.pw_uid, entry.pw_gid)
    except KeyError:
        if not user.isdecimal():
            raise UnusableUserError(f"there is no user {user!r}") from None
        account = Account(int(user), int(user))
    if ROOT in account:
        raise UnusableUserError(f"{user!r} has the number or the group of root")
    return account


def prepare() -> None:
    """Give up what a change of user leaves as it is. The process has one thread, or the others
    keep theirs; those that it makes later inherit this. Raises `OSError`."""
    if not int(_fields(Path("/proc/self/status").read_text())["CapEff"], 16) & 1 << _CAP_KILL:
        raise PermissionError("the daemon lacks CAP_KILL, and could not end what it is then")
    forbid_new_privileges()
    leave_session_keyring()
    with contextlib.suppress(OSError):  # a daemon may lack CAP_SYS_ADMIN, and a kernel namespaces
        leave_ipc_namespace()
    let_capabilities_go()
    clear_inheritable_capabilities()
    with contextlib.suppress(PermissionError):
        drop_bounding_capabilities()  # a daemon may lack CAP_SETPCAP; nothing is gained by exec now
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def become(account: Account, *, file_bytes_max: int | None = FILE_BYTES_MAX) -> None:
    """Become a user without rights, in all threads, irrevocably, who can make no process and no
    thread: none outlives this one, and none of that user counts against it. Raises `OSError`:
    some rights may be gone by then."""
    limit(resource.RLIMIT_NPROC, 0)
    if file_bytes_max is not None:
        limit(resource.RLIMIT_FSIZE, file_bytes_max)
    os.setgroups(())
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    forbid_tracing()
    for thread in os.listdir("/proc/self/task"):
        if left := _rights_left(Path(f"/proc/self/task/{thread}/status").read_text(), account):
            raise PermissionError(f"thread {thread} has kept rights: {left}")


def limit(kind: int, most: int) -> None:
    """Set a limit of `resource` for good: whoever is no root cannot raise it again."""
    hard = resource.getrlimit(kind)[1]
    allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (allowed, allowed))


def _rights_left(status: str, account: Account) -> str:
    """Return what a thread has that it should not, by its `status` in `/proc`; "" for nothing."""
    fields = _fields(status)
    wanted = {"Uid": [account.uid] * 4, "Gid": [account.gid] * 4, "Groups": []}
    found = [
        f"{name} {fields[name].strip()}"
        for name, ids in wanted.items()
        if [int(one) for one in fields[name].split()] != ids
    ]
    found += [
        f"{name} {fields[name].strip()}" for name in _CAPABILITY_SETS if int(fields[name], 16)
    ]
    return ", ".join(found)


def _fields(status: str) -> dict[str, str]:
    """Return the fields of a `status` in `/proc`."""
    return dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
