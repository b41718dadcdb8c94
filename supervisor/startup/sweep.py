"""Sweep of the processes that an earlier daemon left, before anything is decided (S1, law 15).

Scripts and all below them are killed at once, workers get a moment to keep their results, and
all is scanned until it is clean twice in a row. No status is decided here.
"""

import logging
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

from msgspec.structs import replace

from ...ipc.messages.runs import EndCause, RunResult, StopReason
from ...ipc.paths import Runtime
from ...workers.host import procfs
from ...workers.host.cgroups import Containment
from ...workers.host.marks import MarkReader, own_users
from ...workers.host.process_tree import ProcessLook, end_instance
from ...workers.host.signalling import signal_process
from ...workers.runfiles import results
from ...workers.runfiles.processes import (
    KnownProcess,
    forget_identity,
    forget_sockets,
    read_identities,
)
from ...workers.runfiles.run_lock import locked_runs, noted_scripts, remove_free_locks
from ..runs.cleanup import RunCleanup
from .mark import Mark

log = logging.getLogger(__name__)

SWEEP_SECONDS_MAX = 10.0
#: Rounds that are made however long they take: on a slow host one may take seconds.
ROUNDS_MIN = 10
#: For this long, workers of a dead daemon may keep their results and leave (law 15).
WORKERS_SPARED_SECONDS = 1.0
ROUND_SECONDS = 0.05
CLEAN_ROUNDS = 2
#: Where only processes of users other than the daemon's are left, for so long, and in so many
#: rounds: who starts new ones without end, or keeps one from ending, holds no start up.
OTHERS_SECONDS_MAX = 0.5
OTHERS_ROUNDS_MIN = 2


class Leftovers:
    """Processes and runs of this instance, known by `/proc` and by the runtime directory.

    `alive` are the runs that could not be ended; `cleanup` is for one run at a time. Marks count
    in processes of this daemon's user, of `users`, and of those as whom scripts were noted.
    """

    def __init__(
        self, runtime: Runtime, mark: Mark, log_dir: Path, users: frozenset[int] = frozenset()
    ) -> None:
        self.mark = mark
        self.alive: frozenset[str] = frozenset()
        self._runtime = runtime
        self._groups = Containment.detect(mark.instance)
        self._held = self._groups.hold()
        self.cleanup = RunCleanup(runtime, log_dir, mark.text, self._groups)
        self._noted = noted_scripts(runtime)
        noted_users = {found.user for found in self._noted.values()}
        self._reader = MarkReader((mark.text, *mark.earlier), users | noted_users)
        self._ended_by_us: set[str] = set()
        self._before: set[str] = set()
        self._begun_monotonic: float | None = None
        self._scanned_monotonic = 0.0
        self._clean = 0
        self._rounds = 0
        self._others = _Others()

    @property
    def containment(self) -> str:
        """The kind of containment of process trees on this host, for `status`."""
        return self._groups.kind

    def begin_sweep(self) -> None:
        """Do the first round; the pause after it, until `sweep`, is for other work."""
        self._begun_monotonic = time.monotonic()
        self._before = {result.run_id for result in results.load_all(self._runtime)}
        self._scan(waited_seconds=0.0)

    def sweep(self) -> None:
        """End everything within `SWEEP_SECONDS_MAX`, or in `ROUNDS_MIN` rounds where these take
        longer, and what is of other users within `OTHERS_SECONDS_MAX`; runs left after that are
        `alive`."""
        with self._reader:
            self._sweep()
            if self._clean < CLEAN_ROUNDS:
                self.alive = frozenset(self._runs_alive())
            if self._clean >= CLEAN_ROUNDS or self._others.over:
                forget_sockets(self._runtime)
        remove_free_locks(self._runtime, kept=self.alive)
        self._groups.remove_abandoned()
        for run_id in self.alive:
            log.error(
                "Cannot end run %s that an earlier daemon left", run_id, extra={"event": "stuck"}
            )

    def _sweep(self) -> None:
        if self._begun_monotonic is None:
            self.begin_sweep()
        assert self._begun_monotonic is not None
        give_up_monotonic = self._begun_monotonic + SWEEP_SECONDS_MAX
        while (
            self._clean < CLEAN_ROUNDS
            and not self._others.over
            and (self._rounds < ROUNDS_MIN or time.monotonic() < give_up_monotonic)
        ):
            time.sleep(max(0.0, self._scanned_monotonic + ROUND_SECONDS - time.monotonic()))
            self._scan(waited_seconds=time.monotonic() - self._begun_monotonic)
        # A script that we killed did not end of itself, whatever its worker recorded.
        self._ended_by_us -= self._before

    def _runs_alive(self) -> set[str]:
        marked = self._runs_marked(ProcessLook.take(self._reader))
        noted = {run_id for run_id, script in self._noted.items() if procfs.lives(script.process)}
        return locked_runs(self._runtime) | marked | noted | self._others.runs

    def _runs_marked(self, look: ProcessLook) -> set[str]:
        """Return the runs that marks name in processes of their own users: of the one as whom the
        script was noted, and of this daemon's. Any other script could write the mark, too."""
        return {run_id for run_id in look.marked if look.marked_by(run_id, self._users_of(run_id))}

    def _users_of(self, run_id: str) -> frozenset[int]:
        noted = self._noted.get(run_id)
        return own_users() if noted is None else own_users() | {noted.user}

    def _scan(self, *, waited_seconds: float) -> None:
        clean = self._round(patient=waited_seconds < WORKERS_SPARED_SECONDS)
        self._clean = self._clean + 1 if clean else 0
        self._rounds += 1
        self._scanned_monotonic = time.monotonic()

    def kept_results(self) -> dict[str, RunResult]:
        """Return the results that workers left, by run.

        A script that the sweep killed is one that was stopped, not one that ended of itself.
        """
        found = results.load_all(self._runtime)
        return {result.run_id: self._corrected(result) for result in found}

    def _corrected(self, result: RunResult) -> RunResult:
        killed = result.signal == signal.SIGKILL and result.cause is EndCause.EXITED
        if killed and result.run_id in self._ended_by_us:
            return replace(result, cause=EndCause.STOPPED, stop_reason=StopReason.ORPHANED)
        return result

    def forget_gone(self) -> None:
        """Remove the identity files of children that were killed: a stopped daemon leaves none."""
        self._children()

    def close(self) -> None:
        """Remove the control groups that this daemon made."""
        self._reader.close()
        self._groups.remove()
        if self._held is not None:
            os.close(self._held)

    def _round(self, *, patient: bool) -> bool:
        """Kill what may not live; True where nothing was found and no run is locked.

        A `patient` round spares workers, which may still keep their results.
        """
        look = ProcessLook.take(self._reader)
        # By their locks too: a script that wiped its environment is known by its group only.
        runs = self._runs_marked(look)
        self._ended_by_us |= runs | locked_runs(self._runtime)
        children = self._children()
        spared = frozenset(known.identity.pid for known in children) if patient else frozenset()
        noted = [script.process for script in self._noted.values()]
        scripts = end_instance(look, self._groups, spared=spared, scripts=noted)
        if not patient:
            for known in children:
                signal_process(known.identity, signal.SIGKILL)
        left = children or locked_runs(self._runtime)
        ours = left or not all(_is_of_others(pid, look) for pid in scripts)
        self._others.note(ours=bool(ours), others=bool(scripts), runs=runs)
        return not scripts and not left

    def _children(self) -> list[KnownProcess]:
        """Return the living zygotes, workers and synchronisers of earlier daemons.

        Removes the identity files of dead ones.
        """
        living = []
        for known in read_identities(self._runtime):
            if procfs.lives(known.identity):
                living.append(known)
            else:
                forget_identity(self._runtime, known.identity.pid)
        return living


class _Others:
    """Rounds since the last in which anything was left but processes of users other than the
    daemon's. One in which nothing is seen says nothing about who starts new ones without end.
    `runs` are those that were seen in them."""

    def __init__(self) -> None:
        self.runs: set[str] = set()
        self._rounds = 0
        self._since_monotonic = 0.0

    def note(self, *, ours: bool, others: bool, runs: Collection[str]) -> None:
        if ours:
            self._rounds = 0
            self.runs.clear()
        elif others:
            self.runs.update(runs)
            self._since_monotonic = self._since_monotonic if self._rounds else time.monotonic()
            self._rounds += 1

    @property
    def over(self) -> bool:
        seconds = time.monotonic() - self._since_monotonic
        return self._rounds > OTHERS_ROUNDS_MIN and seconds >= OTHERS_SECONDS_MAX


def _is_of_others(pid: int, look: ProcessLook) -> bool:
    """The process is known to be another user's than the daemon's."""
    user = look.user_of(pid)
    if user is None:
        user = procfs.real_user(pid)
    return user is not None and user not in own_users()
