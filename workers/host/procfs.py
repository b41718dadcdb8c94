"""Processes as `/proc` shows them: identity, parents and children, marks, cost.

Only reads. About a process that is gone every function returns None or nothing: that is normal,
and no error. Without a descriptor to look with they raise `OSError`, but for `activity`.
"""

import functools
import os
import re
from collections.abc import Iterable, Mapping
from io import FileIO
from typing import NamedTuple

import msgspec

from ...ipc.messages.base import Count, Pid
from .files import is_shortage, raise_shortage, read_all
from .liveness import UNSEEN, Activity

INSTANCE_VARIABLE = "GEOSCHED_INSTANCE"
RUN_ID_VARIABLE = "GEOSCHED_RUN_ID"
#: They stand first in the environment that a script is given, and so in the first read of it. A
#: shell gives its children another order: then they stand behind the names of a thousand apps,
#: which have 128 KiB at most (fact P12).
MARK_VARIABLES = (INSTANCE_VARIABLE, RUN_ID_VARIABLE)
ENVIRON_BYTES_MAX = 256 * 1024
_FIRST_READ_BYTES = 4096

#: More than the numbers in `/proc/PID/stat` and its name take, and the first of `status`.
_STAT_BYTES = _STATUS_BYTES = 4096
#: States of a process that has ended: zombie, and dead (`proc_pid_stat(5)`).
_ENDED_STATES = "ZXx"
_RUNNABLE_STATE = "R"
#: Ancestors of a process that are looked at; a longer chain counts as nobody's.
_ANCESTORS_MAX = 1000
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Identity(msgspec.Struct, frozen=True):
    """A process, by values that no other ever has: a pid is used again, the three are not (law 13).

    `start_ticks` is field 22 of `/proc/<pid>/stat`.
    """

    boot_id: str
    pid: Pid
    start_ticks: Count


class Stat(NamedTuple):
    """A process in the process table, from `/proc/<pid>/stat`."""

    pid: int
    state: str
    ppid: int
    pgid: int
    session: int
    threads: int
    start_ticks: int
    cpu_seconds: float  # its own, and those of children that it waited for
    rss_bytes: int

    @property
    def ended(self) -> bool:
        """The process has ended. If only its first thread has, that looks like a zombie, too."""
        return self.state in _ENDED_STATES and self.threads <= 1


class Marks(NamedTuple):
    """The marks in a script's environment."""

    instance: str
    run_id: str


def children(pid: int) -> list[int]:
    """Return the children of a process, zombies included; none where the kernel is built without
    CONFIG_PROC_CHILDREN. Cheap; complete only for the calling process."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError as error:
        raise_shortage(error)
        return []
    found: list[int] = []
    for thread in threads:  # each lists the children that it forked
        try:
            found += map(int, read_all(f"/proc/{pid}/task/{thread}/children").split())
        except OSError as error:
            raise_shortage(error)
    return found


def below(ancestor: int) -> dict[int, Stat]:
    """Return all descendants of a process, zombies included. Found by children of children: the
    cost depends on them, not on all that runs on the host."""
    found: dict[int, Stat] = {}
    rest = [ancestor]
    while rest:
        for child in children(rest.pop()):
            if child not in found and (known := stat(child)) is not None:
                found[child] = known
                if not known.ended:  # its children are others' by then
                    rest.append(child)
    return found


@functools.cache
def boot_id() -> str:
    """Return the identity of this boot of the kernel, which is read once."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def stat(pid: int) -> Stat | None:
    """Return a process's entry in the process table."""
    try:
        line = _read(f"/proc/{pid}/stat", _STAT_BYTES)
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name is in parentheses, and may contain blanks and parentheses.
    fields = line[line.rindex(b")") + 2 :].split()
    ticks = sum(map(int, fields[11:15]))
    return Stat(
        pid,
        fields[0].decode(),
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        int(fields[17]),
        int(fields[19]),
        ticks / _TICKS_PER_SECOND,
        int(fields[21]) * _PAGE_BYTES,
    )


def activity(pid: int) -> Activity | None:
    """Return what a process has done so far; `UNSEEN` where nothing is left to look with, None for
    one that is gone or that this host does not show. It raises nothing: a judge looks again.

    Of context switches every kernel keeps count, of other things not (fact P29).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
        with open(f"/proc/{pid}/status", "rb") as file:
            status = file.read()
    except OSError as error:
        return UNSEEN if is_shortage(error) else None
    fields = line[line.rindex(b")") + 2 :].split()
    switches = re.findall(rb"^(?:non)?voluntary_ctxt_switches:\s*(\d+)", status, re.MULTILINE)
    return Activity(
        switches=sum(map(int, switches)),
        cpu_seconds=sum(map(int, fields[11:13])) / _TICKS_PER_SECOND,
        runnable=fields[0].decode() == _RUNNABLE_STATE,
    )


def _read(path: str, bytes_max: int) -> bytes:
    """Read a file of `/proc` at once, without what `open` costs. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, bytes_max)
    finally:
        os.close(descriptor)


def start_ticks(pid: int) -> int | None:
    """Return the start time of a process, in clock ticks since boot."""
    found = stat(pid)
    return None if found is None else found.start_ticks


def identity(pid: int) -> Identity | None:
    """Return the identity of the process that has this pid now."""
    ticks = start_ticks(pid)
    return None if ticks is None else Identity(boot_id(), pid, ticks)


def lives(known: Identity) -> bool:
    """This very process still runs. Before signalling, open its pidfd first (fact P6)."""
    found = stat(known.pid)
    return (
        found is not None
        and not found.ended
        and found.start_ticks == known.start_ticks
        and known.boot_id == boot_id()
    )


def pids() -> list[int]:
    """Return all processes, zombies included."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def process_table() -> dict[int, Stat]:
    """Return all processes by pid, zombies included."""
    return {pid: found for pid in pids() if (found := stat(pid)) is not None}


def real_user(pid: int) -> int | None:
    """Return the real user of a process."""
    try:
        status = _read(f"/proc/{pid}/status", _STATUS_BYTES)
    except OSError as error:
        raise_shortage(error)
        return None
    # The kernel escapes line ends in the name that a process gives itself.
    found = re.search(rb"^Uid:\t(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else None


def marks(pid: int) -> Marks | None:
    """Return the marks of a process; None where it has none, may not be read, or has them beyond
    `ENVIRON_BYTES_MAX`. It may wait for a disk: `marks.py` reads those of strangers."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            return marks_in(_beginning(file))
    except OSError as error:
        raise_shortage(error)
        return None  # gone, a kernel thread, or another user's: none of them is ours


def _beginning(environ: FileIO) -> bytes:
    """Read until both marks are there, or `ENVIRON_BYTES_MAX`."""
    content = environ.read(_FIRST_READ_BYTES)
    while len(content) < ENVIRON_BYTES_MAX and None in _values(content):
        more = environ.read(len(content))
        if not more:
            break
        content += more
    return content


def marks_in(environment: bytes) -> Marks | None:
    """Return the marks in an environment, or in the beginning of one; None without the first."""
    instance, run_id = _values(environment)
    if not instance:
        return None
    return Marks(os.fsdecode(instance), os.fsdecode(run_id or b""))


def _values(environment: bytes) -> list[bytes | None]:
    """Return the value of each mark, as `getenv(3)` does; None also where it is cut off."""
    found: list[bytes | None] = []
    for name in MARK_VARIABLES:
        _, is_there, behind = (b"\0" + environment).partition(f"\0{name}=".encode())
        value, is_whole, _ = behind.partition(b"\0")
        found.append(value if is_there and is_whole else None)
    return found


def descendants(table: Mapping[int, Stat], roots: Iterable[int]) -> set[int]:
    """Return all descendants of `roots`, without these."""
    children: dict[int, list[int]] = {}
    for found in table.values():
        children.setdefault(found.ppid, []).append(found.pid)
    below: set[int] = set()
    rest = list(roots)
    while rest:
        new = [pid for pid in children.get(rest.pop(), ()) if pid not in below]
        below.update(new)
        rest.extend(new)
    return below


def is_below(pid: int, ancestor: int) -> bool:
    """`ancestor` is an ancestor of `pid`."""
    for _ in range(_ANCESTORS_MAX):
        found = stat(pid)
        if found is None or found.ppid == 0:
            return False
        if found.ppid == ancestor:
            return True
        pid = found.ppid
    return False
