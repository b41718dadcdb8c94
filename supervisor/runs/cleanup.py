"""Clean-up after runs: process trees that no worker ends, kept results, locks, output."""

import logging
from collections.abc import Iterable
from pathlib import Path

from ...ipc.messages.runs import RunResult
from ...ipc.paths import Runtime
from ...workers.host import process_tree
from ...workers.host.cgroups import Containment
from ...workers.runfiles import results
from ...workers.runfiles.run_lock import RunLockedError, release_run_lock, take_run_lock
from .run_order import output_path

log = logging.getLogger(__name__)


class RunCleanup:
    """Cleans up what an instance's runs leave behind: processes, cgroups, files in `runtime_dir`
    and `log_dir`. `instance` marks this boot and state directory."""

    def __init__(self, runtime: Runtime, log_dir: Path, instance: str, groups: Containment) -> None:
        self.instance = instance
        self._log_dir = log_dir
        self._runtime = runtime
        self._groups = groups

    def end_tree(self, run_id: str, script_pid: int | None, worker: str | None) -> bool:
        """Do one round of SIGKILL to a run's processes, its worker included. True once none is
        left; what cannot be looked at may be left."""
        group = None if worker is None else self._groups.group(worker)
        try:
            gone = process_tree.end_tree(self.instance, run_id, script_pid, group)
        except OSError as error:
            log.warning(
                "Cannot look for processes of run %s: %s",
                run_id,
                error,
                extra={"event": "cannot-look", "runId": run_id},
            )
            return False
        if gone:
            self._drop_lock(run_id)
        return gone

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
        self.forget_result(run_id)
        self._drop_lock(run_id)

    def remove_output(self, run_ids: Iterable[str]) -> None:
        """Remove the output of runs that are no longer in the history."""
        for run_id in run_ids:
            path = output_path(self._log_dir, run_id)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("Cannot remove %s: %s", path, error, extra={"event": "output-left"})

    def _drop_lock(self, run_id: str) -> None:
        """Remove the lock of a run whose worker died without doing so."""
        try:
            release_run_lock(self._runtime, run_id, take_run_lock(self._runtime, run_id))
        except (OSError, RunLockedError) as error:
            log.warning("Cannot remove the lock of run %s: %s", run_id, error)
