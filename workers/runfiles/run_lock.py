"""Run locks: a `flock` on a file for each run, held as long as the run may live (law 13, fact T6).

The worker holds it, and so does the script's process until its exec (fact P10).
"""

import fcntl
import logging
import os

from ...ipc.paths import Runtime

log = logging.getLogger(__name__)

#: A lock file that is removed while it is being opened is opened anew, at most this often.
LOCK_TRIES_MAX = 10


class RunLockedError(Exception):
    """Another process holds the lock of this run."""


def take_run_lock(runtime: Runtime, run_id: str) -> int:
    """Take the lock of a run. Returns its descriptor. Raises `RunLockedError`, `OSError`."""
    path = runtime.runs / run_id
    for _ in range(LOCK_TRIES_MAX):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunLockedError(f"cannot lock run {run_id}: another process has it") from None
        except OSError:
            os.close(descriptor)
            raise
        # Its last holder may have removed the file between our open and our lock.
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)
    raise RunLockedError(f"cannot lock run {run_id}: its lock is taken and left all the time")


def release_run_lock(runtime: Runtime, run_id: str, descriptor: int) -> None:
    """Remove the lock file, then release the lock."""
    try:
        (runtime.runs / run_id).unlink(missing_ok=True)
    except OSError as error:
        log.warning(
            "Cannot remove the lock of run %s: %s",
            run_id,
            error,
            extra={"event": "lock-not-removed", "runId": run_id},
        )
    finally:
        os.close(descriptor)


def locked_runs(runtime: Runtime) -> set[str]:
    """Return the runs whose lock a process holds. Lock files that nobody holds are removed."""
    held: set[str] = set()
    try:
        names = os.listdir(runtime.runs)
    except FileNotFoundError:
        return held
    for run_id in names:
        try:
            release_run_lock(runtime, run_id, take_run_lock(runtime, run_id))
        except RunLockedError:
            held.add(run_id)
        except OSError as error:
            log.warning(
                "Ignored %s: it is no lock of a run: %s",
                runtime.runs / run_id,
                error,
                extra={"event": "bad-lock"},
            )
    return held
