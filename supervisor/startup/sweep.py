"""What an earlier daemon left behind, made gone before anything is decided (S1, law 15).

Scripts and all below them are killed at once; workers get a moment to keep their results;
then everything is looked at again until nothing is found twice in a row. No status is
decided here.
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
from ...workers.runfiles.processes import KnownProcess, forget_identity, read_identities
from ...workers.runfiles.run_lock import locked_runs
from ..runs.cleanup import RunCleanup

log = logging.getLogger(__name__)

SWEEP_SECONDS_MAX = 10.0
#: For this long, workers of a dead daemon may keep their results and leave (law 15).
WORKERS_SPARED_SECONDS = 1.0
ROUND_SECONDS = 0.05
CLEAN_ROUNDS = 2


def instance_of(state_dir: Path) -> str:
    """The mark of this boot and this state directory, carried by every script."""
    place = blake2b(os.fsencode(state_dir.resolve()), digest_size=6).hexdigest()
    return f"{procfs.boot_id()}-{place}"


class Leftovers:
    """Knows every process and run of this instance by what they left in `/proc` and in
    the runtime directory; `alive` are the runs that could not be ended, `cleanup` is for
    one run at a time."""

    def __init__(self, runtime: Runtime, state_dir: Path) -> None:
        self.instance = instance_of(state_dir)
        self.alive: frozenset[str] = frozenset()
        self._runtime = runtime
        self._groups = Containment.detect(self.instance)
        self.cleanup = RunCleanup(runtime, self.instance, self._groups)
        self._ended_by_us: set[str] = set()
        self._before: set[str] = set()
        self._begun: float | None = None
        self._looked = 0.0
        self._clean = 0

    @property
    def containment(self) -> str:
        return self._groups.kind

    def begin_sweep(self) -> None:
        """The first round. What is done from here until `sweep`, is done in its first pause."""
        self._begun = time.monotonic()
        self._before = {result.run_id for result in results.load_all(self._runtime)}
        self._look(waited=0.0)

    def sweep(self) -> None:
        """End everything; at most 10 s, and what is left after that is `alive`."""
        if self._begun is None:
            self.begin_sweep()
        assert self._begun is not None
        while self._clean < CLEAN_ROUNDS and time.monotonic() - self._begun < SWEEP_SECONDS_MAX:
            time.sleep(max(0.0, self._looked + ROUND_SECONDS - time.monotonic()))
            self._look(waited=time.monotonic() - self._begun)
        # A script that we killed did not end of itself, whatever its worker thought.
        self._ended_by_us -= self._before
        if self._clean < CLEAN_ROUNDS:
            self.alive = frozenset(locked_runs(self._runtime) | self._marked_runs())
        for run_id in self.alive:
            log.error(
                "Cannot end run %s that an earlier daemon left", run_id, extra={"event": "stuck"}
            )

    def _look(self, *, waited: float) -> None:
        clean = self._round(patient=waited < WORKERS_SPARED_SECONDS)
        self._clean = self._clean + 1 if clean else 0
        self._looked = time.monotonic()

    def kept_results(self) -> dict[str, RunResult]:
        """Results that workers left; of scripts the sweep killed, as stopped and not ended."""
        found = results.load_all(self._runtime)
        return {result.run_id: self._as_it_was(result) for result in found}

    def _as_it_was(self, result: RunResult) -> RunResult:
        killed = result.signal == signal.SIGKILL and result.cause is EndCause.EXITED
        if killed and result.run_id in self._ended_by_us:
            return replace(result, cause=EndCause.STOPPED, stop_reason=StopReason.ORPHANED)
        return result

    def close(self) -> None:
        """The control groups go with the daemon that made them."""
        self._groups.remove()

    def _round(self, *, patient: bool) -> bool:
        """Kill what may not live; whether nothing was found and no run is locked."""
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
        """Workers, synchroniser and zygote of earlier daemons; files of the dead go."""
        living = []
        for known in read_identities(self._runtime):
            if procfs.lives(known.identity):
                living.append(known)
            else:
                forget_identity(self._runtime, known.identity.pid)
        return living
