"""File of OAuth 2.0 tokens, kept by the daemon: read, locked, replaced.

It is never written in place: a new file is made beside it, synced and renamed, so that one of
the two is whole at any instant.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from ....ipc.messages.sync import ErrorKind
from ...host.files import fsync_path
from ..base import ExchangeError
from ..http.secrets import is_secret, read_private, unusable

TOKENS_BYTES_MAX = 64 * 1024
#: Interval of attempts to take a lock that another process holds.
LOCK_POLL_SECONDS = 0.05

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Tokens(msgspec.Struct, frozen=True):
    """Content of the file, as the token server gave it, but for `expires_at`.

    That is in seconds since 1970 by the clock of this host, which may be wrong, or 0 where it
    is not known.
    """

    access_token: str
    refresh_token: str = ""
    token_type: str = "Bearer"
    scope: str = ""
    expires_at: float = 0


_decode = msgspec.json.Decoder(Tokens).decode


class TokenFile:
    """The file, and the lock beside it.

    One process at a time asks for new tokens: a server that rotates refresh tokens takes the
    second use of one for a theft.
    """

    def __init__(self, path: str) -> None:
        """Take the file at `path`; of a link, its target is replaced."""
        self.path = Path(os.path.realpath(path))
        self._new = Path(f"{self.path}.new")
        self._lock = Path(f"{self.path}.lock")

    def read(self) -> Tokens | None:
        """Return the tokens, None where there is no file. Raises `ExchangeError` (unauthorized)."""
        try:
            tokens = _decode(read_private(str(self.path), TOKENS_BYTES_MAX))
            if not is_secret(tokens.access_token):
                raise ValueError("its access token is none that a header can carry")
        except FileNotFoundError:
            return None
        except RecursionError:
            raise unusable(str(self.path), "token file", ValueError("nested too deep")) from None
        except (OSError, ValueError) as error:
            raise unusable(str(self.path), "token file", error) from None
        return tokens

    @contextlib.contextmanager
    def locked(self, seconds: float) -> Iterator[Callable[[Tokens], None]]:
        """Lock the file, waiting at most `seconds`, and yield a function that replaces it.

        Room for the new file is taken first: a full disk is found before a token server gives
        away, and forgets, a refresh token. Both raise `ExchangeError` (local).
        """
        with contextlib.ExitStack() as closing:
            try:
                lock = _open_or_create(self._lock)
                closing.callback(os.close, lock)
                self._acquire(lock, seconds)
                self._new.unlink(missing_ok=True)  # left by a crash
                new = _create(self._new)
                closing.callback(os.close, new)
                closing.callback(self._new.unlink, missing_ok=True)
                _write_all(new, bytes(TOKENS_BYTES_MAX))
            except OSError as error:
                raise self._unwritable(error) from None
            yield partial(self._replace, new)

    def _replace(self, new: int, tokens: Tokens) -> None:
        content = msgspec.json.encode(tokens) + b"\n"
        try:
            os.lseek(new, 0, os.SEEK_SET)
            _write_all(new, content)
            os.ftruncate(new, len(content))
            os.fsync(new)
            self._new.rename(self.path)
            fsync_path(self.path.parent)
        except OSError as error:
            raise self._unwritable(error) from None

    def _acquire(self, lock: int, seconds: float) -> None:
        ends_monotonic = time.monotonic() + seconds
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > ends_monotonic:
                    raise OSError(f"another process has held {self._lock} too long") from None
                time.sleep(LOCK_POLL_SECONDS)

    def _unwritable(self, error: OSError) -> ExchangeError:
        reason = error.strerror or str(error)
        detail = f"cannot keep new tokens in {self.path}: {reason}"
        return ExchangeError(ErrorKind.LOCAL, detail)


def _create(path: Path) -> int:
    """Create a file that only its owner can use, and return its descriptor.

    Made by root, it belongs to the owner of the directory, so that a daemon that is not root
    can use it after a login by root.
    """
    descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    owner = path.parent.stat()
    if os.geteuid() == 0 and (owner.st_uid, owner.st_gid) != (0, 0):
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


def _open_or_create(path: Path) -> int:
    """Open or create a file; an existing one keeps its owner, as it may be any file's link."""
    try:
        return _create(path)
    except FileExistsError:
        return os.open(path, _FLAGS)


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
