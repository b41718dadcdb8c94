"""Process trees of lost runs: rounds of SIGKILL until nothing is left of them (law 12).

A helper does the rounds, one at a time for all that are due: to tell what belongs to a run it
reads environments in `/proc`, and may wait there. What needs none is killed from here as well,
at once and again while there is no answer: the run's group, or its script's session.
"""

import contextlib
import os
from collections.abc import Callable, Iterable

import msgspec
from msgspec.structs import replace

from ...ipc.messages.helper import EndTrees, LostRun, ToHelper, TreesEnded
from ...workers.host.cgroups import Containment
from ...workers.host.liveness import patience_seconds
from ...workers.host.process_tree import end_sessions
from ..host.helpers import Job

#: Between two rounds.
ROUND_SECONDS = 0.05
#: A run that is not gone this long after its grace, or after the first round, is stuck (S13a),
#: and killed again at this interval.
STUCK_AFTER_SECONDS = 5.0
KILL_AGAIN_SECONDS = 30.0
#: A round that no helper did is asked for again after `ROUND_SECONDS`, doubled up to this.
ASK_AGAIN_SECONDS_MAX = 5.0
#: For so long a run was just lost: a session without its leader is then still its own, however fast
#: others use up pids.
JUST_LOST_SECONDS_MAX = 5.0
#: While none is done, what can be killed from here is killed this often.
STRIKE_SECONDS = 1.0
#: Of one round, so that the request fits the helper's buffer; the others take the next.
TREES_OF_A_ROUND_MAX = 500


class LostTree(msgspec.Struct):
    """The tree of a lost run. `looked_monotonic` is when the first round was done: before that
    nobody can say that anything is left. `lost_monotonic` is when it was first to be ended."""

    run: LostRun
    lost_monotonic: float | None = None
    round_at_monotonic: float = 0.0
    looked_monotonic: float | None = None
    struck: bool = False
    gone: bool = False


class LostTrees:
    """Ends trees. It is turned by the pool: `gather` in every turn, after what was lost in it."""

    def __init__(self, groups: Containment) -> None:
        self._groups = groups
        self._submit: Callable[[ToHelper], Job] | None = None
        self._trees: dict[str, LostTree] = {}
        self._job: Job | None = None
        self._asked: list[LostTree] = []
        self._refused = 0  # rounds in a row that no helper did
        self._ask_at_monotonic = 0.0
        self._strike_at_monotonic = 0.0

    def help_by(self, submit: Callable[[ToHelper], Job]) -> None:
        self._submit = submit

    def end(self, run_id: str, script_pid: int | None, worker: str | None) -> LostTree:
        """Have a run's processes ended, its worker included; repeating it does no harm."""
        if run_id not in self._trees:
            self._trees[run_id] = LostTree(LostRun(run_id, script_pid, worker or ""))
        return self._trees[run_id]

    def forget(self, run_id: str) -> None:
        self._trees.pop(run_id, None)

    def gather(self, now_monotonic: float) -> None:
        """Take the answer to a round, and begin the next."""
        self._take_answer(now_monotonic)
        for tree in self._trees.values():
            if tree.lost_monotonic is None:
                tree.lost_monotonic = now_monotonic
        due = [tree for tree in self._pending() if now_monotonic >= tree.round_at_monotonic]
        ask = self._job is None and now_monotonic >= self._ask_at_monotonic
        again = ask or now_monotonic >= self._strike_at_monotonic
        self._strike([tree for tree in due if again or not tree.struck])
        if again:
            self._strike_at_monotonic = now_monotonic + STRIKE_SECONDS
        if ask and due:
            self._ask(due[:TREES_OF_A_ROUND_MAX], now_monotonic)

    def next_deadline(self, now_monotonic: float) -> float | None:
        """Return when to take an answer, to begin a round, or to kill again without one."""
        if self._job is not None and self._job.done:
            return now_monotonic
        pending = self._pending()
        if not all(tree.struck for tree in pending):
            return now_monotonic
        rounds = [tree.round_at_monotonic for tree in pending]
        may_begin = self._strike_at_monotonic
        if self._job is None:
            may_begin = min(may_begin, self._ask_at_monotonic)
        return max(min(rounds), may_begin) if rounds else None

    def _pending(self) -> list[LostTree]:
        return [tree for tree in self._trees.values() if not tree.gone]

    def _take_answer(self, now_monotonic: float) -> None:
        if self._job is None or not self._job.done:
            return
        answer, self._job = self._job.answer, None
        if not isinstance(answer, TreesEnded):
            pause_seconds = patience_seconds(
                ROUND_SECONDS, tries_failed=self._refused, longest=ASK_AGAIN_SECONDS_MAX
            )
            self._refused += 1
            self._ask_at_monotonic = now_monotonic + pause_seconds
            return
        self._refused = 0
        for tree in self._asked:
            if tree.looked_monotonic is None:
                tree.looked_monotonic = now_monotonic
            stuck = now_monotonic >= tree.looked_monotonic + STUCK_AFTER_SECONDS
            tree.round_at_monotonic = now_monotonic + (
                KILL_AGAIN_SECONDS if stuck else ROUND_SECONDS
            )
            tree.gone = tree.run.run_id in answer.gone
            tree.run = replace(tree.run, witness=answer.witnesses.get(tree.run.run_id))

    def _ask(self, trees: list[LostTree], now_monotonic: float) -> None:
        assert self._submit is not None
        self._asked = trees
        runs = tuple(
            replace(tree.run, just_lost=_is_just_lost(tree, now_monotonic)) for tree in trees
        )
        self._job = self._submit(EndTrees(runs, os.getpid()))

    def _strike(self, trees: Iterable[LostTree]) -> None:
        """Kill what needs no look at an environment. What cannot be looked at, for want of a
        descriptor perhaps, is left to the helper."""
        leaders = set()
        for tree in trees:
            tree.struck = True
            group = self._groups.group(tree.run.worker) if tree.run.worker else None
            if group is not None:
                with contextlib.suppress(OSError):
                    group.kill()
            elif tree.run.script_pid is not None:
                leaders.add(tree.run.script_pid)
        if leaders:
            with contextlib.suppress(OSError):
                end_sessions(leaders)


def _is_just_lost(tree: LostTree, now_monotonic: float) -> bool:
    """Its worker, one of this daemon's, was lost within `JUST_LOST_SECONDS_MAX`."""
    if not tree.run.worker or tree.lost_monotonic is None:
        return False
    return now_monotonic < tree.lost_monotonic + JUST_LOST_SECONDS_MAX
