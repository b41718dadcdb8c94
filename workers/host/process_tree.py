"""The whole tree of one run: who is in it, a signal to all of them, is it gone (law 12).

Used by the worker, and by the supervisor for a run whose worker died. Each call is one
round that does not wait; how often and how long is the caller's business.
"""

import contextlib
import os
import signal
from collections.abc import Mapping

import msgspec

from . import procfs
from .cgroups import Containment, Group
from .procfs import Identity, Stat

#: Rounds of killing what becomes our own child while we do, and looks for it in each.
CHASES_MAX = 100
LOOKS_MAX = 20
#: Of the supervisor's children, the last so many: older ones the process table shows.
NEWEST_MAX = 32


class RunTree(msgspec.Struct, frozen=True):
    """One run as something to be found and ended.

    `keeper` is the pid of the subreaper whose only children are this run's (the worker's
    own): whatever the script starts stays below it, however often it forks and leaves
    (`prctl(2)`, PR_SET_CHILD_SUBREAPER), so that nobody else on the host has to be looked
    at. It keeps the script unreaped, so `script_pid` is nobody else's. Without a keeper
    marks, the group and the session have to do, and `script_pid` is believed only as far
    as the process table bears it out.
    """

    instance: str
    run_id: str
    script_pid: int | None = None
    keeper: int | None = None
    group: Group | None = None

    def members(self) -> dict[int, Stat]:
        """Every process of the run that has not ended."""
        found = self._kept() if self.keeper is not None else self._searched()
        return {pid: member for pid, member in found.items() if not member.ended}

    def _kept(self) -> dict[int, Stat]:
        assert self.keeper is not None
        found = procfs.below(self.keeper)
        if self.script_pid is not None and self.script_pid not in found:
            return self._searched()  # the kernel does not tell children: the script is one
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
        """While members of its session live, nobody else can get the pid of their leader."""
        leader = table.get(self.script_pid or 0)
        return leader is None or leader.ended or leader.pid in found

    def signal(self, number: int) -> None:
        """Signal every member, and let stopped ones take it."""
        for member in self.members().values():
            signal_process(member, number)
            signal_process(member, signal.SIGCONT)

    def kill(self) -> bool:
        """One round of SIGKILL; whether nothing is left."""
        if self.group is not None and (self.keeper is None or self.group.leave()):
            self.group.kill()
        for member in self.members().values():
            signal_process(member, signal.SIGKILL)
        if self.group is None:
            self._chase()
        return self.gone()

    def gone(self) -> bool:
        """Nothing is left. What the kernel knows comes first: a process that forks the next
        and leaves can be missed by every look at the process table, however often."""
        if self.group is not None and self.group.pids() - {self.keeper}:
            return False
        if (self.group is None or self.keeper is not None) and self._adopted():
            return False
        return not self.members() and not self.members()

    def _chase(self) -> None:
        """Kill what has just become our child, before it forks again: whose parent ends
        comes to its subreaper, so a chain of short lives passes here."""
        for _ in range(CHASES_MAX):
            adopted = self._adopted()
            if not adopted:
                return
            for pid in adopted:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def _adopted(self) -> set[int]:
        """Living children of this very process that are the run's. Nobody else waits for
        them, so none of these pids can be a stranger's by now.

        Looked for often: what ended as we came to it may have left us a child of its own.
        """
        before: set[int] | None = None
        for _ in range(LOOKS_MAX):
            newest_last = procfs.children(os.getpid())
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
        """Whether a child of the keeper's has ended. Its pid is given back then, but for
        the script's, whose end is told by `launch.py`."""
        keep = os.WNOWAIT if child == self.script_pid else 0
        found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | keep)
        return found is not None and found.si_code != os.CLD_TRAPPED  # that one is held


def end_tree(instance: str, run_id: str, script_pid: int | None, group: Group | None) -> bool:
    """For the supervisor: one round of ending a run whose worker is of no use; the worker
    goes with its group. Is it gone?"""
    if not RunTree(instance, run_id, script_pid, group=group).kill():
        return False
    if group is not None:
        group.remove()
    return True


def end_instance(
    instance: str, containment: Containment, spared: frozenset[int] = frozenset()
) -> set[int]:
    """For the sweep (law 15): one round of SIGKILL to all scripts of an instance.

    Whatever carries its mark or is in its groups, and everything below, but for `spared`
    (workers that still keep their results); returns those that were still there, so a
    round that returns nothing has found nothing.
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
    # What is in a group but not in the table was forked while we looked.
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
    except ProcessLookupError:
        return
    try:
        if procfs.start_ticks(known.pid) == known.start_ticks:
            signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        return  # gone, or it became another user: then it stays, and is told as stuck
    finally:
        os.close(pidfd)
