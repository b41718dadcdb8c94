"""Probe of a directory: whether what the daemon keeps can be made, locked and mapped there.

Modes do not tell: root may write a directory of /proc, of /sys or of a read-only mount, and no
file can be made in it. The probe leaves nothing behind.
"""

import errno
import fcntl
import mmap
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...ipc.paths import Runtime
from ..config.sections import DaemonSettings
from ..store.files import FREE_BYTES_MIN, REFUSED_FILE_SYSTEMS, StorePaths, file_system, free_bytes

#: The file system knows no files without a name (open(2), O_TMPFILE), or no files at all.
_NAMELESS_UNKNOWN = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PAGE_BYTES = mmap.PAGESIZE


def why_not(directory: Path, key: str) -> str:
    """Say why an existing directory cannot serve as `key` of `[daemon]`; "" where it can, and
    where it is only full: a daemon waits for room."""
    try:
        descriptor = _made(directory)
    except OSError as error:
        return "" if error.errno in _FULL else f"files cannot be made in {directory}: {_why(error)}"
    try:
        return "" if key == "log_dir" else _unfit(descriptor, directory)
    finally:
        os.close(descriptor)


def no_place_for_a_store(directory: Path) -> str:
    """Say why the file system of an existing directory cannot hold daemonDB; "" where it can."""
    kind = file_system(directory)
    return f"{directory} is on {kind}, which cannot hold it" if kind in REFUSED_FILE_SYSTEMS else ""


def full(directory: Path) -> str:
    """Say that nothing can be kept in an existing directory now; "" where it has room."""
    try:
        room = free_bytes(directory) >= FREE_BYTES_MIN
    except OSError as error:
        return f"{directory} cannot be looked at: {_why(error)}"
    return "" if room else f"the file system of {directory} is full"


def no_sockets(directory: Path) -> str:
    """Say why no socket can be bound in an existing directory; "" where one can."""
    probe = directory / f".probe-{os.getpid()}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
            bound.bind(os.fsencode(probe))
            probe.unlink()
    except OSError as error:
        return f"sockets cannot be bound in {directory}: {_why(error)}"
    return ""


def no_address_space(map_bytes: int) -> str:
    """Say why a store of this size cannot be mapped by this process; "" where it can."""
    try:
        mmap.mmap(-1, map_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ).close()
    except (OSError, OverflowError) as error:
        return f"{map_bytes} bytes cannot be mapped (ulimit -v, LimitAS of systemd): {_why(error)}"
    return ""


class _Entry(NamedTuple):
    """A file of the daemon's. Without one that is `needed` no daemon begins."""

    key: str
    path: Path
    kind: str
    needed: bool = True


def misplaced(daemon: DaemonSettings, *, all_of_them: bool) -> Iterator[tuple[str, str]]:
    """Yield, by its key, each entry of the daemon's directories that is of another kind than the
    daemon makes there, or that it may not use; only those without which it does not begin, or
    all of them."""
    for entry in _entries(daemon):
        try:
            found = entry.path.stat().st_mode
        except OSError:
            continue  # it will be made, or its directory is told of
        if not (entry.needed or all_of_them):
            continue
        if not _KINDS[entry.kind](found):
            yield entry.key, f"{entry.path} is there, and is no {entry.kind}"
        elif not os.access(entry.path, os.R_OK | os.W_OK, effective_ids=True):
            yield entry.key, f"{entry.path} is not writable"


_KINDS = {"directory": stat.S_ISDIR, "regular file": stat.S_ISREG, "socket": stat.S_ISSOCK}


def _entries(daemon: DaemonSettings) -> Iterator[_Entry]:
    runtime, store = Runtime(daemon.runtime_dir), StorePaths(daemon.state_dir)
    yield _Entry("state_dir", daemon.state_dir / "lock", "regular file")
    for path in (store.store, store.backups):
        yield _Entry("state_dir", path, "directory", needed=False)
    yield _Entry("state_dir", store.store / "data.mdb", "regular file", needed=False)
    yield _Entry("runtime_dir", runtime.lock, "regular file")
    for path in (runtime.runs, runtime.results, runtime.processes):
        yield _Entry("runtime_dir", path, "directory")
    for path in (runtime.store_lock, runtime.backoff):
        yield _Entry("runtime_dir", path, "regular file", needed=False)
    for path in (runtime.control_socket, runtime.worker_socket):
        yield _Entry("runtime_dir", path, "socket")


def _made(directory: Path) -> int:
    """Make and open a file without a name, or one whose name is gone at once. Raises `OSError`."""
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(directory, flags | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno not in _NAMELESS_UNKNOWN:
            raise
    probe = directory / f".probe-{os.getpid()}"
    descriptor = os.open(probe, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    probe.unlink()
    return descriptor


def _unfit(descriptor: int, directory: Path) -> str:
    """Say what locks and maps of a file fail of."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return f"files cannot be locked in {directory}: {_why(error)}"
    try:
        os.posix_fallocate(descriptor, 0, _PAGE_BYTES)
        mmap.mmap(descriptor, _PAGE_BYTES).close()
    except OSError as error:
        if error.errno not in _FULL:
            return f"files cannot be mapped in {directory}: {_why(error)}"
    return ""


def _why(error: OSError | OverflowError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
