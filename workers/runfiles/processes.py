"""Identity files in `runtime_dir`: one for each child process of the daemon (law 13).

A child writes its own before it is given work, because setting its title wipes the marks in
its environment (fact P16).
"""

import enum
import logging
import os

import msgspec

from ...ipc.decoding import DECODE_ERRORS
from ...ipc.paths import Runtime
from ..host.files import TEMPORARY, open_regular, replace_whole
from ..host.procfs import Identity, identity

log = logging.getLogger(__name__)

IDENTITY_BYTES_MAX = 4096


class Kind(enum.StrEnum):
    """The kinds of child processes."""

    ZYGOTE = "zygote"
    WORKER = "worker"
    SYNCHRONISER = "synchroniser"


class KnownProcess(msgspec.Struct, frozen=True):
    """An identity file: a child of this daemon or of an earlier one."""

    kind: Kind
    name: str
    identity: Identity


_decode = msgspec.json.Decoder(KnownProcess).decode


def make_directories(runtime: Runtime) -> None:
    """Make the directories of identities, run locks, results and scripts' sockets. Raises
    `OSError`."""
    for directory in (runtime.processes, runtime.runs, runtime.results):
        directory.mkdir(mode=0o700, exist_ok=True)
    umask = os.umask(0)  # else scripts of other users might not pass through this one
    try:
        runtime.notify.mkdir(mode=0o711, exist_ok=True)
    finally:
        os.umask(umask)


def write_identity(runtime: Runtime, kind: Kind, name: str) -> None:
    """Write the identity file of this process. Raises `OSError`."""
    own = identity(os.getpid())
    assert own is not None
    content = msgspec.json.encode(KnownProcess(kind, name, own))
    replace_whole(f"{runtime.processes}/{own.pid}", content, durable=False)


def declare(runtime: Runtime, kind: Kind, name: str) -> bool:
    """Write the identity file of this process. False, and logged, where that fails.

    A process without one goes on: its lifeline ends it all the same, and a sweep only has to
    wait for that. A worker refuses its run, with a reason, where its lock cannot be made either.
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
    """Return all identity files that can be read, those of dead processes included.

    Halves of files, of processes that were killed while they wrote them, are removed: no process
    of a living daemon writes any while this is called.
    """
    known: list[KnownProcess] = []
    try:
        names = os.listdir(runtime.processes)
    except FileNotFoundError:
        return known
    for name in names:
        if name.endswith(TEMPORARY):
            forget_identity(runtime, name)
            continue
        try:
            with open_regular(runtime.processes / name, follow_links=False) as file:
                known.append(_decode(file.read(IDENTITY_BYTES_MAX)))
        except FileNotFoundError:
            continue
        except (OSError, *DECODE_ERRORS) as error:
            log.warning(
                "Cannot read who process %s is: %s", name, error, extra={"event": "bad-identity"}
            )
    return known


def forget_identity(runtime: Runtime, pid: int | str) -> None:
    """Remove the files of a process that has ended, if there are any: its identity, and a worker's
    socket for its script. A failure is logged."""
    for directory in (runtime.processes, runtime.notify):
        try:
            os.unlink(f"{directory}/{pid}")
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning(
                "Cannot remove %s of process %s: %s",
                directory.name,
                pid,
                error,
                extra={"event": "identity-not-removed"},
            )


def forget_sockets(runtime: Runtime) -> None:
    """Remove the sockets of all workers, once none lives: also of those whose identity was lost. A
    failure is logged."""
    try:
        names = os.listdir(runtime.notify)
    except OSError as error:
        log.warning("Cannot look for old sockets of scripts: %s", error)
        return
    for name in names:
        forget_identity(runtime, name)
