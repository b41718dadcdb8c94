"""The process tree of a run: its members, signals to all of them, and its end (law 12).

Used by the worker, and by the supervisor for a run whose worker died. Each call is one round
that does not wait; its caller decides how often and how long.
"""

import errno
import os
import signal
from collections.abc import Mapping

import msgspec

from . import procfs
from .cgroups import Containment, Group
from .procfs import Identity, Stat

#: Of `pidfd_open`, for a number that no process has: of the last two one is said, by the kernel's
#: age, where a thread has it by now (fact P30).
_NO_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
#: Rounds of killing processes that become this one's children meanwhile, and looks in each.
CHASES_MAX = 100
LOOKS_MAX = 20
#: Only the newest children of the supervisor are looked at; the process table shows older ones.
NEWEST_MAX = 32


class RunTree(msgspec.Struct, frozen=True):
    """The processes of one run.

    `keeper` is the pid of the worker, if that is the calling process: a subreaper whose only
    children are this run's. Whatever the script starts stays below it, however often it forks
    and detaches (`prctl(2)`, PR_SET_CHILD_SUBREAPER), so no other process on the host has to be
    looked at; and it keeps the script unreaped, so `script_pid` is no other process's. Without
    a keeper, members are found by marks, group and session, and `script_pid` is believed only
    as far as the process table confirms it; `adopter` is then the subreaper to which orphans of
    the run come, the calling process where it is None.
    """

    instance: str
    run_id: str
    script_pid: int | None = None
    keeper: int | None = None
    group: Group | None = None
    adopter: int | None = None

    def members(self) -> dict[int, Stat]:
        """Return all processes of the run that have not ended."""
        found = self._kept() if self.keeper is not None else self._searched()
        return {pid: member for pid, member in found.items() if not member.ended}

    def _kept(self) -> dict[int, Stat]:
        assert self.keeper is not None
        found = procfs.below(self.keeper)
        if self.script_pid is not None and self.script_pid not in found:
            return self._searched()  # the kernel lists no children, or the script would be one
        if self.group is not None:
            for pid in self.group.pids() - found.keys() - {self.keeper}:
                if (member := procfs.stat(pid)) is not None:
                    found[pid] = member
        return found

    def _searched(self) -> dict[int, Stat]:
        table = procfs.process_table()
        found = procfs.marked(table, self.instance, self.run_id)
        if self.group is not None:
            found |= (self.group.pids() & table.keys()) - {self.keeper}
        if self.keeper is not None:
            found |= procfs.descendants(table, [self.keeper])
        if self.script_pid is not None and self._script_is_ours(table, found):
            found |= _led_by(table, self.script_pid)
        found |= procfs.descendants(table, found)
        return {pid: table[pid] for pid in found}

    def _script_is_ours(self, table: Mapping[int, Stat], found: set[int]) -> bool:
        """No other process has `script_pid` now: none can, while members of its session live."""
        leader = table.get(self.script_pid or 0)
        return leader is None or leader.ended or leader.pid in found

    def signal(self, number: int) -> None:
        """Signal all members, and continue stopped ones so that they receive it."""
        for member in self.members().values():
            signal_process(member, number)
            signal_process(member, signal.SIGCONT)

    def kill(self) -> bool:
        """Do one round of SIGKILL. True if nothing is left."""
        if self.group is not None and (self.keeper is None or self.group.leave()):
            self.group.kill()
        for member in self.members().values():
            signal_process(member, signal.SIGKILL)
        if self.group is None:
            self._chase()
        return self.gone()

    def gone(self) -> bool:
        """Nothing is left. The group and the list of children are asked first: a chain of processes
        that fork the next and end can be missed by any number of looks at the process table."""
        if self.group is not None and self.group.pids() - {self.keeper}:
            return False
        if (self.group is None or self.keeper is not None) and self._adopted():
            return False
        return not self.members() and not self.members()

    def _chase(self) -> None:
        """Kill processes that have just become children of this one, before they fork again: an
        orphan comes to its subreaper, so a chain of short-lived processes passes here."""
        for _ in range(CHASES_MAX):
            adopted = self._adopted()
            if not adopted:
                return
            for pid in adopted:
                if (found := procfs.stat(pid)) is not None:
                    signal_process(found, signal.SIGKILL)

    def _adopted(self) -> set[int]:
        """Return living children of the subreaper that are the run's.

        Looked for repeatedly: one that ended meanwhile may have left a child of its own.
        """
        before: set[int] | None = None
        for _ in range(LOOKS_MAX):
            newest_last = procfs.children(self.adopter or os.getpid())
            children = set(newest_last)
            if self.keeper is None:
                living = procfs.marked(newest_last[-NEWEST_MAX:], self.instance, self.run_id)
            elif children == before:
                return set()  # all had ended before this look, and left us nothing
            else:
                living = {pid for pid in children if not self._reaped(pid)}
            if living:
                return living
            before = children
        return set()

    def _reaped(self, child: int) -> bool:
        """A child of the keeper has ended. It is reaped then, but for the script, whose exit status
        `launch.py` reads."""
        keep = os.WNOWAIT if child == self.script_pid else 0
        found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | keep)
        return found is not None and found.si_code != os.CLD_TRAPPED  # that one is held


def end_tree(
    instance: str,
    run_id: str,
    script_pid: int | None,
    group: Group | None,
    *,
    adopter: int | None = None,
) -> bool:
    """Do one round of SIGKILL to a run whose worker is dead or silent, for the supervisor; the
    worker ends with its group. True once the run is gone."""
    if not RunTree(instance, run_id, script_pid, group=group, adopter=adopter).kill():
        return False
    if group is not None:
        group.remove()
    return True


def end_instance(
    instance: str, containment: Containment, spared: frozenset[int] = frozenset()
) -> set[int]:
    """Do one round of SIGKILL to all scripts of an instance, for the sweep (law 15). They are the
    processes that carry its mark or are in its groups, and all below them.

    `spared` are workers that may still keep their results. Returns the processes found alive.
    """
    groups = containment.leftovers()
    for group in groups:
        if not group.pids() & spared:
            group.kill()
    table = procfs.process_table()
    grouped = {pid for group in groups for pid in group.pids()}
    found = procfs.marked(table, instance) | (grouped & table.keys())
    found |= procfs.descendants(table, found)
    found -= {os.getpid(), *spared}
    alive = {pid for pid in found if not table[pid].ended}
    for pid in alive:
        signal_process(table[pid], signal.SIGKILL)
    # A process in a group but not in the table was forked meanwhile.
    remaining = alive | (grouped - table.keys())
    if not remaining:
        for group in groups:
            group.remove()
    return remaining


def _led_by(table: Mapping[int, Stat], leader: int) -> set[int]:
    return {
        found.pid for found in table.values() if leader in (found.pid, found.pgid, found.session)
    }


def signal_process(known: Stat | Identity, number: int) -> None:
    """Signal this very process. Its pid may be another's by now, a pidfd never is: so the pidfd
    is opened first, then the start time compared (fact P6)."""
    try:
        pidfd = os.pidfd_open(known.pid)
    except OSError as error:
        if error.errno in _NO_PROCESS:
            return
        raise
    try:
        if procfs.start_ticks(known.pid) == known.start_ticks:
            signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        return  # gone; or now another user's: then it stays, and is reported as stuck
    finally:
        os.close(pidfd)
