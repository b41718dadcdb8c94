"""Clean-up after runs: process trees that no worker ends, kept results, locks, output."""

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from ...ipc.messages.helper import EndTree, RemoveFiles, ToHelper, TreeEnded
from ...ipc.messages.runs import RunResult
from ...ipc.paths import Runtime
from ...workers.host.cgroups import Containment
from ...workers.runfiles import results
from ...workers.runfiles.run_lock import RunLockedError, release_run_lock, take_run_lock
from ..host.helpers import Job
from .run_order import output_path

log = logging.getLogger(__name__)

#: Outputs that wait for their removal while log_dir hangs; the oldest of more are left there.
OUTPUTS_LEFT_MAX = 10_000
OUTPUTS_OF_A_JOB_MAX = 200
REMOVE_AGAIN_SECONDS = 60.0


class RunCleanup:
    """Cleans up what an instance's runs leave behind: processes, cgroups, files in `runtime_dir`
    and `log_dir`. `instance` marks this boot and state directory."""

    def __init__(self, runtime: Runtime, log_dir: Path, instance: str, groups: Containment) -> None:
        self.instance = instance
        self._log_dir = log_dir
        self._runtime = runtime
        self._groups = groups
        self._endings: dict[str, Job] = {}
        self._submit: Callable[[ToHelper], Job] | None = None
        self._left: deque[str] = deque(maxlen=OUTPUTS_LEFT_MAX)
        self._removal: Job | None = None
        self._removed: tuple[str, ...] = ()
        self._again_monotonic = 0.0

    def help_by(self, submit: Callable[[ToHelper], Job]) -> None:
        """Have helpers do what may wait."""
        self._submit = submit

    def end_tree(self, run_id: str, script_pid: int | None, worker: str | None) -> bool:
        """Have a round of SIGKILL done to a run's processes, its worker included. True once a round
        found none; the answer of each is that of the call after it.

        The group is killed at once. A helper looks for what is not in it: to read the environment
        of a process can take as long as that process waits for a disk. What cannot be looked at,
        for want of a descriptor perhaps, may be left.
        """
        group = None if worker is None else self._groups.group(worker)
        if group is not None:
            with contextlib.suppress(OSError):  # the helper does so, too
                group.kill()
        job = self._endings.pop(run_id, None)
        if job is not None and isinstance(job.answer, TreeEnded) and job.answer.gone:
            self._drop_lock(run_id)
            return True
        if job is None or job.done:
            assert self._submit is not None
            job = self._submit(EndTree(run_id, script_pid, worker or "", os.getpid()))
        self._endings[run_id] = job
        return False

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

    def forget_result(self, run_id: str) -> None:
        results.remove(self._runtime, run_id)

    def forget_run(self, run_id: str) -> None:
        """Remove the files that a worker, which is gone, may have left of a settled run."""
        self._endings.pop(run_id, None)
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
