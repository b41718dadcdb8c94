"""Checks of the configured TLS files: certificates of authorities, client certificate and key.

Only reads the files, and connects to nothing. A module of its own because `ssl` is large: of the
daemon's processes only those that need it import it.
"""

import ssl
from collections.abc import Mapping

from .files import open_regular


def why_not(
    ca_file: str, client_cert: str, client_key: str, *, copies: Mapping[str, str] | None = None
) -> str:
    """Say what is wrong with the first file that cannot be used, with its key in the
    configuration; "" where all can be used. A path that is "" is skipped. `copies` are read in
    the place of the files, by their paths."""
    read = {path: (copies or {}).get(path, path) for path in (ca_file, client_cert, client_key)}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for key, path in (
        ("ca_file", ca_file),
        ("client_cert", client_cert),
        ("client_key", client_key),
    ):
        try:
            if path:
                open_regular(read[path]).close()  # OpenSSL would wait for the writer of a FIFO
        except OSError as error:
            return f"{key}: cannot read {path}: {error.strerror or error}"
    try:
        if ca_file:
            context.load_verify_locations(read[ca_file])
    except ssl.SSLError:
        return f"ca_file: {ca_file} holds no certificate"
    try:
        if client_cert:
            context.load_cert_chain(read[client_cert], read[client_key], password=_no_password)
    except _EncryptedError:
        return f"client_key: {client_key} is encrypted, and nobody is there to decrypt it"
    except ssl.SSLError as error:
        reason = "they do not belong together" if "MISMATCH" in str(error) else "they are no PEM"
        return f"client_cert: cannot use {client_cert} with {client_key}: {reason}"
    return ""


class _EncryptedError(Exception):
    """OpenSSL asks for a password; without this it would ask on a terminal."""


def _no_password() -> str:
    raise _EncryptedError
