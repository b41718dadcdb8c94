"""As whom, where and within which limits a script runs: looked up before its process is
forked, taken on in that process before it becomes the script.

Names are looked up here, in the worker, because a name service may hang (law 2).
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

#: What each limit of the configuration is to the kernel. `address_space` comes last: a
#: process that is still Python may already have more.
_LIMITS = (
    ("open_files", resource.RLIMIT_NOFILE),
    ("processes", resource.RLIMIT_NPROC),
    ("file_size_bytes", resource.RLIMIT_FSIZE),
    ("cpu_seconds", resource.RLIMIT_CPU),
)
_OOM_SCORE = Path("/proc/self/oom_score_adj")


class UnusableConditionsError(Exception):
    """Why a script cannot run like that, naming the key."""


class ConditionError(OSError):
    """One of them could not be taken on; `key` says which."""

    def __init__(self, key: str, error: OSError | ValueError) -> None:
        super().__init__(getattr(error, "errno", None) or 0, str(error))
        self.key = key


class Person(msgspec.Struct, frozen=True):
    """A user with groups, and what its environment says of it."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: dict[str, str]


def person(conditions: Conditions) -> Person | None:
    """Whom the script runs as; None for the daemon's own user and groups. A user without
    an entry has no groups and no home, so a number has to be somebody's as well.

    Raises `UnusableConditionsError`.
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
    return Person(entry.pw_uid, gid, groups, environment if conditions.user else {})


def reserved(conditions: Conditions, who: Person | None) -> Iterator[str]:
    """What of it only root may give to a script, a line each; nothing where we are root."""
    if os.geteuid() == 0:
        return
    if who is not None and who.uid != os.geteuid():
        yield "user: only root can run a script as somebody else"
    if who is not None and who.gid != os.getegid():
        yield "group: only root can run a script as somebody else"
    if conditions.nice and conditions.nice < _lowest_nice():
        yield f"nice: only root can go below {_lowest_nice()}"
    score = int(_OOM_SCORE.read_text())
    if conditions.oom_score_adj and conditions.oom_score_adj < score:
        yield f"oom_score_adj: only root can go below {score}"
    for name, kind in (*_LIMITS, ("address_space_bytes", resource.RLIMIT_AS)):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY and getattr(conditions, name) > hard:
            yield f"{_limit_key(name)}: only root can go beyond {hard}"


def limit(conditions: Conditions) -> None:
    """In the child, with the daemon's rights. Raises `ConditionError`."""
    if conditions.nice:
        _with_key("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, conditions.nice))
    if conditions.oom_score_adj:  # needs a descriptor, so before there is a limit to them
        _with_key("oom_score_adj", lambda: _write_oom_score(conditions.oom_score_adj))
    for name, kind in _LIMITS:
        value = getattr(conditions, name)
        if value:
            hard = _second_more(value) if kind == resource.RLIMIT_CPU else value
            _with_key(_limit_key(name), partial(resource.setrlimit, kind, (value, hard)))


def limit_address_space(conditions: Conditions) -> None:
    """In the child, as its very last act. Raises `ConditionError`."""
    value = conditions.address_space_bytes
    if value:
        _with_key(
            "limits.address_space",
            partial(resource.setrlimit, resource.RLIMIT_AS, (value, value)),
        )


def give(descriptor: int, who: Person) -> None:
    """In the child, with the daemon's rights. Raises `ConditionError`."""
    key = "user" if who.uid != os.geteuid() else "group"
    _with_key(key, lambda: os.fchown(descriptor, who.uid, who.gid))


def become(who: Person) -> None:
    """In the child: there is no way back. Raises `ConditionError`."""
    # Only root may set groups, but whoever has these needs nobody's leave to be who it is.
    if {*os.getgroups(), os.getegid()} != {*who.groups, who.gid}:
        _with_key("group", lambda: os.setgroups(who.groups))
    _with_key("group", lambda: os.setgid(who.gid))
    _with_key("user", lambda: os.setuid(who.uid))


def settle(conditions: Conditions) -> None:
    """In the child, as who it is by now. Raises `ConditionError`."""
    os.umask(conditions.umask)
    _with_key("cwd", lambda: os.chdir(conditions.cwd))


def _with_key(key: str, act: Callable[[], object]) -> None:
    try:
        act()
    except (OSError, ValueError) as error:
        raise ConditionError(key, error) from None


def _limit_key(name: str) -> str:
    return f"limits.{name.removesuffix('_bytes').removesuffix('_seconds')}"


def _second_more(cpu_seconds: int) -> int:
    """The hard limit: SIGXCPU, at the soft one, says what happened; SIGKILL could be
    anybody's. Not beyond what is inherited, which only root could raise."""
    inherited = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if cpu_seconds < inherited or inherited == resource.RLIM_INFINITY:
        return cpu_seconds + 1
    return cpu_seconds


def _lowest_nice() -> int:
    allowed = resource.getrlimit(resource.RLIMIT_NICE)[0]  # counted down from 20
    floor = -20 if allowed == resource.RLIM_INFINITY else 20 - allowed
    return min(floor, os.getpriority(os.PRIO_PROCESS, 0))


def _write_oom_score(value: int) -> None:
    _OOM_SCORE.write_text(str(value))


def _user(name: str) -> pwd.struct_passwd:
    """Raises `KeyError`."""
    return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)


def _group(name: str) -> int:
    return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
