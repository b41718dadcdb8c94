"""Clean-up after a run whose worker is of no use: its process tree, kept result and lock."""

import logging

from ...ipc.messages.runs import RunResult
from ...ipc.paths import Runtime
from ...workers.host import process_tree
from ...workers.host.cgroups import Containment
from ...workers.runfiles import results
from ...workers.runfiles.run_lock import RunLockedError, release_run_lock, take_run_lock

log = logging.getLogger(__name__)


class RunCleanup:
    """All that an instance's runs can leave behind, in `/proc`, cgroups and `runtime_dir`.
    `instance` marks this boot and state directory."""

    def __init__(self, runtime: Runtime, instance: str, groups: Containment) -> None:
        self.instance = instance
        self._runtime = runtime
        self._groups = groups

    def end_tree(self, run_id: str, script_pid: int | None, worker: str | None) -> bool:
        """Kill one round of a run's processes, its worker's among them; true once none is
        left."""
        group = None if worker is None else self._groups.group(worker)
        gone = process_tree.end_tree(self.instance, run_id, script_pid, group)
        if gone:
            self._drop_lock(run_id)
        return gone

    def kept_result(self, run_id: str) -> RunResult | None:
        return results.load(self._runtime, run_id)

    def forget_result(self, run_id: str) -> None:
        results.remove(self._runtime, run_id)

    def forget_run(self, run_id: str) -> None:
        """Remove all that a worker, which is gone, may have left of a run that is settled."""
        self.forget_result(run_id)
        self._drop_lock(run_id)

    def _drop_lock(self, run_id: str) -> None:
        """Its worker died without removing it."""
        try:
            release_run_lock(self._runtime, run_id, take_run_lock(self._runtime, run_id))
        except (OSError, RunLockedError) as error:
            log.warning("Cannot remove the lock of run %s: %s", run_id, error)
