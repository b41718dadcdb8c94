"""File of OAuth 2.0 tokens, kept by the daemon: read, locked, replaced.

It is never written in place: a new file is made beside it, synced and renamed, so that one of
the two is whole at any instant (`backend_files.py`).
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from ....ipc.decoding import DECODE_ERRORS
from ....ipc.messages.broker import TOKENS_BYTES_MAX
from ....ipc.messages.sync import ErrorKind
from ..backend_files import BackendFiles
from ..base import ExchangeError
from ..http.secrets import is_secret, read_private, unusable

#: Interval of attempts to take a lock that another process holds.
LOCK_POLL_SECONDS = 0.05


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
    """The file, and the lock beside it. Of a link, its target is replaced.

    One process at a time asks for new tokens: a server that rotates refresh tokens takes the
    second use of one for a theft.
    """

    def __init__(self, files: BackendFiles, path: str) -> None:
        """`path` names the file in errors."""
        self.path = Path(path)
        self._files = files

    def read(self) -> Tokens | None:
        """Return the tokens, None where there is no file. Raises `ExchangeError` (unauthorized)."""
        try:
            tokens = _decode(read_private(self._files, "token_file", TOKENS_BYTES_MAX))
            if not is_secret(tokens.access_token):
                raise ValueError("its access token is none that a header can carry")
        except FileNotFoundError:
            return None
        except RecursionError:
            raise unusable(str(self.path), "token file", ValueError("nested too deep")) from None
        except (OSError, *DECODE_ERRORS) as error:
            raise unusable(str(self.path), "token file", error) from None
        return tokens

    @contextlib.contextmanager
    def locked(self, seconds: float) -> Iterator[Callable[[Tokens], None]]:
        """Lock the file, waiting at most `seconds`, and yield a function that replaces it.

        Room for the new file is taken first: a full disk is found before a token server gives
        away, and forgets, a refresh token. Both raise `ExchangeError` (local).
        """
        try:
            self._acquire(seconds)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            yield self._replace
        finally:
            self._files.unlock_tokens()

    def _replace(self, tokens: Tokens) -> None:
        try:
            self._files.replace_tokens(msgspec.json.encode(tokens) + b"\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def _acquire(self, seconds: float) -> None:
        ends_monotonic = time.monotonic() + seconds
        while not self._files.lock_tokens():
            if time.monotonic() > ends_monotonic:
                raise OSError(f"another process has held {self.path}.lock too long")
            time.sleep(LOCK_POLL_SECONDS)

    def _unwritable(self, error: OSError) -> ExchangeError:
        reason = error.strerror or str(error)
        detail = f"cannot keep new tokens in {self.path}: {reason}"
        return ExchangeError(ErrorKind.LOCAL, detail)
