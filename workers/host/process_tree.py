"""The process tree of a run: its members, signals to all of them, and its end (law 12).

Used by the worker, and by the supervisor for a run whose worker died. Each call is one round
that does not wait; its caller decides how often and how long.
"""

import os
import signal
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

from . import procfs
from .cgroups import Containment, Group
from .marks import MarkReader, own_users
from .procfs import Identity, Stat
from .signalling import signal_process

#: Rounds of killing processes that become this one's children meanwhile, and looks in each.
CHASES_MAX = 100
CHASES_OF_SESSIONS_MAX = 5  # the supervisor does that itself
LOOKS_MAX = 20
#: Of the supervisor's children only so many for each run are looked at, the newest; the process
#: table shows older ones.
NEWEST_MAX = 32
#: A run is gone that is not to be seen in so many looks at the process table in a row.
LOOKS_WITHOUT_A_MEMBER = 2

Found = TypeVar("Found", dict[Stat, str], set[int])
#: A member of a run, by its pid and start.
Witness: TypeAlias = tuple[int, int]


class ProcessLook:
    """One look at all processes of the host, in which the runs of many are found. Of strangers no
    more is asked than whose they are, until somebody wants the `table`."""

    def __init__(
        self, known: dict[int, Stat], marked: dict[str, set[int]], users: Mapping[int, int]
    ) -> None:
        self._known = known
        self.marked = marked  # by their run id
        self._users = users

    @staticmethod
    def take(reader: MarkReader) -> "ProcessLook":
        """Raises `OSError` where there is no descriptor, or no memory, to look with."""
        users = reader.users_of(procfs.pids())
        # Before their marks: a pid that is another's by then has another start.
        known = {found.pid: found for found in _known(users) if not found.ended}
        marked: dict[str, set[int]] = {}
        for pid, run_id in reader.marked_of({pid: users[pid] for pid in known}).items():
            marked.setdefault(run_id, set()).add(pid)
        return ProcessLook(known, marked, users)

    def marked_by(self, run_id: str, users: Collection[int]) -> set[int]:
        """Return those that carry the mark of a run, and are processes of `users`: who can read
        the mark in its own run's environment can write it with the id of any other."""
        return self.of(self.marked.get(run_id, ()), users)

    def user_of(self, pid: int) -> int | None:
        """Return the user of a process; None where the look did not ask for it."""
        return self._users.get(pid)

    def of(self, pids: Iterable[int], users: Collection[int]) -> set[int]:
        """Return those that are processes of `users`, as far as the look asked for these."""
        return {pid for pid in pids if self.user_of(pid) in users}

    @cached_property
    def table(self) -> dict[int, Stat]:
        """All processes."""
        return procfs.process_table() | self._known

    @cached_property
    def led(self) -> dict[int, set[int]]:
        """All by the leader of their group, and of their session."""
        led: dict[int, set[int]] = {}
        for found in self.table.values():
            for leader in (found.pid, found.pgid, found.session):
                led.setdefault(leader, set()).add(found.pid)
        return led

    @cached_property
    def children(self) -> dict[int, set[int]]:
        """All by their parent."""
        children: dict[int, set[int]] = {}
        for found in self.table.values():
            children.setdefault(found.ppid, set()).add(found.pid)
        return children

    def below(self, roots: Iterable[int]) -> set[int]:
        """Return all descendants of `roots`, without these."""
        below: set[int] = set()
        rest = list(roots)
        while rest:
            new = self.children.get(rest.pop(), set()) - below
            below |= new
            rest.extend(new)
        return below

    def led_by(self, script: Identity, *, gone: bool) -> set[int]:
        """Return the group and the session of a script, itself among them, while it lives; with
        `gone` also if it has ended. That is told only within seconds: later its pid may have
        become that of another leader, which has ended as well."""
        leader = self.table.get(script.pid)
        if leader is None:
            known = gone
        else:
            known = leader.start_ticks == script.start_ticks and (gone or not leader.ended)
        return self.led.get(script.pid, set()) if known else set()


class RunTree(msgspec.Struct, frozen=True):
    """The processes of one run.

    `keeper` is the pid of the worker, if that is the calling process: a subreaper whose only
    children are this run's. Whatever the script starts stays below it, however often it forks
    and detaches (`prctl(2)`, PR_SET_CHILD_SUBREAPER), so no other process on the host has to be
    looked at; and it keeps the script unreaped, so `script_pid` is no other process's. Without
    a keeper, members are found by marks, group and session, and `script_pid` is believed only
    as far as the process table, or its start, `script_ticks`, confirms it; `adopter` is then the
    subreaper to which orphans of the run come, the calling process where it is None. Marks count
    in processes of `users` and of the calling process's own.

    Once the script is reaped, its pid may become that of another leader, which has ended as well.
    It cannot while anything of its session lives. So a session without its leader is the run's
    where the run was `just_lost`, or while a `witness` lives that an earlier round has seen in
    it; else only processes of those users count in it.
    """

    mark: str
    run_id: str
    script_pid: int | None = None
    keeper: int | None = None
    group: Group | None = None
    adopter: int | None = None
    script_ticks: int | None = None
    users: frozenset[int] = frozenset()
    just_lost: bool = False
    witness: Witness | None = None

    def members(self, look: ProcessLook | None = None) -> dict[int, Stat]:
        """Return all processes of the run that have not ended; without a keeper, in `look`."""
        found = self._kept() if self.keeper is not None else self._searched(look)
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

    def _searched(self, look: ProcessLook | None = None) -> dict[int, Stat]:
        if look is None:
            with MarkReader((self.mark,), self.users) as reader:
                look = ProcessLook.take(reader)
        users = self.users | own_users()
        found = look.marked_by(self.run_id, users)
        if self.group is not None:
            found |= (self.group.pids() & look.table.keys()) - {self.keeper}
        if self.keeper is not None:
            found |= look.below([self.keeper])
        if self.script_pid is not None:
            found |= self._led(self.script_pid, look, found, users)
        found |= look.below(found)
        return {pid: look.table[pid] for pid in found}

    def _led(
        self, script_pid: int, look: ProcessLook, found: set[int], users: Collection[int]
    ) -> set[int]:
        """Return what is in the group and the session of the script and is the run's."""
        led = look.led.get(script_pid, set())
        leader = look.table.get(script_pid)
        if leader is not None and (leader.start_ticks == self.script_ticks or script_pid in found):
            return led
        if leader is not None and not (leader.ended and self.script_ticks is None):
            return set()  # another process has its pid: none can, while its session lives
        if self.just_lost or self.witness in {(pid, look.table[pid].start_ticks) for pid in led}:
            return led
        return look.of(led, users)

    def witness_among(self, members: Mapping[int, Stat]) -> Witness | None:
        """Return the oldest of the members that are in the script's group or session."""
        led = [one for one in members.values() if self.script_pid in (one.pgid, one.session)]
        oldest = min(led, key=lambda one: one.start_ticks, default=None)
        return None if oldest is None else (oldest.pid, oldest.start_ticks)

    def signal(self, number: int) -> None:
        """Signal all members, and continue stopped ones so that they receive it."""
        for member in self.members().values():
            signal_process(member, number)
            signal_process(member, signal.SIGCONT)

    def kill(self) -> bool:
        """Do one round of SIGKILL. True if nothing is left."""
        if self.keeper is None:
            return bool(end_trees([self]).gone)
        if self.group is not None and self.group.leave():
            self.group.kill()
        for member in self.members().values():
            signal_process(member, signal.SIGKILL)
        if self.group is None:
            # Children of this process: until it reaps one, its pid is no other's.
            _chase(lambda: _known(self._adopted()))
        return self.gone()

    def gone(self) -> bool:
        """Nothing is left. The group and the list of children are asked first: a chain of processes
        that fork the next and end can be missed by any number of looks at the process table."""
        if self.keeper is None:
            with _reader_for([self]) as reader:
                return bool(_gone([self], reader))
        if self.group is not None and self.group.pids() - {self.keeper}:
            return False
        return not self._adopted() and not self.members() and not self.members()

    def _adopted(self) -> set[int]:
        """Return living children of the keeper."""
        return _adopted(os.getpid(), lambda found: {pid for pid in found if not self._reaped(pid)})

    def _reaped(self, child: int) -> bool:
        """A child of the keeper has ended. It is reaped then, but for the script, whose exit status
        `launch.py` reads."""
        keep = os.WNOWAIT if child == self.script_pid else 0
        found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | keep)
        return found is not None and found.si_code != os.CLD_TRAPPED  # that one is held


class Round(NamedTuple):
    """What came of a round: the ids of the runs that are gone, and of the others the witnesses of
    their sessions, for the next round."""

    gone: list[str]
    witnesses: dict[str, Witness]


def end_trees(trees: Sequence[RunTree]) -> Round:
    """Do one round of SIGKILL to runs of an instance whose workers are dead or silent; a worker
    ends with its group."""
    if not trees:
        return Round([], {})
    witnesses: dict[str, Witness] = {}
    with _reader_for(trees) as reader:
        look = ProcessLook.take(reader)
        for tree in trees:
            if tree.group is not None:
                tree.group.kill()
            members = tree.members(look)
            if (witness := tree.witness_among(members)) is not None:
                witnesses[tree.run_id] = witness
            for member in members.values():
                signal_process(member, signal.SIGKILL)
        _chase(lambda: _orphans(trees, reader).keys())
        gone = _gone(trees, reader)
    for tree in gone:
        witnesses.pop(tree.run_id, None)
        if tree.group is not None:
            tree.group.remove()
    return Round([tree.run_id for tree in gone], witnesses)


def _reader_for(trees: Sequence[RunTree]) -> MarkReader:
    users = frozenset(user for tree in trees for user in tree.users)
    return MarkReader({tree.mark for tree in trees}, users)


def end_sessions(leaders: Collection[int]) -> None:
    """Do one round of SIGKILL to orphans of scripts that have ended, by their sessions, and to all
    below them: to those that came to the calling process, the subreaper. It reads no environment,
    so it waits for nobody; what has left the session is for `end_trees` to find."""

    def left() -> list[Stat]:
        alive = [found for found in _known(procfs.children(os.getpid())) if not found.ended]
        theirs = {found.session for found in alive} & set(leaders)
        over = {pid for pid in theirs if (leader := procfs.stat(pid)) is None or leader.ended}
        roots = [found for found in alive if found.session in over]
        return [one for root in roots for one in (root, *procfs.below(root.pid).values())]

    _chase(left, CHASES_OF_SESSIONS_MAX)


def _gone(trees: Sequence[RunTree], reader: MarkReader) -> list[RunTree]:
    """Return those of which nothing is left, as `RunTree.gone` looks."""
    orphans = set(_orphans(trees, reader).values())
    left = [
        tree
        for tree in trees
        if tree.run_id not in orphans and not (tree.group is not None and tree.group.pids())
    ]
    for _ in range(LOOKS_WITHOUT_A_MEMBER):
        if left:
            look = ProcessLook.take(reader)
            left = [tree for tree in left if not tree.members(look)]
    return left


def _orphans(trees: Sequence[RunTree], reader: MarkReader) -> dict[Stat, str]:
    """Return living children of the adopter that are of runs without a group, with their runs."""
    own = own_users()
    loose = {tree.run_id: tree.users | own for tree in trees if tree.group is None}
    if not loose:
        return {}
    newest_max = NEWEST_MAX * len(loose)

    def living(newest_last: list[int]) -> dict[Stat, str]:
        known = {found.pid: found for found in _known(newest_last[-newest_max:])}
        users = reader.users_of(known)
        marked = reader.marked_of(users)
        return {
            known[pid]: run_id
            for pid, run_id in marked.items()
            if users[pid] in loose.get(run_id, ())
        }

    return _adopted(trees[0].adopter or os.getpid(), living)


def _known(pids: Iterable[int]) -> list[Stat]:
    return [found for pid in pids if (found := procfs.stat(pid)) is not None]


def _chase(living: Callable[[], Collection[Stat]], chases_max: int = CHASES_MAX) -> None:
    """Kill processes that have just become children of the subreaper, before they fork again: an
    orphan comes to it, so a chain of short-lived processes passes there."""
    for _ in range(chases_max):
        adopted = living()
        if not adopted:
            return
        for found in adopted:
            signal_process(found, signal.SIGKILL)


def _adopted(adopter: int, living: Callable[[list[int]], Found]) -> Found:
    """Return the living of a subreaper's children, of which the newest is last.

    Looked for repeatedly: one that ended meanwhile may have left a child of its own.
    """
    before: set[int] | None = None
    for _ in range(LOOKS_MAX):
        newest_last = procfs.children(adopter)
        found = living(newest_last)
        if found or set(newest_last) == before:
            break  # where none lives, all had ended before this look, and left us nothing
        before = set(newest_last)
    return found


def end_instance(
    look: ProcessLook,
    containment: Containment,
    *,
    spared: frozenset[int] = frozenset(),
    scripts: Collection[Identity] = (),
    just_lost: bool = False,
) -> set[int]:
    """Do one round of SIGKILL to all scripts of an instance, for the sweep (law 15). They are the
    processes that carry its mark or are in its groups, `scripts` that were noted, with what they
    lead (all of them where they were `just_lost`), and all below these.

    `spared` are workers that may still keep their results. Returns the processes found alive.
    """
    groups = containment.leftovers()
    for group in groups:
        if not group.pids() & spared:
            group.kill()
    grouped = {pid for group in groups for pid in group.pids()}
    found = {pid for pids in look.marked.values() for pid in pids} | grouped
    for script in scripts:
        found |= look.led_by(script, gone=just_lost)
    found |= look.below(found)
    alive: set[int] = set()
    for pid in found - {os.getpid(), *spared}:
        # A process in a group but not in the table was forked meanwhile.
        known = procfs.stat(pid) if pid in grouped else look.table[pid]
        if known is not None and _still_lives(known):
            alive.add(pid)
            signal_process(known, signal.SIGKILL)
    if not alive:
        for group in groups:
            group.remove()
    return alive


def _still_lives(known: Stat) -> bool:
    """The process has not ended since it was looked at."""
    now = procfs.stat(known.pid)
    return now is not None and not now.ended and now.start_ticks == known.start_ticks
