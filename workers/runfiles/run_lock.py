"""Run locks: a `flock` on a file for each run, held as long as the run may live (law 13, fact T6).

The worker holds it, and so does the script's process until its exec (fact P10). In the file its
worker notes the script's process and user, for those who look for what is left of the run once
the worker is lost.
"""

import fcntl
import logging
import os
from collections.abc import Container

import msgspec

from ...ipc.decoding import DECODE_ERRORS
from ...ipc.messages.base import Count
from ...ipc.paths import Runtime
from ..host.files import open_regular, raise_shortage
from ..host.procfs import Identity, boot_id

log = logging.getLogger(__name__)

#: A lock file that is removed while it is being opened is opened anew, at most this often.
LOCK_TRIES_MAX = 10
#: Of a note in a lock file.
NOTE_BYTES_MAX = 4096


class NotedScript(msgspec.Struct, frozen=True):
    """The process of a script, and the user as whom it began."""

    process: Identity
    user: Count


_decode = msgspec.json.Decoder(NotedScript).decode


class RunLockedError(Exception):
    """Another process holds the lock of this run."""


def take_run_lock(runtime: Runtime, run_id: str) -> int:
    """Take the lock of a run. Returns its descriptor. Raises `RunLockedError`, `OSError`."""
    path = f"{runtime.runs}/{run_id}"
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
        os.unlink(f"{runtime.runs}/{run_id}")
    except FileNotFoundError:
        log.debug("Somebody has removed the lock of run %s", run_id)
    except OSError as error:
        log.warning(
            "Cannot remove the lock of run %s: %s",
            run_id,
            error,
            extra={"event": "lock-not-removed", "runId": run_id},
        )
    finally:
        os.close(descriptor)


def note_script(lock: int, script: NotedScript) -> None:
    """Note the process that is about to become the script, in the file of the run's lock. A
    failure is logged: then what is left of the run is found by its marks alone."""
    content = msgspec.json.encode(script)
    try:
        os.pwrite(lock, content, 0)
        os.ftruncate(lock, len(content))
    except OSError as error:
        log.warning(
            "Cannot note the process of a script: %s", error, extra={"event": "script-not-noted"}
        )


def noted_script(runtime: Runtime, run_id: str) -> NotedScript | None:
    """Return the note of a run; None where there is none of this boot. Raises `OSError` where
    there is no descriptor to look with."""
    try:
        with open_regular(runtime.runs / run_id, follow_links=False) as file:
            found = _decode(file.read(NOTE_BYTES_MAX))
    except OSError as error:
        raise_shortage(error)
        return None
    except DECODE_ERRORS:
        return None  # its worker died before it noted anything, or an earlier build made it
    return found if found.process.boot_id == boot_id() else None


def noted_scripts(runtime: Runtime) -> dict[str, NotedScript]:
    """Return the notes of all runs that have a lock file, locked or not. Raises `OSError` as
    `noted_script` does."""
    noted = {run_id: noted_script(runtime, run_id) for run_id in _files(runtime)}
    return {run_id: found for run_id, found in noted.items() if found is not None}


def locked_runs(runtime: Runtime) -> set[str]:
    """Return the runs whose lock a process holds."""
    held: set[str] = set()
    for run_id in _files(runtime):
        if (lock := _taken(runtime, run_id, held)) is not None:
            os.close(lock)
    return held


def remove_free_locks(runtime: Runtime, *, kept: Container[str] = ()) -> None:
    """Remove the lock files that nobody holds, with what is noted in them, but those of `kept`."""
    for run_id in _files(runtime):
        if run_id not in kept and (lock := _taken(runtime, run_id, set())) is not None:
            release_run_lock(runtime, run_id, lock)


def _files(runtime: Runtime) -> list[str]:
    try:
        return os.listdir(runtime.runs)
    except FileNotFoundError:
        return []


def _taken(runtime: Runtime, run_id: str, held: set[str]) -> int | None:
    """Take a lock. None where it is held, and so in `held` from now on, or is no lock."""
    try:
        return take_run_lock(runtime, run_id)
    except RunLockedError:
        held.add(run_id)
    except OSError as error:
        log.warning(
            "Ignored %s: it is no lock of a run: %s",
            runtime.runs / run_id,
            error,
            extra={"event": "bad-lock"},
        )
    return None
