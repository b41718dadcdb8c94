"""Sweep of the processes that an earlier daemon left, before anything is decided (S1, law 15).

Scripts and all below them are killed at once, workers get a moment to keep their results, and
all is scanned until it is clean twice in a row. No status is decided here.
"""

import logging
import os
import signal
import time
from pathlib import Path

from msgspec.structs import replace

from ...ipc.digests import blake2b
from ...ipc.messages.runs import EndCause, RunResult, StopReason
from ...ipc.paths import Runtime
from ...workers.host import process_tree, procfs
from ...workers.host.cgroups import Containment
from ...workers.runfiles import results
from ...workers.runfiles.processes import (
    KnownProcess,
    forget_identity,
    forget_sockets,
    read_identities,
)
from ...workers.runfiles.run_lock import locked_runs
from ..runs.cleanup import RunCleanup

log = logging.getLogger(__name__)

SWEEP_SECONDS_MAX = 10.0
#: Rounds that are made however long they take: on a slow host one may take seconds.
ROUNDS_MIN = 10
#: For this long, workers of a dead daemon may keep their results and leave (law 15).
WORKERS_SPARED_SECONDS = 1.0
ROUND_SECONDS = 0.05
CLEAN_ROUNDS = 2


def instance_of(state_dir: Path) -> str:
    """Return the mark of this boot and state directory, which every script carries."""
    place = blake2b(os.fsencode(state_dir.resolve()), digest_size=6).hexdigest()
    return f"{procfs.boot_id()}-{place}"


class Leftovers:
    """Processes and runs of this instance, known by `/proc` and by the runtime directory.

    `alive` are the runs that could not be ended; `cleanup` is for one run at a time.
    """

    def __init__(self, runtime: Runtime, state_dir: Path, log_dir: Path) -> None:
        self.instance = instance_of(state_dir)
        self.alive: frozenset[str] = frozenset()
        self._runtime = runtime
        self._groups = Containment.detect(self.instance)
        self._held = self._groups.hold()
        self.cleanup = RunCleanup(runtime, log_dir, self.instance, self._groups)
        self._ended_by_us: set[str] = set()
        self._before: set[str] = set()
        self._begun_monotonic: float | None = None
        self._scanned_monotonic = 0.0
        self._clean = 0
        self._rounds = 0

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
        longer; runs left after that are `alive`."""
        if self._begun_monotonic is None:
            self.begin_sweep()
        assert self._begun_monotonic is not None
        give_up_monotonic = self._begun_monotonic + SWEEP_SECONDS_MAX
        while self._clean < CLEAN_ROUNDS and (
            self._rounds < ROUNDS_MIN or time.monotonic() < give_up_monotonic
        ):
            time.sleep(max(0.0, self._scanned_monotonic + ROUND_SECONDS - time.monotonic()))
            self._scan(waited_seconds=time.monotonic() - self._begun_monotonic)
        self._groups.remove_abandoned()
        # A script that we killed did not end of itself, whatever its worker recorded.
        self._ended_by_us -= self._before
        if self._clean < CLEAN_ROUNDS:
            self.alive = frozenset(locked_runs(self._runtime) | self._marked_runs())
        else:
            forget_sockets(self._runtime)
        for run_id in self.alive:
            log.error(
                "Cannot end run %s that an earlier daemon left", run_id, extra={"event": "stuck"}
            )

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
        self._groups.remove()
        if self._held is not None:
            os.close(self._held)

    def _round(self, *, patient: bool) -> bool:
        """Kill what may not live; True where nothing was found and no run is locked.

        A `patient` round spares workers, which may still keep their results.
        """
        # By their locks too: a script that wiped its environment is known by its group only.
        self._ended_by_us |= self._marked_runs() | locked_runs(self._runtime)
        children = self._children()
        spared = frozenset(known.identity.pid for known in children) if patient else frozenset()
        scripts = process_tree.end_instance(self.instance, self._groups, spared)
        if not patient:
            for known in children:
                process_tree.signal_process(known.identity, signal.SIGKILL)
        return not scripts and not children and not locked_runs(self._runtime)

    def _marked_runs(self) -> set[str]:
        table = procfs.process_table()
        living = [pid for pid, found in table.items() if not found.ended]
        marks = (procfs.marks(pid) for pid in living)
        return {found.run_id for found in marks if found and found.instance == self.instance}

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
