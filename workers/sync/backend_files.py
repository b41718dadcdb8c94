"""Files that `[backend]` names: secrets, certificates, tokens, and the backend `file` itself.

They are opened by who may: by this process (`LocalFiles`), or by a broker for one that has no
rights (`broker.py`). As root, a file that others can change is refused, and no link of others
is followed (`host/dirfd.py`).
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, NamedTuple, Protocol, TypeAlias

from ...ipc.backends import BACKENDS
from ...ipc.messages.broker import TOKENS_BYTES_MAX, FileKey
from ...ipc.messages.sync import BackendAddress
from ...ipc.paths import status_journal
from ..host import trust
from ..host.dirfd import Directory, UntrustedError
from ..host.files import open_regular
from ..host.trust import ROOT

#: Mode of a file of reports that is made, whatever the umask: the group of its directory may read
#: it, where that hands on its group (set-group-ID).
REPORTS_MODE = 0o640


class BackendFiles(Protocol):
    """All methods raise `OSError`."""

    def open(self, key: FileKey) -> IO[bytes]:
        """Open the file of a setting for reading; never waits for a FIFO or a device."""

    def open_reports(self) -> IO[bytes]:
        """Open the file of reports of a backend of the kind `file` for appending and reading."""

    def lock_tokens(self) -> bool:
        """Lock the file of tokens, and take room for a new one; False where another process
        holds the lock."""

    def replace_tokens(self, content: bytes) -> None:
        """Replace the file of tokens, which is locked; it is on the disk on return."""

    def unlock_tokens(self) -> None:
        """Give the lock back."""


#: Gives the files of a backend.
FilesOf: TypeAlias = Callable[[BackendAddress], BackendFiles]


class _TokenLock(NamedTuple):
    """The lock on the file of tokens, with the new file, which has taken its room."""

    directory: Directory
    name: str
    new: int
    opened: contextlib.ExitStack
    replaced: bool = False


class LocalFiles(BackendFiles):
    """The files, opened by this process with its own rights. As root those of the users `trusted`
    count as root's. It does for nobody what the settings have no use for."""

    def __init__(self, backend: BackendAddress, trusted: Collection[int] = ()) -> None:
        self._backend = backend
        self._trusted = trusted
        self._lock: _TokenLock | None = None
        self._journal: tuple[int, int] | None = None  # whose name is on the disk

    def open(self, key: FileKey) -> IO[bytes]:
        given: str = getattr(self._backend, key)
        if not given:
            raise OSError(errno.EINVAL, f"{key} is not set")
        path = Path(given)
        if os.geteuid() != ROOT or not trust.why_not(path):
            return open_regular(path)  # nobody but root can change anything of it
        if key == "path":
            return os.fdopen(self._opened_actions(path), "rb")
        directory, name = Directory.holding(path, trusted=self._trusted)
        with directory:
            return os.fdopen(directory.open_file(name, os.O_RDONLY), "rb")

    def _opened_actions(self, path: Path) -> int:
        """Open the actions as root: another user may be the backend, and have made them in a
        directory of its own, but gets nothing else read by a link or as a second name."""
        with contextlib.suppress(UntrustedError):
            directory, name = Directory.holding(path, trusted=self._trusted)
            with directory:
                return directory.open_file(name, os.O_RDONLY, lent=True)
        owner = os.stat(path.parent)
        directory, name = Directory.holding(
            path,
            trusted=(*self._trusted, owner.st_uid),
            groups=(ROOT, owner.st_gid),
        )
        with directory:
            descriptor = directory.open_file(name, os.O_RDONLY, lent=True)
        if os.fstat(descriptor).st_nlink > 1:
            os.close(descriptor)
            raise UntrustedError(f"{path} has other names, too")
        return descriptor

    def open_reports(self) -> IO[bytes]:
        if BACKENDS[self._backend.kind].needs != "path":
            raise OSError(errno.EINVAL, f"a backend of kind {self._backend.kind} keeps no reports")
        journal = status_journal(self._backend.path)
        directory, name = Directory.holding(journal, trusted=self._trusted)
        with directory:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
            file = os.fdopen(directory.open_file(name, flags, REPORTS_MODE), "a+b")
            found = os.fstat(file.fileno())
            if not found.st_size and (found.st_dev, found.st_ino) != self._journal:
                with _closed_on_error(file):
                    directory.sync()  # it may have been made just now
                self._journal = (found.st_dev, found.st_ino)
        return file

    def lock_tokens(self) -> bool:
        if self._backend.auth != "oauth":
            raise OSError(errno.EINVAL, "the file of tokens is the operator's, who replaces it")
        with contextlib.ExitStack() as opened:
            path = Path(self._backend.token_file)
            directory, name = Directory.holding(path, trusted=self._trusted)
            opened.callback(directory.close)
            lock = _open_or_create(directory, f"{name}.lock")
            opened.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            directory.unlink(f"{name}.new", missing_ok=True)  # left by a crash
            new = _create(directory, f"{name}.new")
            opened.callback(os.close, new)
            opened.callback(directory.unlink, f"{name}.new", missing_ok=True)
            _write_all(new, bytes(TOKENS_BYTES_MAX))
            self._lock = _TokenLock(directory, name, new, opened.pop_all())
        return True

    def replace_tokens(self, content: bytes) -> None:
        if self._lock is None or self._lock.replaced or len(content) > TOKENS_BYTES_MAX:
            why = "the file of tokens is not locked, or replaced already, or they are too long"
            raise OSError(errno.EINVAL, why)
        directory, name, new, *_ = self._lock
        self._lock = self._lock._replace(replaced=True)
        os.lseek(new, 0, os.SEEK_SET)
        _write_all(new, content)
        os.ftruncate(new, len(content))
        os.fsync(new)
        directory.rename(f"{name}.new", name)
        directory.sync()

    def unlock_tokens(self) -> None:
        if self._lock is not None:
            lock, self._lock = self._lock, None
            lock.opened.close()


def _create(directory: Directory, name: str) -> int:
    """Create a file that only its owner can use, and return its descriptor.

    Made by root, it belongs to the owner of the directory, so that a daemon that is not root
    can use it after a login by root.
    """
    descriptor = directory.open_file(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    owner = os.fstat(directory.descriptor)
    if os.geteuid() == ROOT and (owner.st_uid, owner.st_gid) != (ROOT, ROOT):
        try:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


def _open_or_create(directory: Directory, name: str) -> int:
    """Open or create a file; an existing one keeps its owner, as it may be any file's name."""
    try:
        return _create(directory, name)
    except FileExistsError:
        return directory.open_file(name, os.O_RDWR)


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


@contextlib.contextmanager
def _closed_on_error(file: IO[bytes]) -> Iterator[None]:
    try:
        yield
    except OSError:
        file.close()
        raise


def require_private(file: IO[bytes]) -> None:
    """Raise `ValueError` where others than the owner of an open file can write it."""
    mode = os.fstat(file.fileno()).st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(f"others than its owner can write it (mode {stat.S_IMODE(mode):04o})")
