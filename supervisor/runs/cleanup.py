"""Clean-up after runs: process trees that no worker ends, kept results, locks, output."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from ...ipc.messages.helper import EndTrees, RemoveFiles, ToHelper
from ...ipc.messages.runs import RunResult
from ...ipc.paths import Runtime
from ...workers.host.cgroups import Containment
from ...workers.runfiles import results
from ...workers.runfiles.run_lock import RunLockedError, release_run_lock, take_run_lock
from ..core.model import Instant
from ..host.helpers import Job
from .lost_trees import LostTree, LostTrees
from .run_order import output_path

log = logging.getLogger(__name__)

#: Outputs that wait for their removal while log_dir hangs; the oldest of more are left there.
OUTPUTS_LEFT_MAX = 10_000
OUTPUTS_OF_A_JOB_MAX = 200
REMOVE_AGAIN_SECONDS = 60.0


class Keep(Protocol):
    """Keeps a helper ready for jobs of a kind, or no longer."""

    def __call__(self, kind: type[ToHelper], *, ready: bool) -> None: ...


class RunCleanup:
    """Cleans up what an instance's runs leave behind: processes, cgroups, files in `runtime_dir`
    and `log_dir`. `instance` is the mark of this boot and state directory in its scripts."""

    def __init__(self, runtime: Runtime, log_dir: Path, instance: str, groups: Containment) -> None:
        self.instance = instance
        self._log_dir = log_dir
        self._runtime = runtime
        self._trees = LostTrees(groups)
        self._submit: Callable[[ToHelper], Job] | None = None
        self._keep: Keep | None = None
        self._left: deque[str] = deque(maxlen=OUTPUTS_LEFT_MAX)
        self._removal: Job | None = None
        self._removed: tuple[str, ...] = ()
        self._again_monotonic = 0.0

    def help_by(self, submit: Callable[[ToHelper], Job], keep: Keep) -> None:
        """Have helpers do what may wait, of which one is kept ready to end trees."""
        self._submit, self._keep = submit, keep
        self._trees.help_by(submit)

    def end_tree(self, run_id: str, script_pid: int | None, worker: str | None) -> LostTree:
        """Have a run's processes ended, its worker included; it is `gone` once nothing is left."""
        return self._trees.end(run_id, script_pid, worker)

    def forget_tree(self, run_id: str) -> None:
        self._trees.forget(run_id)

    def tree_is_gone(self, run_id: str) -> None:
        """Forget a tree that is gone, and remove the lock that its worker left."""
        self._trees.forget(run_id)
        self._drop_lock(run_id)

    def gather(self, now: Instant, *, runs: bool) -> None:
        """Go on ending trees: every turn, after what was lost in it. `runs`: there are some, and
        when one is lost nothing may be forked any more."""
        if self._keep is not None:
            self._keep(EndTrees, ready=runs)
        self._trees.gather(now.monotonic_seconds)

    def next_deadline(self, now: Instant) -> float | None:
        return self._trees.next_deadline(now.monotonic_seconds)

    def kept_result(self, run_id: str) -> RunResult | None:
        """Return the result that its worker kept; None where there is none, or none to be read."""
        try:
            return results.load(self._runtime, run_id)
        except OSError as error:
            log.error(
                "Cannot read the result of run %s: %s",
                run_id,
                error,
                extra={"event": "result-unreadable", "runId": run_id},
            )
            return None

    def keeps_result(self, run_id: str) -> bool:
        """A worker has kept the result of the run: the next start would find it."""
        return results.is_kept(self._runtime, run_id)

    def forget_result(self, run_id: str) -> None:
        results.remove(self._runtime, run_id)

    def forget_run(self, run_id: str) -> None:
        """Remove the files that a worker, which is gone, may have left of a settled run."""
        self._trees.forget(run_id)
        self.forget_result(run_id)
        self._drop_lock(run_id)

    def remove_output(self, run_ids: Iterable[str]) -> None:
        """Have the output of runs removed that are no longer in the history. Call it every turn:
        one job is at work at a time, and what a hung disk kept is tried again."""
        self._left.extend(str(output_path(self._log_dir, run_id)) for run_id in run_ids)
        job = self._removal
        if job is not None and job.done:
            self._removal = None
            if job.answer is None:
                self._left.extend(self._removed)
                self._again_monotonic = job.deadline_monotonic + REMOVE_AGAIN_SECONDS
        busy = self._removal is not None or time.monotonic() < self._again_monotonic
        if self._left and not busy and self._submit is not None:
            count = min(len(self._left), OUTPUTS_OF_A_JOB_MAX)
            self._removed = tuple(self._left.popleft() for _ in range(count))
            self._removal = self._submit(RemoveFiles(self._removed))

    def _drop_lock(self, run_id: str) -> None:
        """Remove the lock of a run whose worker died without doing so."""
        try:
            release_run_lock(self._runtime, run_id, take_run_lock(self._runtime, run_id))
        except (OSError, RunLockedError) as error:
            log.warning("Cannot remove the lock of run %s: %s", run_id, error)
