"""The bearer token: read for every exchange, so that a new one counts at once.

It never appears in a message or a log.
"""

import logging
import os
import re
import stat
from pathlib import Path

from ...ipc.messages import ErrorKind
from .base import ExchangeError

TOKEN_BYTES_MAX = 8 * 1024

log = logging.getLogger(__name__)
#: What a header can carry: printable ASCII without a space.
_TOKEN = re.compile(rb"[\x21-\x7e]+")


class TokenFile:
    """Reads token files, and warns once of each that others than its owner can read."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def read(self, path: str) -> str:
        """The token in `path`, or "" where no path is configured.

        Raises `ExchangeError` (unauthorized) where there is no usable token.
        """
        if not path:
            return ""
        try:
            mode, content = _read(path)
        except OSError as error:
            raise _unusable(path, error.strerror or str(error)) from None
        self._warn_when_open(path, mode)
        token = content.strip()
        if not token:
            raise _unusable(path, "it is empty")
        if len(content) > TOKEN_BYTES_MAX:
            raise _unusable(path, f"it is longer than {TOKEN_BYTES_MAX} bytes")
        if not _TOKEN.fullmatch(token):
            raise _unusable(path, "it is not one line of printable characters without a space")
        return token.decode()

    def _warn_when_open(self, path: str, mode: int) -> None:
        if not mode & (stat.S_IRWXG | stat.S_IRWXO) or path in self._warned:
            return
        self._warned.add(path)
        log.warning(
            "Others than the owner can use the token file %s: its mode is %04o",
            path,
            stat.S_IMODE(mode),
            extra={"event": "token-file-open"},
        )


def _read(path: str) -> tuple[int, bytes]:
    """Mode and content. A FIFO or a device is not waited for."""
    with os.fdopen(os.open(Path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise OSError("it is not a regular file")
        return mode, file.read(TOKEN_BYTES_MAX + 1)


def _unusable(path: str, reason: str) -> ExchangeError:
    detail = f"cannot use the token file {path}: {reason}"
    return ExchangeError(ErrorKind.UNAUTHORIZED, detail)
