"""Judges what was seen of a soak: a pure function from a history to its faults.

The evidence is the scripts' own journal, the backend's reports, and what was seen from
outside; never daemonDB. Instants (`at`) are seconds since boot.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

Value = TypeVar("Value")

TERMINAL = frozenset({"WONT_START", "WONT_FINISH", "FINISHED", "FAILED"})
ORPHAN_SECONDS_MAX = 5.0
#: A script that says `end` has not exited yet: a blow so near may have ended it first.
NEAR_SECONDS = 0.5
#: After the death of a supervisor its workers stop their scripts for so long at most: what
#: one says then is no end of itself.
STOPPING_SECONDS = 3.0
#: From the backend's change to its pull: the interval, a time-out and a loaded machine.
ARRIVES_SECONDS = 5.0
_SUPERVISOR_TOO = frozenset({"supervisor", "supervisor+worker", "everybody"})
_WORKER_TOO = frozenset({"worker", "supervisor+worker", "everybody"})


@dataclass(frozen=True)
class Action:
    """What a script of this kind does if nobody hinders it: the code it exits with, or None
    where it does not end of itself. `restarts`: its policy is not `never`. `until` is the
    end of its window."""

    id: str
    exit_code: int | None
    restarts: bool = False
    until: float = float("inf")

    @property
    def ends_once(self) -> bool:
        return self.exit_code is not None and not self.restarts


@dataclass(frozen=True)
class Begun:
    at: float
    action: str
    run: str


@dataclass(frozen=True)
class Ended:
    """The script's last word before it exits of itself."""

    at: float
    action: str
    run: str


@dataclass(frozen=True)
class Doubled:
    """A script found that another of its action lives."""

    at: float
    action: str
    run: str


@dataclass(frozen=True)
class Struck:
    """A signal that was sent to `kind`. `runs` lived below what it hit; `actions` are those
    whose workers it hit, with or without a script by then."""

    at: float
    kind: str
    runs: frozenset[str]
    actions: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Changed:
    """The backend or an operator meddled with the action: edited, withdrawn, stopped."""

    at: float
    action: str


@dataclass(frozen=True)
class Seen:
    """A status that the daemon showed; "NULL" is one."""

    at: float
    action: str
    status: str


@dataclass(frozen=True)
class Reported:
    """What the backend took, in the order of arrival."""

    key: str
    action: str
    status: str


@dataclass(frozen=True)
class Left:
    """A process of a run that is over, or of a daemon that is gone, and for how long."""

    pid: int
    run: str
    seconds: float


@dataclass(frozen=True)
class Fault:
    kind: str  # double-run, illegal-transition, lost-result, orphan, lost-report, wrong-status
    text: str


@dataclass
class History:
    actions: dict[str, Action] = field(default_factory=dict)
    begun: list[Begun] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    doubled: list[Doubled] = field(default_factory=list)
    struck: list[Struck] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    reported: list[Reported] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    final: dict[str, str] = field(default_factory=dict)  # of the last look


def faults(history: History) -> list[Fault]:
    return [
        *_double_runs(history),
        *_illegal_transitions(history),
        *_lost_results(history),
        *_orphans(history),
        *_lost_reports(history),
        *_wrong_statuses(history),
    ]


def _double_runs(history: History) -> Iterator[Fault]:
    for double in history.doubled:
        yield Fault("double-run", f"{double.action}: run {double.run} met another that lived")
    seen: set[str] = set()
    for begun in history.begun:
        if begun.run in seen:
            yield Fault("double-run", f"{begun.action}: run {begun.run} began twice")
        seen.add(begun.run)


def _illegal_transitions(history: History) -> Iterator[Fault]:
    shown = _by_action((seen.action, seen.status) for seen in history.seen)
    told = _by_action((one.action, one.status) for one in _first_told(history.reported))
    for what, statuses in (("seen", shown), ("reported", told)):
        for action, sequence in statuses.items():
            over = next((status for status in sequence if status in TERMINAL), None)
            after = sequence[sequence.index(over) :] if over else []
            if any(status != over for status in after):
                yield Fault("illegal-transition", f"{action}: {what} {' '.join(sequence)}")


def _lost_results(history: History) -> Iterator[Fault]:
    """A script that ended of itself, and whose worker lived to keep that, ran again."""
    begins = _by_action((begun.action, begun) for begun in history.begun)
    for ended in history.ended:
        action = history.actions.get(ended.action)
        if action is None or not action.ends_once:
            continue
        for begun in begins.get(ended.action, []):
            if begun.at <= ended.at or begun.run == ended.run:
                continue
            if not _excused(history, ended, begun.at):
                yield Fault("lost-result", f"{ended.action}: ended in {ended.run}, ran again")


def _excused(history: History, ended: Ended, until: float) -> bool:
    start = next(b.at for b in history.begun if b.run == ended.run)
    for struck in history.struck:
        of_the_run = ended.run in struck.runs or ended.action in struck.actions
        if of_the_run and struck.kind in _WORKER_TOO and start <= struck.at <= until:
            return True
        if of_the_run and abs(struck.at - ended.at) <= NEAR_SECONDS:
            return True
    # Nobody can look and strike at one instant: a run may have begun in between.
    if _supervisor_died_near(history, ended.at):
        return True
    # A change reaches a run that begins soon after it was published.
    return any(
        c.action == ended.action and start - ARRIVES_SECONDS <= c.at <= until
        for c in history.changed
    )


def _orphans(history: History) -> Iterator[Fault]:
    for left in history.left:
        if left.seconds > ORPHAN_SECONDS_MAX:
            yield Fault("orphan", f"pid {left.pid} of run {left.run} for {left.seconds:.1f} s")


def _lost_reports(history: History) -> Iterator[Fault]:
    """Each status that was seen was told, and the last that was told is the final one."""
    told = _by_action((one.action, one.status) for one in _first_told(history.reported))
    shown = _by_action((seen.action, seen.status) for seen in history.seen)
    for action, status in history.final.items():
        if status != "NULL" and told.get(action, ["none"])[-1] != status:
            yield Fault("lost-report", f"{action}: is {status}, told {told.get(action, [])}")
        missing = {*shown.get(action, [])} - {*told.get(action, []), "NULL"}
        if missing:
            yield Fault("lost-report", f"{action}: {sorted(missing)} seen and never told")
    numbers = [int(one.key.rpartition("-")[2]) for one in _first_told(history.reported)]
    by_action: dict[str, int] = {}
    for number, one in zip(numbers, _first_told(history.reported), strict=True):
        if number < by_action.get(one.action, 0):
            yield Fault("lost-report", f"{one.action}: report {one.key} came out of order")
        by_action[one.action] = number


def _wrong_statuses(history: History) -> Iterator[Fault]:
    """Whoever was left alone ends as its script did; and everything ends."""
    meddled = {change.action for change in history.changed}
    struck = frozenset[str]().union(*(blow.runs | blow.actions for blow in history.struck))
    runs = _by_action((begun.action, begun.run) for begun in history.begun)
    ended = {one.action: one.at for one in history.ended}
    for action_id, status in history.final.items():
        if status not in TERMINAL:
            yield Fault("wrong-status", f"{action_id}: still {status}")
        action = history.actions.get(action_id)
        alone = action_id not in meddled and struck.isdisjoint(
            (action_id, *runs.get(action_id, []))
        )
        if action is None or not action.ends_once or not alone or action_id not in ended:
            continue
        if ended[action_id] > action.until - NEAR_SECONDS:
            continue  # about then a run is stopped for its window, and is FINISHED
        expected = "FINISHED" if action.exit_code == 0 else "FAILED"
        if status != expected and not _supervisor_died_near(history, ended[action_id]):
            yield Fault("wrong-status", f"{action_id}: {status}, and not {expected}")


def _supervisor_died_near(history: History, at: float) -> bool:
    near = (at - one.at for one in history.struck if one.kind in _SUPERVISOR_TOO)
    return any(-NEAR_SECONDS <= since <= STOPPING_SECONDS for since in near)


def _first_told(reported: Iterable[Reported]) -> list[Reported]:
    """At least once is promised: repetitions do not count."""
    first: dict[str, Reported] = {}
    for one in reported:
        first.setdefault(one.key, one)
    return list(first.values())


def _by_action(pairs: Iterable[tuple[str, Value]]) -> dict[str, list[Value]]:
    found: dict[str, list[Value]] = defaultdict(list)
    for action, value in pairs:
        found[action].append(value)
    return found
