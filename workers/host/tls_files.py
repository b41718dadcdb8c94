"""Checks of the configured TLS files: certificates of authorities, client certificate and key; and
the dates of certificates.

Only reads the files, and connects to nothing. A module of its own because `ssl` is large: of the
daemon's processes only those that need it import it.
"""

import re
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from ...ipc.instants import to_us
from .files import open_regular

#: Of a file of authorities, which may hold all that are public.
CERTIFICATES_BYTES_MAX = 8 * 1024 * 1024
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
#: Tags of DER (X.690): what a certificate is made of, and its two forms of a time (RFC 5280, 4.1).
_SEQUENCE, _VERSION = 0x30, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_TIME = re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z")


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


class Validity(NamedTuple):
    """The time in which a certificate is valid, in microseconds since 1970."""

    begins_us: int
    ends_us: int


def validities(pem: str) -> list[Validity]:
    """Return the times of the certificates in a text, in its order. Raises `ValueError` for what
    is no certificate."""
    return [_validity(ssl.PEM_cert_to_DER_cert(found)) for found in _PEM.findall(pem)]


def validities_in(path: str) -> list[Validity]:
    """Return the times of the certificates in a file. Raises `OSError`, `ValueError`."""
    with open_regular(path) as file:
        return validities(file.read(CERTIFICATES_BYTES_MAX).decode("ascii", errors="replace"))


def _validity(der: bytes) -> Validity:
    """Return the dates in an encoded certificate, which Python's `ssl` does not tell of a file, nor
    of a peer that it has not verified (fact P70). Raises `ValueError`."""
    ((_, certificate),) = _parts(der)
    _, signed = next(_parts(certificate), (0, b""))
    fields = [(tag, value) for tag, value in _parts(signed) if tag != _VERSION]
    if len(fields) < 4 or fields[3][0] != _SEQUENCE:
        raise ValueError("it is no certificate")
    begins, ends = (_time_us(tag, value) for tag, value in _parts(fields[3][1]))
    return Validity(begins, ends)


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each value. Raises `ValueError`."""
    at = 0
    while at < len(der):
        if at + 2 > len(der):
            raise ValueError("it is cut off")
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        if at + length > len(der):
            raise ValueError("it is cut off")
        yield tag, der[at : at + length]
        at += length


def _time_us(tag: int, value: bytes) -> int:
    if tag == _UTC_TIME:  # with two digits for the years from 1950 to 2049
        value = (b"20" if value < b"5" else b"19") + value
    elif tag != _GENERALIZED_TIME:
        raise ValueError("it has no dates")
    # Not by strptime, which imports late: by then this process may have no right to.
    if (found := _TIME.fullmatch(value)) is None:
        raise ValueError("it has dates of another form")
    year, month, day, hour, minute, second = map(int, found.groups())
    return to_us(datetime(year, month, day, hour, minute, second, tzinfo=UTC))
