"""Secrets in files: permissions, and characters that a header can carry.

They are read for every exchange, so that a new one counts at once, and never appear in a
message or a log. The file of tokens that the daemon keeps itself is in `auth/tokens.py`.
"""

import re

from ....ipc.messages.broker import FileKey
from ....ipc.messages.sync import ErrorKind
from ..backend_files import BackendFiles, require_private
from ..base import ExchangeError

SECRET_BYTES_MAX = 8 * 1024

#: Characters that a header can carry: printable ASCII without a space.
_SECRET = re.compile(r"[\x21-\x7e]+")


def read_secret(files: BackendFiles, key: FileKey, path: str, what: str) -> str:
    """Return the one line in the file of the setting `key`, or "" where no path is configured.

    `path` and `what` name the file in an error. Raises `ExchangeError` (unauthorized) where
    there is no usable secret.
    """
    if not path:
        return ""
    try:
        content = read_private(files, key, SECRET_BYTES_MAX)
        secret = content.decode("ascii", errors="replace").strip()
        if not secret:
            raise ValueError("it is empty")
        if not is_secret(secret):
            raise ValueError("it is not one line of printable characters without a space")
    except (OSError, ValueError) as error:
        raise unusable(path, what, error) from None
    return secret


def is_secret(text: str) -> bool:
    """A header can carry the text."""
    return _SECRET.fullmatch(text) is not None


def read_private(files: BackendFiles, key: FileKey, bytes_max: int) -> bytes:
    """Return the content of a file that nobody but its owner can write.

    Whoever can write it chooses this host's account at the backend, and so its actions. Raises
    `OSError`, and `ValueError` where it may not be used.
    """
    with files.open(key) as file:
        require_private(file)
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise ValueError(f"it is longer than {bytes_max} bytes")
    return content


def unusable(path: str, what: str, error: Exception) -> ExchangeError:
    """Return the error for the file called `what`, which cannot be used."""
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    return ExchangeError(ErrorKind.UNAUTHORIZED, f"cannot use the {what} {path}: {reason}")
