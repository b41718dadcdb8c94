"""Files and directories of daemonDB, its marker and its file system. Knows no table.

A store is never written over (law 10): another replaces it by renames, each of which a
power cut may follow, and the old one is kept beside it. On overlayfs the directory of a store
of the lower layer cannot be renamed (fact L31): there the files in it are replaced, the data last.
"""

import contextlib
import errno
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ...workers.host import procfs
from ...workers.host.files import fsync_path, open_regular
from ...workers.host.linux import forbid_copy_on_write, shared_bytes, unshare_blocks
from ...workers.host.mounts import mount_of
from .errors import StoreError

log = logging.getLogger(__name__)

#: No shared writable maps, or no locks, or not consistent after a crash (fact L10).
REFUSED_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "jffs2"})
#: Their files are lost at a power cut, or may be (fact L10).
FORGETFUL_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "overlay"})
#: Below this a file system has no room for a commit: LMDB then often says EIO (fact 5).
FREE_BYTES_MIN = 64 * 1024
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: The size LMDB gives its lock file. A sparse one is SIGBUS on a full disk (fact 4).
LOCK_BYTES = 8192
#: Blocks allocated to a file here can be written at any time (fact L15). Others copy on
#: write, promise nothing, or would have the C library write zeros instead.
PREALLOCATING_FILE_SYSTEMS = frozenset({"ext4", "xfs"})
#: Stores set aside that are kept, the newest.
SET_ASIDE_STORES_MAX = 2
_COPY = "daemondb.copy-"
_MARKER_TEXT = "daemonDB was made here. If data.mdb is missing or empty, it was lost.\n"


class StorePaths:
    """The directories of the store below `state_dir`, and the renames between them."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.store = state_dir / "daemondb"
        self.making = state_dir / "daemondb.tmp"  # half a store: removed at the next start
        self.made = state_dir / "daemondb.new"  # a whole one, about to replace the store
        self.old = state_dir / "daemondb.old"  # a replaced one whose rows are all in the new one
        self.backups = state_dir / "backups"

    def set_aside(self) -> list[Path]:
        """Return the stores that were set aside, oldest first."""
        return numbered(self.state_dir, "daemondb.bad-")

    def there_was_one(self) -> bool:
        """A store was here before: files beside it show that."""
        return bool(self.set_aside() or numbered(self.backups, ""))

    def prepare(self) -> None:
        """Make the directory of the store (0700, fact L24); finish or undo an interrupted
        replacement.

        Raises `StoreError` for a file system that cannot hold it, `OSError`.
        """
        self.state_dir.mkdir(mode=0o700, exist_ok=True)
        kind = file_system(self.state_dir)
        if kind in REFUSED_FILE_SYSTEMS:
            raise StoreError(f"cannot keep daemonDB in {self.store}: {kind} cannot hold it")
        if self.made.exists() and not self.store.exists():
            self._rename_or_copy(self.made, self.store)
        for left in (self.making, self.made, *self._done_with()):
            remove(left)
        self.remove_left_copies()
        self.store.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def empty_for_making(self) -> Iterator[Path]:
        """Yield an empty directory for the next store; if it is left, remove it: it would take
        the room of the next attempt. Raises `OSError`."""
        remove(self.making)
        self.making.mkdir(mode=0o700)
        try:
            yield self.making
        finally:
            remove(self.making)

    def empty_for_copying(self) -> Path:
        """Make an empty directory of this process's own; if it is left, a later one removes it.

        Raises `OSError`.
        """
        self.remove_left_copies()
        copy = self.state_dir / f"{_COPY}{os.getpid()}"
        remove(copy)
        copy.mkdir(mode=0o700)
        return copy

    def remove_left_copies(self) -> None:
        """Remove the copies of processes that are gone. Raises `OSError`."""
        remove_left(self.state_dir, _COPY)

    def next_aside(self) -> Path | None:
        """Return the directory to set the store aside in; None if the store is empty."""
        if data_bytes(self.store) == 0:
            return None
        last = self.set_aside()[-1:]
        number = number_of(last[0]) + 1 if last else 1
        return self.state_dir / f"daemondb.bad-{number}"

    def put_in_place(self, aside: Path | None) -> None:
        """Replace the store by the one that was made; the old one is renamed to `aside`, or
        removed where that is None.

        The new one is durable before its first rename; after a crash from then on `prepare`
        finishes the replacement or undoes it. Raises `OSError`.
        """
        for path in (*self.making.iterdir(), self.making):
            fsync_path(path)
        rename(self.making, self.made)
        (self.store / "lock.mdb").unlink(missing_ok=True)  # its target may be the next store's too
        try:
            rename(self.store, aside or self.old)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            if aside is not None:
                self._copy(self.store, aside)
            self._replace_inside()
        else:
            rename(self.made, self.store)
        for store in self._done_with():
            remove(store)

    def _rename_or_copy(self, old: Path, new: Path) -> None:
        try:
            rename(old, new)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy(old, new)

    def _copy(self, source: Path, target: Path) -> None:
        """Copy a store, so that `target` is whole and durable as soon as it is there."""
        with self.empty_for_making() as making:
            for path in source.iterdir():
                if path.is_file() and not path.is_symlink():
                    copy_file(path, making / path.name)
            for path in (*making.iterdir(), making):
                fsync_path(path)
            rename(making, target)

    def _replace_inside(self) -> None:
        """Move the files of the store that was made into the directory of the one in use. Once the
        data is there all else is; before, the old data is as it was."""
        gone = {path.name for path in self.store.iterdir()}
        made = sorted(self.made.iterdir(), key=lambda path: path.name == "data.mdb")
        for path in made:
            path.rename(self.store / path.name)
        fsync_path(self.store)
        for name in gone - {path.name for path in made}:
            (self.store / name).unlink()
        fsync_path(self.store)
        remove(self.made)

    def _done_with(self) -> list[Path]:
        return [self.old, *self.set_aside()[:-SET_ASIDE_STORES_MAX]]


def ready(store_dir: Path) -> None:
    """Prepare a directory for LMDB to make or open a store in.

    Raises `StoreError` where a store was and is lost, which is no first start; `OSError`.
    """
    if data_bytes(store_dir) == 0:
        data = store_dir / "data.mdb"
        if initialised(store_dir):
            raise StoreError(f"cannot use {data}: it is missing or empty, and it was not before")
        data.unlink(missing_ok=True)  # left by a full disk at the very first start (fact L15)
    fill_lock_file(store_dir / "lock.mdb")


def keep_lock_at(store_dir: Path, lock: Path) -> None:
    """Keep LMDB's lock file elsewhere, by a link; only while no process has the store open.

    Every reading transaction marks a page of it, and the kernel writes that to the disk: some
    40 MB a day of flash on an idle host (fact L30). Nothing in it has to outlive a boot. Raises
    `OSError`.
    """
    link = store_dir / "lock.mdb"
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(lock)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            lock.unlink()  # left by who had the directory before, and written through by LMDB
    if link.is_symlink() and link.readlink() == lock:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(lock)


def require_lock_file(store_dir: Path) -> None:
    """Raise `StoreError` where the lock file of a store that is in use cannot be written: LMDB
    would read without a lock, or make another lock file, and the writer would change the pages
    of what is read (fact L35)."""
    lock = (store_dir / "lock.mdb").resolve()
    if not lock.exists():
        why = f"{lock} is not there"
    elif os.statvfs(lock).f_flag & os.ST_RDONLY:
        why = f"{lock} is on a read-only mount"
    else:
        return
    raise StoreError(f"cannot read {store_dir} while a daemon writes to it: {why}")


def data_bytes(store_dir: Path) -> int:
    """Return the size of the data file, 0 where there is none."""
    try:
        return (store_dir / "data.mdb").stat().st_size
    except FileNotFoundError:
        return 0


def data_identity(store_dir: Path) -> tuple[int, int] | None:
    """Return device and inode of the file that has the path of the data file; None where none
    has it. Raises `OSError` where that cannot be told."""
    try:
        found = (store_dir / "data.mdb").stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def allocated_bytes(store_dir: Path) -> int:
    """Return the bytes of disk that the data file takes."""
    return (store_dir / "data.mdb").stat().st_blocks * 512


def copy_file(source: Path, target: Path) -> None:
    """Copy into a new file that is private (0600) from the start. Raises `OSError`."""
    with open_regular(source) as there:
        write_new(there, target)


def write_new(source: IO[bytes], target: Path) -> None:
    """Write what can be read into a new file that is private (0600) from the start. Raises
    `OSError`."""
    import shutil  # late: a start waits for the process that examines the store

    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as made:
        shutil.copyfileobj(source, made)


def initialised(store_dir: Path) -> bool:
    """A store was once made here, whatever is left of it."""
    return _marker(store_dir).exists()


def mark_initialised(store_dir: Path) -> None:
    """Make a new store durable, then its marker (fact L9). Raises `OSError`."""
    if initialised(store_dir):
        return
    for path in (store_dir / "data.mdb", store_dir, store_dir.parent):
        fsync_path(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(_marker(store_dir), flags, 0o600)
    try:
        os.write(descriptor, _MARKER_TEXT.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fsync_path(store_dir)


def give_blocks(store_dir: Path, size_bytes: int) -> bool:
    """Allocate all blocks that the data file of an open store may ever need.

    Return False where that cannot be done or promises nothing; where True, a full disk does
    not keep the store from being written (fact L15).
    """
    if file_system(store_dir) not in PREALLOCATING_FILE_SYSTEMS:
        return False
    try:
        descriptor = _descriptors(store_dir)[0]  # LMDB's own: see fact 1
        shared = _shared_bytes(descriptor)
        missing = max(0, size_bytes - allocated_bytes(store_dir))
        if not missing + shared:
            return True
        if free_bytes(store_dir) < missing + shared + FREE_BYTES_MIN:  # else it would fill the disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(descriptor, 0, size_bytes)
        if shared:
            unshare_blocks(descriptor, os.fstat(descriptor).st_size)
        os.fsync(descriptor)
    except OSError as error:
        log.warning(
            "Cannot keep %d bytes for daemonDB: %s", size_bytes, error, extra={"event": "no-room"}
        )
        return False
    return True


def _shared_bytes(descriptor: int) -> int:
    """Return the bytes in blocks that a copy of the file, or what it is a copy of, has too: each
    first write to one takes another from the disk (fact L32)."""
    try:
        return shared_bytes(descriptor)
    except OSError as error:
        log.debug("Cannot tell which blocks are shared: %s", error)
        return 0


def close_on_exec(store_dir: Path) -> None:
    """LMDB leaves its data file open across exec (fact 9): no child may inherit it."""
    for descriptor in _descriptors(store_dir):
        os.set_inheritable(descriptor, False)


def is_open_here(store_dir: Path) -> bool:
    """This process has a descriptor of the data file."""
    return data_identity(store_dir) is not None and bool(_descriptors(store_dir))


def _descriptors(store_dir: Path) -> list[int]:
    """Return this process's descriptors of the data file."""
    data = (store_dir / "data.mdb").stat()
    found: list[int] = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            found += [int(name)] if os.path.samestat(os.fstat(int(name)), data) else []
    return found


def is_full(store_dir: Path) -> bool:
    """The file system takes no more, or only not from this process: a quota, a limit of file
    sizes. False also where it does not even tell."""
    try:
        if free_bytes(store_dir) < FREE_BYTES_MIN:
            return True
        descriptor = os.open(store_dir, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        try:  # as LMDB writes, behind what is there
            written = os.pwrite(descriptor, bytes(FREE_BYTES_MIN), data_bytes(store_dir))
        finally:
            os.close(descriptor)
    except OSError as error:
        return error.errno in _NO_ROOM
    return written < FREE_BYTES_MIN


def free_bytes(directory: Path) -> int:
    """Return the free bytes of a directory's file system. Raises `OSError`."""
    free = os.statvfs(directory)
    return free.f_bavail * free.f_frsize


def file_system(directory: Path) -> str:
    """Return the type of file system a directory is on; "" where the kernel does not tell."""
    found = mount_of(directory)
    return found.kind if found else ""


def warn_if_forgetful(store_dir: Path) -> None:
    """Log a warning where the file system may lose the store at a reboot."""
    kind = file_system(store_dir)
    if kind in FORGETFUL_FILE_SYSTEMS:
        log.warning(
            "What daemonDB keeps in %s may not outlive a reboot: it is on %s",
            store_dir,
            kind,
            extra={"event": "store-not-durable"},
        )


def _marker(store_dir: Path) -> Path:
    return store_dir / "initialised"


def fill_lock_file(lock: Path) -> None:
    """Allocate the blocks of the lock file while no process uses it.

    One that has them is not opened: opening and closing it in a process that holds the
    store would drop LMDB's locks (fact 1).
    """
    if lock.exists() and lock.stat().st_blocks * 512 >= LOCK_BYTES:
        return
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        forbid_copy_on_write(descriptor)  # else its blocks promise nothing on btrfs (fact L36)
        os.posix_fallocate(descriptor, 0, LOCK_BYTES)
    finally:
        os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    """Rename durably. Raises `OSError`."""
    old.rename(new)
    fsync_path(new.parent)


def remove(directory: Path) -> None:
    """Remove a directory with all in it, or a file; one that is not there is no error."""
    if directory.is_dir() and not directory.is_symlink():
        import shutil

        shutil.rmtree(directory)
    else:
        directory.unlink(missing_ok=True)


def remove_left(directory: Path, prefix: str) -> None:
    """Remove the directories of processes that are gone, by the pid that their names end in."""
    for path in numbered(directory, prefix):
        process = procfs.stat(number_of(path))
        if process is None or process.ended:
            remove(path)


def numbered(directory: Path, prefix: str) -> list[Path]:
    """Return the directories named by `prefix` and a number, lowest number first."""
    named = re.compile(re.escape(prefix) + "[0-9]+")
    found = (path for path in directory.glob("*") if named.fullmatch(path.name))
    return sorted((path for path in found if path.is_dir()), key=number_of)


def number_of(path: Path) -> int:
    """Return the number that a name ends in."""
    return int(re.sub(r".*?([0-9]+)$", r"\1", path.name))
