"""Probe of a backend, for `geosched-ctl doctor`: one pull as a daemon makes it, applied nowhere;
how far the backend's clock is from ours; the dates of its certificate.

Run by root, this process has no rights while it speaks to the network, and a file broker opens
the files that it needs (`unprivileged.py`). It prints one line of JSON
(`ipc/messages/first_run.py`); who started it ends it once its time is over.

    python -P -m geosched.workers.sync.probe DESCRIPTOR OWNER
"""

import os
import ssl
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec

from ...ipc.backends import BACKENDS
from ...ipc.messages.first_run import NAME_CHARS_MAX, Dates, Probed
from ...ipc.messages.sync import DETAIL_CHARS_MAX, BackendAddress, ErrorKind, Pull
from ..host import privileges, tls_files
from . import unprivileged
from .backend_files import BackendFiles
from .base import ExchangeError, Snapshot
from .synchroniser import bound_memory, load_backend

#: Of a handshake that is made for the dates of a certificate.
HANDSHAKE_SECONDS_MAX = 5.0
#: Answers of a backend that did not come by way of it, or not at all.
_NOT_REACHED = (ErrorKind.UNREACHABLE, ErrorKind.TIMEOUT, ErrorKind.UNTRUSTED, ErrorKind.LOCAL)


def main() -> None:
    unprivileged.set_up_process()
    given, owner = sys.argv[1:]
    with os.fdopen(int(given), "rb") as file:
        backend = msgspec.json.decode(file.read(), type=BackendAddress)
    try:
        load = load_backend(backend.kind).prepare
        files = unprivileged.files_of(backend, int(owner), load)
        bound_memory(backend.max_body_bytes)
        found = probed(backend, files)
    except (OSError, privileges.UnusableUserError) as error:
        detail = f"cannot become the user of backend.user: {error}"
        found = Probed(ErrorKind.LOCAL, detail[:DETAIL_CHARS_MAX])
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")


def probed(backend: BackendAddress, files: BackendFiles) -> Probed:
    """Return what came of one pull, and what else can be seen of the backend."""
    found = _pulled(backend, files)
    if BACKENDS[backend.kind].local:
        return found
    if found.failed not in _NOT_REACHED:
        found = msgspec.structs.replace(found, ahead_seconds=_ahead_seconds(backend, files))
    return msgspec.structs.replace(found, certificates=tuple(_certificates(backend)))


def _pulled(backend: BackendAddress, files: BackendFiles) -> Probed:
    try:
        order = Pull(1, backend, time.time_ns() // 1000)
        answer = load_backend(backend.kind, lambda _: files).pull(order)
    except ExchangeError as error:
        return Probed(error.kind, error.detail[:DETAIL_CHARS_MAX])
    except MemoryError:
        return Probed(ErrorKind.TOO_LARGE, "its answer needs more memory than a pull may use")
    if not isinstance(answer, Snapshot):
        return Probed(ErrorKind.BAD_ANSWER, "it has no news of what nobody has")
    return Probed(actions=len(answer.actions), set_aside=answer.set_aside_total)


def _ahead_seconds(backend: BackendAddress, files: BackendFiles) -> float | None:
    """Return by how much the backend's clock is ahead of ours, by the `Date` of an answer, which
    has whole seconds; None where it has none. Whatever it answers will do: no token is sent."""
    from .http.client import Exchange  # late: a backend of this host needs no `requests`
    from .http.errors import http_date

    try:
        with Exchange(backend, files) as exchange:
            before = time.time()
            answer = exchange.fetch("HEAD", backend.url, {})
            after = time.time()
    except ExchangeError:
        return None
    date = http_date(answer.headers.get("Date", ""))
    if date is None:
        return None
    # It was cut to its second somewhere between the two.
    told = date.timestamp()
    if told <= after and told + 1 >= before:
        return 0.0
    return round(told - after if told > after else told + 1 - before, 3)


def _certificates(backend: BackendAddress) -> Iterator[Dates]:
    """Yield the dates of those whom we speak to, whether they are to be trusted or not: they are
    sent nothing here. Those behind a proxy are left out."""
    urls = (backend.url, backend.oauth_token_url)
    parts = (urlsplit(url) for url in urls if url.startswith("https:"))
    hosts = dict.fromkeys((each.hostname or "", each.port or 443) for each in parts)
    for host, port in () if backend.proxy else hosts:
        try:
            pem = ssl.get_server_certificate((host, port), timeout=HANDSHAKE_SECONDS_MAX)
            (dates,) = tls_files.validities(pem)
        except (OSError, ValueError):
            continue  # that it cannot be spoken to, the pull has found
        yield Dates(f"{host}:{port}"[:NAME_CHARS_MAX], dates.begins_us, dates.ends_us)


if __name__ == "__main__":
    main()
