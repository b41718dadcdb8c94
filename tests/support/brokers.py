"""File brokers, each in a process of its own; a test has the other end of the socket."""

import contextlib
import os
import socket
from collections.abc import Iterator

from geosched.ipc.messages.sync import BackendAddress
from geosched.workers.host import log_lines
from geosched.workers.host.log_relay import DroppingHandler
from geosched.workers.sync import broker
from geosched.workers.sync.allowance import Allowances


@contextlib.contextmanager
def served_broker(
    backend: BackendAddress, allowed: Allowances | None = None, asker: int | None = None
) -> Iterator[socket.socket]:
    """A synchroniser's end of a broker, which has to leave without an error after that. It serves
    the process of the pidfd `asker`, this one where there is none."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asker = os.pidfd_open(os.getpid()) if asker is None else os.dup(asker)
    pid = os.fork()
    if pid == 0:
        ours.close()
        log_lines.set_up("info", "json", DroppingHandler(2))
        os._exit(broker.main(theirs.detach(), backend, asker=asker, allowed=allowed))
    os.close(asker)
    theirs.close()
    try:
        with ours:
            ours.settimeout(10)
            yield ours
    finally:
        status = os.waitpid(pid, 0)[1]
    assert status == 0
