"""Who is who in `runtime_dir`: a file for every child process, a lock for every run.

Child processes write who they are before they are given work, because their titles wipe
what else would tell (law 13, fact P16). The lock of a run is held by its worker, and by
its script's process until that has become the script: while it is held, the run may live.
"""

import enum
import fcntl
import logging
import os

import msgspec

from ...ipc.paths import Runtime
from ..host.files import replace_whole
from ..host.procfs import Identity, identity

log = logging.getLogger(__name__)

IDENTITY_BYTES_MAX = 4096
#: A lock file that is removed while we open it is opened anew, at most so often.
LOCK_TRIES_MAX = 10


class Kind(enum.StrEnum):
    ZYGOTE = "zygote"
    WORKER = "worker"
    SYNCHRONISER = "synchroniser"


class KnownProcess(msgspec.Struct, frozen=True):
    """A child process of a daemon, of this one or of an earlier one."""

    kind: Kind
    name: str
    identity: Identity


class RunLockedError(Exception):
    """Another process holds the lock of this run."""


_decode = msgspec.json.Decoder(KnownProcess).decode


def make_directories(runtime: Runtime) -> None:
    """Raises `OSError`."""
    for directory in (runtime.processes, runtime.runs, runtime.results):
        directory.mkdir(mode=0o700, exist_ok=True)


def write_identity(runtime: Runtime, kind: Kind, name: str) -> None:
    """Tell who this process is. Raises `OSError`."""
    own = identity(os.getpid())
    assert own is not None
    content = msgspec.json.encode(KnownProcess(kind, name, own))
    replace_whole(runtime.processes / str(own.pid), content, durable=False)


def declare(runtime: Runtime, kind: Kind, name: str) -> bool:
    """Tell who this process is, if that can be written; whether it was.

    Else it goes on: its lifeline ends it all the same, a sweep only has to wait for that;
    and a worker's run is refused with a reason when its lock cannot be made either.
    """
    try:
        write_identity(runtime, kind, name)
    except OSError as error:
        log.error(
            "Cannot write down who %s is: %s",
            name,
            error,
            extra={"event": "identity-not-written"},
        )
        return False
    return True


def read_identities(runtime: Runtime) -> list[KnownProcess]:
    """Every process that told who it is and did not take it back, dead ones included."""
    known: list[KnownProcess] = []
    try:
        names = os.listdir(runtime.processes)
    except FileNotFoundError:
        return known
    for name in names:
        try:
            with (runtime.processes / name).open("rb") as file:
                known.append(_decode(file.read(IDENTITY_BYTES_MAX)))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            log.warning(
                "Cannot read who process %s is: %s", name, error, extra={"event": "bad-identity"}
            )
    return known


def forget_identity(runtime: Runtime, pid: int) -> None:
    try:
        (runtime.processes / str(pid)).unlink(missing_ok=True)
    except OSError as error:
        log.warning(
            "Cannot remove the identity of process %d: %s",
            pid,
            error,
            extra={"event": "identity-not-removed"},
        )


def take_run_lock(runtime: Runtime, run_id: str) -> int:
    """The descriptor of the lock of a run, held. Raises `RunLockedError`, `OSError`."""
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
    """Remove the lock file, then let go of it."""
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
    """The runs that some process holds the lock of; locks nobody holds are removed."""
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
