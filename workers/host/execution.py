"""Credentials, limits and surroundings of a script's process (`systemd.exec(5)`'s subject).

The worker looks credentials up before the script's process needs them, because a name service
may hang (law 2); the process takes all of it on before its exec.
"""

import grp
import os
import pwd
import resource
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from ...ipc.messages.runs import Conditions
from . import linux

#: The limits of the configuration and the kernel's. `address_space_bytes` is set apart, last of
#: all: a process that is still Python may already use more.
_LIMITS = (
    ("open_files", resource.RLIMIT_NOFILE),
    ("processes", resource.RLIMIT_NPROC),
    ("file_size_bytes", resource.RLIMIT_FSIZE),
    ("cpu_seconds", resource.RLIMIT_CPU),
)
_OOM_SCORE = Path("/proc/self/oom_score_adj")


class UnusableConditionsError(Exception):
    """A script cannot run under these conditions; the message names the key."""


class ConditionError(OSError):
    """A condition could not be taken on; `key` is its name in the configuration."""

    def __init__(self, key: str, error: OSError | ValueError) -> None:
        super().__init__(getattr(error, "errno", None) or 0, str(error))
        self.key = key


class Credentials(msgspec.Struct, frozen=True):
    """The user and groups of a process, and the environment variables that name them."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: dict[str, str]


def credentials_of(conditions: Conditions) -> Credentials | None:
    """Look up the credentials of a script; None for the daemon's own.

    A user has to have an entry, even one given by number: without it there are no groups and
    no home. Raises `UnusableConditionsError`.
    """
    if not conditions.user and not conditions.group:
        return None
    try:
        entry = _user(conditions.user) if conditions.user else pwd.getpwuid(os.geteuid())
    except KeyError:
        name = conditions.user or str(os.geteuid())
        raise UnusableConditionsError(f"user: there is no user {name!r}") from None
    try:
        gid = _group(conditions.group) if conditions.group else entry.pw_gid
    except KeyError:
        raise UnusableConditionsError(f"group: there is no group {conditions.group!r}") from None
    environment = {
        "HOME": entry.pw_dir,
        "USER": entry.pw_name,
        "LOGNAME": entry.pw_name,
        "SHELL": entry.pw_shell or "/bin/sh",
    }
    groups = tuple(os.getgrouplist(entry.pw_name, gid))
    return Credentials(entry.pw_uid, gid, groups, environment if conditions.user else {})


def reserved(conditions: Conditions, credentials: Credentials | None) -> Iterator[str]:
    """Yield a line for each condition that only root could grant; none where we are root."""
    if os.geteuid() == 0:
        return
    yield from foreign(credentials)
    if conditions.nice and conditions.nice < _lowest_nice():
        yield f"nice: only root can go below {_lowest_nice()}"
    if conditions.oom_score_adj:
        yield from _oom_score_reserved(conditions.oom_score_adj)
    for name, kind in (*_LIMITS, ("address_space_bytes", resource.RLIMIT_AS)):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY and getattr(conditions.limits, name) > hard:
            yield f"{_limit_key(name)}: only root can go beyond {hard}"


def foreign(credentials: Credentials | None) -> Iterator[str]:
    """Yield a line for a user and a group that only root may give a script; none where we are root.

    With capabilities somebody else could, and the script would have these, too: they survive a
    change of user that is not from root (fact P42).
    """
    if credentials is None or os.geteuid() == 0:
        return
    if credentials.uid != os.geteuid():
        yield "user: only root can run a script as somebody else"
    if credentials.gid != os.getegid():
        yield "group: only root can run a script as somebody else"


def _oom_score_reserved(wanted: int) -> Iterator[str]:
    try:
        score = int(_OOM_SCORE.read_text())
    except OSError as error:
        yield f"oom_score_adj: cannot read {_OOM_SCORE}: {error.strerror}"
        return
    if wanted < score:
        yield f"oom_score_adj: only root can go below {score}"


def limit(conditions: Conditions) -> None:
    """Set nice, OOM score and limits, in the child, still with the daemon's rights. Raises
    `ConditionError`."""
    if conditions.nice:
        _with_key("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, conditions.nice))
    # Needs a descriptor, so before their limit.
    _with_key("oom_score_adj", lambda: _take_oom_score(conditions.oom_score_adj))
    for name, kind in _LIMITS:
        value = int(getattr(conditions.limits, name))
        if value:
            hard = _second_more(value) if kind == resource.RLIMIT_CPU else value
            _with_key(_limit_key(name), partial(resource.setrlimit, kind, (value, hard)))


def limit_address_space(conditions: Conditions) -> None:
    """Set the limit of address space, in the child, as its last act. Raises `ConditionError`."""
    value = conditions.limits.address_space_bytes
    if value:
        _with_key(
            "limits.address_space",
            partial(resource.setrlimit, resource.RLIMIT_AS, (value, value)),
        )


def give(descriptor: int, credentials: Credentials) -> None:
    """Change the owner of an open file, in the child, still with the daemon's rights. Raises
    `ConditionError`."""
    uid, gid = credentials.uid, credentials.gid
    key = "user" if uid != os.geteuid() else "group"
    _with_key(key, lambda: os.fchown(descriptor, uid, gid))


def become(credentials: Credentials) -> None:
    """Take on credentials, in the child, irrevocably. Another user gets no capability of this
    process, and no key of its session. Raises `ConditionError`."""
    other_user = credentials.uid != os.geteuid()
    if other_user:
        _with_key("user", linux.leave_session_keyring)  # by root, for its quota (fact P44)
        _with_key("user", linux.let_capabilities_go)
    # Only root may set groups; a process that has these already need not.
    if {*os.getgroups(), os.getegid()} != {*credentials.groups, credentials.gid}:
        _with_key("group", lambda: os.setgroups(credentials.groups))
    _with_key("group", lambda: os.setgid(credentials.gid))
    _with_key("user", lambda: os.setuid(credentials.uid))
    if other_user:
        _with_key("user", linux.drop_capabilities)


def settle(conditions: Conditions) -> None:
    """Set umask and working directory, and that no more rights can be had, in the child, with its
    final credentials. Raises `ConditionError`."""
    os.umask(conditions.umask)
    _with_key("cwd", lambda: os.chdir(conditions.cwd))
    if conditions.no_new_privs:
        _with_key("no_new_privs", linux.forbid_new_privileges)


def _with_key(key: str, act: Callable[[], object]) -> None:
    try:
        act()
    except (OSError, ValueError) as error:
        raise ConditionError(key, error) from None


def _limit_key(name: str) -> str:
    return f"limits.{name.removesuffix('_bytes').removesuffix('_seconds')}"


def _second_more(cpu_seconds: int) -> int:
    """Return the hard limit of processor time. SIGXCPU, sent at the soft one, names the cause;
    SIGKILL, at the hard one, could be anybody's. Only root could exceed an inherited limit."""
    inherited = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if cpu_seconds < inherited or inherited == resource.RLIM_INFINITY:
        return cpu_seconds + 1
    return cpu_seconds


def _lowest_nice() -> int:
    """Return the lowest niceness that this process may set (RLIMIT_NICE, `setrlimit(2)`)."""
    allowed = resource.getrlimit(resource.RLIMIT_NICE)[0]  # counted down from 20
    floor = -20 if allowed == resource.RLIM_INFINITY else 20 - allowed
    return min(floor, os.getpriority(os.PRIO_PROCESS, 0))


def _take_oom_score(wanted: int) -> None:
    """Without a score of its own a script has the daemon's, and never one below 0: it is not spared
    because its daemon is. Where root sets it, the script cannot lower it again (proc(5))."""
    if wanted or int(_OOM_SCORE.read_text()) < 0:
        _OOM_SCORE.write_text(str(wanted))


def _user(name: str) -> pwd.struct_passwd:
    """Raises `KeyError`."""
    return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)


def _group(name: str) -> int:
    return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
