"""Context for TLS with the configured authorities and client certificate.

OpenSSL wants paths, and what was opened for a process without rights it cannot open again: so
certificates and keys are copied into files in memory, which are gone once they are loaded.
"""

import contextlib
import os
import ssl
from collections.abc import Callable, Iterator

from urllib3.util.ssl_ import create_urllib3_context

from ....ipc.messages.broker import FileKey
from ....ipc.messages.sync import BackendAddress, ErrorKind
from ...host import tls_files
from ...host.files import in_memory
from ...host.tls_files import CERTIFICATES_BYTES_MAX
from ..backend_files import BackendFiles
from ..base import ExchangeError
from .secrets import read_private, unusable

KEY_BYTES_MAX = 64 * 1024
#: From OpenSSL's `x509_vfy.h`; Python has no name for it.
_X509_V_FLAG_NO_CHECK_TIME = 0x200000


def context_of(
    backend: BackendAddress, files: BackendFiles, public_authorities: Callable[[], str]
) -> ssl.SSLContext | None:
    """Return the context for the configured authorities and certificate, None where there are
    neither. The files are read for each exchange: they may be renewed at any time.

    A clock that is not believed says nothing about dates. Names and the chain to our own
    authority still count (fact B5); with public authorities, whose file `public_authorities`
    returns, the exchange fails until the clock is right. Raises `ExchangeError`.
    """
    if not backend.ca_file and not backend.client_cert:
        return None
    with contextlib.ExitStack() as opened:
        copies: dict[str, str] = {}
        for path, content in _read(backend, files):
            descriptor = in_memory("geosched", content)
            opened.callback(os.close, descriptor)
            copies[path] = path_to(descriptor)
        paths = (backend.ca_file, backend.client_cert, backend.client_key)
        if reason := tls_files.why_not(*paths, copies=copies):
            raise ExchangeError(ErrorKind.LOCAL, f"cannot use TLS: backend.{reason}")
        context = create_urllib3_context()
        context.load_verify_locations(copies.get(backend.ca_file) or public_authorities())
        if backend.client_cert:
            context.load_cert_chain(copies[backend.client_cert], copies[backend.client_key])
    if backend.ca_file and not backend.clock_believed:
        context.verify_flags |= ssl.VerifyFlags(_X509_V_FLAG_NO_CHECK_TIME)
    return context


def path_to(descriptor: int) -> str:
    """Return a path to an open file, for this process only."""
    return f"/proc/self/fd/{descriptor}"


def _read(backend: BackendAddress, files: BackendFiles) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each configured file. Raises `ExchangeError`."""
    if backend.client_key:
        try:
            yield backend.client_key, read_private(files, "client_key", KEY_BYTES_MAX)
        except (OSError, ValueError) as error:
            raise unusable(backend.client_key, "client key", error) from None
    if backend.ca_file:
        yield backend.ca_file, _certificates(backend.ca_file, "ca_file", files)
    if backend.client_cert:
        yield backend.client_cert, _certificates(backend.client_cert, "client_cert", files)


def _certificates(path: str, key: FileKey, files: BackendFiles) -> bytes:
    try:
        with files.open(key) as file:
            content = file.read(CERTIFICATES_BYTES_MAX + 1)
        if len(content) > CERTIFICATES_BYTES_MAX:
            raise OSError(f"it is longer than {CERTIFICATES_BYTES_MAX} bytes")
    except OSError as error:
        reason = f"cannot read {path}: {error.strerror or error}"
        raise ExchangeError(ErrorKind.LOCAL, f"cannot use TLS: backend.{key}: {reason}") from None
    return content
