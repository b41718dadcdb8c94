"""Whether the files that TLS is to go by can be used: certificates of authorities, our own
certificate and its key. Reads them and nothing else; whom they convince is not known here.
"""

import ssl
from pathlib import Path


def why_not(ca_file: str, client_cert: str, client_key: str) -> str:
    """What is wrong with the first file that cannot be used, named by its key in the
    configuration; "" where nothing is. A path that is "" is not looked at."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for key, path in (
        ("ca_file", ca_file),
        ("client_cert", client_cert),
        ("client_key", client_key),
    ):
        try:
            if path:
                Path(path).open("rb").close()
        except OSError as error:
            return f"{key}: cannot read {path}: {error.strerror}"
    try:
        if ca_file:
            context.load_verify_locations(ca_file)
    except ssl.SSLError:
        return f"ca_file: {ca_file} holds no certificate"
    try:
        if client_cert:
            context.load_cert_chain(client_cert, client_key, password=_no_password)
    except _EncryptedError:
        return f"client_key: {client_key} is encrypted, and nobody is there to decrypt it"
    except ssl.SSLError as error:
        reason = "they do not belong together" if "MISMATCH" in str(error) else "they are no PEM"
        return f"client_cert: cannot use {client_cert} with {client_key}: {reason}"
    return ""


class _EncryptedError(Exception):
    """OpenSSL asks for a password, and else would ask on a terminal."""


def _no_password() -> str:
    raise _EncryptedError
