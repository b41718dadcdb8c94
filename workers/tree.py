"""The whole tree of one run: who is in it, a signal to all of them, is it gone (law 12).

Used by the worker, and by the supervisor for a run whose worker died. Each call is one
round that does not wait; how often and how long is the caller's business.
"""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from . import procfs
from .containment import Containment, Group
from .procfs import Stat


@dataclass(frozen=True, slots=True)
class RunTree:
    """One run as something to be found and ended.

    `keeper` is the pid of the subreaper whose only children are this run's (the worker's
    own), or None: then `script_pid` is believed only as far as the process table bears it
    out, because nobody has kept it from being used again.
    """

    instance: str
    run_id: str
    script_pid: int | None = None
    keeper: int | None = None
    group: Group | None = None

    def members(self) -> dict[int, Stat]:
        """Every process of the run that has not ended."""
        table = procfs.process_table()
        found = procfs.marked(table, self.instance, self.run_id)
        if self.group is not None:
            found |= (self.group.pids() & table.keys()) - {self.keeper}
        if self.keeper is not None:
            found |= procfs.descendants(table, [self.keeper])
        if self.script_pid is not None and self._script_is_ours(table, found):
            found |= _led_by(table, self.script_pid)
        found |= procfs.descendants(table, found)
        return {pid: table[pid] for pid in found if not table[pid].ended}

    def _script_is_ours(self, table: Mapping[int, Stat], found: set[int]) -> bool:
        """While members of its session live, nobody else can get the pid of their leader."""
        leader = table.get(self.script_pid or 0)
        return leader is None or leader.ended or leader.pid in found

    def signal(self, number: int) -> None:
        """Signal every member, and let stopped ones take it."""
        for member in self.members().values():
            _send(member, number)
            _send(member, signal.SIGCONT)

    def kill(self) -> bool:
        """One round of SIGKILL; whether nothing is left."""
        if self.group is not None and (self.keeper is None or self.group.leave()):
            self.group.kill()
        for member in self.members().values():
            _send(member, signal.SIGKILL)
        return self.gone()

    def gone(self) -> bool:
        """Nothing is left, seen twice: a scan can miss what is forked while it is made."""
        return not self.members() and not self.members()


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
) -> dict[int, Stat]:
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
    found = procfs.marked(table, instance)
    for group in groups:
        found |= group.pids() & table.keys()
    found |= procfs.descendants(table, found)
    found -= {os.getpid(), *spared}
    remaining = {pid: table[pid] for pid in found if not table[pid].ended}
    for member in remaining.values():
        _send(member, signal.SIGKILL)
    if not remaining:
        for group in groups:
            group.remove()
    return remaining


def _led_by(table: Mapping[int, Stat], leader: int) -> set[int]:
    return {
        found.pid for found in table.values() if leader in (found.pid, found.pgid, found.session)
    }


def _send(member: Stat, number: int) -> None:
    """Signal this very process: its pid may have been used again since it was looked at."""
    try:
        pidfd = os.pidfd_open(member.pid)
    except ProcessLookupError:
        return
    try:
        if procfs.start_ticks(member.pid) == member.start_ticks:
            signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        return  # gone, or it became another user: then it stays, and is told as stuck
    finally:
        os.close(pidfd)
