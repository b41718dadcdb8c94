"""What `/proc` tells about processes: who they are, whose they are, what they cost.

It reads and compares; it never signals. Whatever is asked of a process that is gone
answers None or nothing: gone is normal, and no error.
"""

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

INSTANCE_VARIABLE = "GEOSCHED_INSTANCE"
RUN_ID_VARIABLE = "GEOSCHED_RUN_ID"

#: States of a process that runs no more: zombie, and dead on its way out.
_ENDED_STATES = "ZXx"
#: Parents looked through to find out whose a process is; a longer chain is nobody's.
_ANCESTORS_MAX = 1000
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Identity(msgspec.Struct, frozen=True):
    """One process for ever: a pid is used again, these three together are not (law 13).

    `start_ticks` is field 22 of `/proc/<pid>/stat`.
    """

    boot_id: str
    pid: int
    start_ticks: int


class Stat(NamedTuple):
    """A line of the process table, from `/proc/<pid>/stat`."""

    pid: int
    state: str
    ppid: int
    pgid: int
    session: int
    threads: int
    start_ticks: int
    cpu_seconds: float  # its own, and of children it waited for
    rss_bytes: int

    @property
    def ended(self) -> bool:
        """A first thread that ended alone looks like a zombie, and others go on."""
        return self.state in _ENDED_STATES and self.threads <= 1


class Marks(NamedTuple):
    """What a script's environment says of whose it is."""

    instance: str
    run_id: str


def children(pid: int) -> list[int]:
    """Its children, ended ones that it did not wait for included; none where the kernel is
    built without CONFIG_PROC_CHILDREN. Cheap, and whole only for one's own."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:  # each of them has the children it forked
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except OSError:
            continue
    return found


def below(ancestor: int) -> dict[int, Stat]:
    """Everything below a process, ended ones that nobody waited for included, found by its
    children and theirs: at the cost of what is there, not of all that runs on the host."""
    found: dict[int, Stat] = {}
    rest = [ancestor]
    while rest:
        for child in children(rest.pop()):
            if child not in found and (known := stat(child)) is not None:
                found[child] = known
                rest.append(child)
    return found


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def stat(pid: int) -> Stat | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name is in parentheses, and may hold blanks and parentheses itself.
    fields = line[line.rindex(b")") + 2 :].split()
    ticks = sum(int(field) for field in fields[11:15])
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


def start_ticks(pid: int) -> int | None:
    found = stat(pid)
    return None if found is None else found.start_ticks


def identity(pid: int) -> Identity | None:
    ticks = start_ticks(pid)
    return None if ticks is None else Identity(boot_id(), pid, ticks)


def lives(known: Identity) -> bool:
    """Whether this very process still runs. For signalling, open its pidfd first."""
    found = stat(known.pid)
    return (
        found is not None
        and not found.ended
        and found.start_ticks == known.start_ticks
        and known.boot_id == boot_id()
    )


def process_table() -> dict[int, Stat]:
    """Every process by its pid, ended ones that nobody waited for included."""
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    return {pid: found for pid in pids if (found := stat(pid)) is not None}


def marks(pid: int) -> Marks | None:
    """The marks in a process's environment; None where it has none or may not be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
    except OSError:
        return None  # gone, a kernel thread, or another user's: none of them is ours
    found = dict(
        entry.split(b"=", 1)
        for entry in environment.split(b"\0")
        if entry.startswith(b"GEOSCHED_")
        if b"=" in entry
    )
    instance = found.get(INSTANCE_VARIABLE.encode())
    if not instance:
        return None
    run_id = found.get(RUN_ID_VARIABLE.encode(), b"")
    return Marks(os.fsdecode(instance), os.fsdecode(run_id))


def marked(table: Iterable[int], instance: str, run_id: str | None = None) -> set[int]:
    """The processes that carry the mark of an instance, or of one of its runs."""
    return {
        pid
        for pid in table
        if (found := marks(pid)) is not None
        and found.instance == instance
        and run_id in (None, found.run_id)
    }


def descendants(table: Mapping[int, Stat], roots: Iterable[int]) -> set[int]:
    """Everything below `roots`, without them."""
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
    """Whether `ancestor` is found going up from `pid`."""
    for _ in range(_ANCESTORS_MAX):
        found = stat(pid)
        if found is None or found.ppid == 0:
            return False
        if found.ppid == ancestor:
            return True
        pid = found.ppid
    return False
