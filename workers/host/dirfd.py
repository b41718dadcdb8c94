"""Files reached through an open directory, so that nobody can swap a name on the way to them.

Whoever can write a directory can put a link, a hard link, a FIFO or another directory in the
place of what was there, also between two calls. So a path is walked once, by descriptors, with
the owners and modes on it checked (`trust.py`); names in the directory are then opened, renamed
and removed relative to its descriptor, never through a link; and what was opened is looked at
before anything is written to it, read from it or given away.

A process that is not root may use directories of others: it has no more rights there than its
user has anyway.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from . import trust
from .files import TEMPORARY
from .trust import ROOT, Trusted

#: A file that others make and remove while it is being opened is opened anew, at most this often.
OPEN_TRIES_MAX = 10

#: Rights that a change of owner and mode leaves (acl(5)).
_ACCESS_CONTROL_LISTS = ("system.posix_acl_access", "system.posix_acl_default")
_ENTER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class UntrustedError(OSError):
    """Others can change what is to be used, or made it; says who, as `trust.why_not` does."""


class Directory:
    """An open directory, until `close` or the end of a `with`.

    `exposed` says who else can put files into it, "" where nobody can: there a process of root
    makes directories, and uses no file at all. What others put there could be a second name of any
    file of root's that is gone again when root looks at it. Errors name the whole path.
    """

    def __init__(self, descriptor: int, path: Path, exposed: str, trusted: Trusted) -> None:
        self.descriptor = descriptor
        self.path = path
        self.exposed = exposed
        self._trusted = trusted

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        trusted: Collection[int] = (),
        groups: Collection[int] = (ROOT,),
    ) -> Self:
        """Open a directory. As root, one is refused that others than root, the users `trusted`
        and the members of `groups` own or may write, or one above it.

        As root a link is followed only where nobody else can change it, whoever is `trusted`.
        Raises `UntrustedError`, `OSError`.
        """
        directory = cls.open_exposed(path, trusted=trusted, groups=groups)
        try:
            directory._refuse_exposed()
        except UntrustedError:
            directory.close()
            raise
        return directory

    @classmethod
    def open_exposed(
        cls,
        path: Path,
        *,
        trusted: Collection[int] = (),
        groups: Collection[int] = (ROOT,),
    ) -> Self:
        """Open a directory, to make one in it or to take it, whoever may write it; `exposed` then
        says who. Else as `open`."""
        who = _writers(trusted, groups)
        walked = _walked(path, who)
        if walked.missing:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        try:
            descriptor = os.open(".", _ENTER, dir_fd=walked.descriptor)
        except OSError as error:
            raise _at(error, path) from None
        finally:
            os.close(walked.descriptor)
        return cls(descriptor, path, walked.reason, who)

    @classmethod
    def of_one_owner(cls, path: Path) -> tuple[Self, os.stat_result]:
        """Open a directory, and return it with what is known of it. As root, that may be any one
        user's: none but root and that user can put another in its place, or have put a link on
        the way to it. Raises `UntrustedError`, `OSError`."""
        with cls.open_exposed(path) as first:
            owner = os.fstat(first.descriptor).st_uid
        # Which link is followed does not depend on whom is trusted, so this is the same, or another
        # of the same owner: nobody else can change the way.
        opened = cls.open(path, trusted=(owner,))
        found = os.fstat(opened.descriptor)
        if found.st_uid != owner:
            opened.close()
            raise UntrustedError(f"{path} belonged to user {owner} a moment ago")
        return opened, found

    @classmethod
    def holding(
        cls,
        path: Path,
        *,
        trusted: Collection[int] = (),
        groups: Collection[int] = (ROOT,),
    ) -> tuple[Self, str]:
        """Open the directory of a file, as `open` does; return it with the name of the file in
        it, which need not be there. Of a link that nobody else can change, these are of its
        target. Raises `UntrustedError`, `OSError`."""
        walked = _walked(path, _writers(trusted, groups))
        if walked.descriptor >= 0:
            os.close(walked.descriptor)
        if len(walked.missing) > 1:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(walked.path))
        # By now others may have changed what is theirs: this looks anew, at a path without links.
        above, name = os.path.split(walked.path)
        return cls.open(Path(above), trusted=trusted, groups=groups), name

    @classmethod
    def open_or_make(cls, path: Path, mode: int, *, groups: Collection[int] = (ROOT,)) -> Self:
        """Open a directory as `open` does, made where it is missing, but not those above it.
        Raises `UntrustedError`, `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            return cls.open(path, groups=groups)
        refuse_exposed(path, groups=groups)
        make_directory(path, mode)
        return cls.open(path, groups=groups)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.descriptor)

    # --- directories in it --------------------------------------------------------------

    def subdirectory(self, name: str) -> Self:
        """Open a directory in it, as `open` does. Raises `UntrustedError`, `OSError`."""
        return type(self).open(
            self.path / _checked(name), trusted=self._trusted.users, groups=self._trusted.groups
        )

    def mkdir(self, name: str, mode: int) -> None:
        """Make a directory with just this mode, whatever the umask. Raises `OSError`."""
        with self._named(name):
            os.mkdir(_checked(name), mode, dir_fd=self.descriptor)
            made = os.open(name, _ENTER | os.O_NOFOLLOW, dir_fd=self.descriptor)
        try:
            found = os.fstat(made)
            if found.st_uid != os.geteuid():  # somebody has put another in its place
                raise UntrustedError(f"{self.path / name} belongs to user {found.st_uid}")
            if stat.S_IMODE(found.st_mode) != mode:
                os.chmod(f"/proc/self/fd/{made}", mode)
        finally:
            os.close(made)

    def take(self, mode: int) -> None:
        """Have this directory, which is empty, belong to root alone, with this mode: only root
        can. Raises `UntrustedError` where it is not empty, or is for everybody as /tmp is;
        `OSError`."""
        listed = self._listable()
        try:
            found = os.fstat(listed)
            if found.st_mode & stat.S_ISVTX or os.listdir(listed):
                raise UntrustedError(self.exposed)
            os.fchown(listed, ROOT, ROOT)
            for rights in _ACCESS_CONTROL_LISTS:
                with contextlib.suppress(OSError):  # it has none, or no file system has them here
                    os.removexattr(listed, rights)
            os.fchmod(listed, mode)
            if os.listdir(listed):  # made by somebody who was faster
                raise UntrustedError(self.exposed)
        finally:
            os.close(listed)

    def made(self, name: str, mode: int) -> Self:
        """Open a directory in it as `subdirectory` does, made where it is missing. Raises
        `UntrustedError`, `OSError`."""
        with contextlib.suppress(FileExistsError):
            self.mkdir(name, mode)
        return self.subdirectory(name)

    # --- files in it --------------------------------------------------------------------

    def open_file(self, name: str, flags: int, mode: int = 0o600, *, lent: bool = False) -> int:
        """Open a regular file in it, and return the descriptor, which does not block.

        With `O_CREAT` it is made where it is missing, with just this mode, whatever the umask;
        with `O_TRUNC` it is emptied, after all checks. As root a file that others own or may
        write is refused, unless it is `lent` (as logrotate does with logs), and so is any in an
        exposed directory. One that has other names, too, is refused where it is to be written.
        Raises `UntrustedError`, `OSError`.
        """
        self._refuse_exposed()
        with self._named(name):
            descriptor, is_new = self._opened(_checked(name), flags, mode)
        try:
            self._check(name, os.fstat(descriptor), flags, lent=lent)
            if is_new:
                os.fchmod(descriptor, mode)
            if flags & os.O_TRUNC:
                os.ftruncate(descriptor, 0)
        except OSError as error:
            os.close(descriptor)
            raise _at(error, self.path / name) from None
        return descriptor

    def _opened(self, name: str, flags: int, mode: int) -> tuple[int, bool]:
        """Return the descriptor of a file, and whether it was made just now. Raises `OSError`."""
        wanted = flags & ~(os.O_CREAT | os.O_TRUNC) | _SAFE
        for _ in range(OPEN_TRIES_MAX):
            if not flags & os.O_EXCL:
                with contextlib.suppress(FileNotFoundError):
                    return os.open(name, wanted, dir_fd=self.descriptor), False
            if not flags & os.O_CREAT:
                break
            try:
                made = os.open(name, wanted | os.O_CREAT | os.O_EXCL, mode, dir_fd=self.descriptor)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
            else:
                return made, True
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _check(self, name: str, found: os.stat_result, flags: int, *, lent: bool) -> None:
        path = self.path / name
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is not a regular file")
        writes = flags & (os.O_WRONLY | os.O_RDWR)
        if found.st_nlink > 1 and writes:
            raise UntrustedError(f"{path} has other names, too")
        looked_at = _is_root() and not lent
        if looked_at and (reason := trust.writable(path, found, self._trusted)):
            raise UntrustedError(reason)

    def read(self, name: str, bytes_max: int, *, lent: bool = False) -> bytes:
        """Return the content of a file, its first `bytes_max` bytes. Raises as `open_file`."""
        with os.fdopen(self.open_file(name, os.O_RDONLY, lent=lent), "rb") as file:
            return file.read(bytes_max)

    def replace(
        self,
        name: str,
        content: bytes,
        *,
        durable: bool,
        mode: int = 0o600,
        only_new: bool = False,
    ) -> None:
        """Write a temporary file and rename it, so that readers see all of it or nothing.
        `durable`: flush it to disk, and its name. `only_new`: nothing that has the name is
        replaced. Raises `FileExistsError` then, `OSError`."""
        temporary = f"{_checked(name)}{TEMPORARY}"
        self.unlink(temporary, missing_ok=True)  # left by a crash
        made = self.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(made, "wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            if only_new:
                self._link(temporary, name)
            else:
                self.rename(temporary, name)
        except OSError:
            self.unlink(temporary, missing_ok=True)
            raise
        if durable:
            self.sync()

    def _link(self, old: str, new: str) -> None:
        """Rename a file to what nothing has; a rename would replace what is there (fact P71)."""
        here = self.descriptor
        with self._named(new):
            os.link(old, _checked(new), src_dir_fd=here, dst_dir_fd=here)
        self.unlink(old)

    def rename(self, old: str, new: str) -> None:
        """Rename what is in it. Raises `OSError`."""
        self._refuse_exposed()
        here = self.descriptor
        with self._named(old):
            os.rename(_checked(old), _checked(new), src_dir_fd=here, dst_dir_fd=here)

    def unlink(self, name: str, *, missing_ok: bool = False) -> None:
        """Remove a file, or a link and not what it leads to. Raises `OSError`."""
        self._refuse_exposed()
        try:
            with self._named(name):
                os.unlink(_checked(name), dir_fd=self.descriptor)
        except FileNotFoundError:
            if not missing_ok:
                raise

    # --- the directory itself -----------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of what is in it. Raises `OSError`."""
        listed = self._listable()
        try:
            return os.listdir(listed)
        finally:
            os.close(listed)

    def stat(self, name: str) -> os.stat_result | None:
        """Return what is known of a name, of a link and not what it leads to; None where nothing
        has it. Raises `OSError`."""
        try:
            with self._named(name):
                return os.stat(_checked(name), dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def sync(self) -> None:
        """Flush the names in it to disk. Raises `OSError`."""
        listed = self._listable()
        try:
            os.fsync(listed)
        finally:
            os.close(listed)

    def _refuse_exposed(self) -> None:
        if self.exposed and _is_root():
            raise UntrustedError(self.exposed)

    def _listable(self) -> int:
        with self._named("."):
            return os.open(".", _LIST, dir_fd=self.descriptor)

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Have errors name the whole path: calls by a descriptor know only the end of it."""
        try:
            yield
        except OSError as error:
            raise _at(error, self.path / name) from None


def refuse_exposed(path: Path, *, groups: Collection[int] = (ROOT,)) -> None:
    """As root, refuse a path at which others can put something in the place of what is there, or
    of what this process will make there. Raises `UntrustedError`."""
    if _is_root() and (reason := trust.why_not(path, groups=groups, to_be_made=True)):
        raise UntrustedError(reason)


def make_directory(path: Path, mode: int) -> None:
    """Make a directory where it is missing, but not those above it, with just this mode. Raises
    `OSError`."""
    try:
        with Directory.open_exposed(path.parent) as above:
            above.mkdir(path.name, mode)
    except FileExistsError:
        return
    except OSError as error:
        raise _at(error, path) from None


def _writers(trusted: Collection[int], groups: Collection[int]) -> Trusted:
    return Trusted({ROOT, os.geteuid(), *trusted}, groups)


def _walked(path: Path, who: Trusted) -> trust.Walked:
    """Walk to a path. Raises `UntrustedError` for a link of others, `OSError`."""
    try:
        walked = trust.walk(path, who, follow=(ROOT,) if _is_root() else None)
    except OSError as error:
        raise _at(error, path) from None
    if walked.descriptor < 0 and not walked.missing:
        raise UntrustedError(walked.reason)
    return walked


def _at(error: OSError, path: Path) -> OSError:
    """Return the error with the whole path in it; one of our own has it in its words."""
    return error if error.errno is None else OSError(error.errno, error.strerror, str(path))


def _checked(name: str) -> str:
    """Return the name of an entry. Raises `ValueError` for what leads elsewhere."""
    if name in ("", ".", "..") or "/" in name:
        raise ValueError(f"{name!r} is no name of a file")
    return name


def _is_root() -> bool:
    return os.geteuid() == ROOT
