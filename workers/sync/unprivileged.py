"""A process of a command that speaks to the network: its set-up, and the end of root's rights.

Run by root it forks a broker of the files that `[backend]` names, and becomes `backend.user`
before a byte of the network is read, as a synchroniser does (DESIGN 6).
"""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable

from ...ipc.messages.sync import BackendAddress
from ..host import log_lines, privileges
from ..host.linux import set_parent_death_signal
from . import broker
from .backend_files import BackendFiles, LocalFiles
from .http import deadline


def set_up_process() -> None:
    """Have this process, and its broker, end and log as one of a command does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C ends it without a traceback
    set_parent_death_signal(signal.SIGTERM)  # it hears of no terminal that is closed
    log_lines.set_up("info", "text", logging.StreamHandler())
    log_lines.log_uncaught()


def files_of(backend: BackendAddress, owner: int, load: Callable[[], None]) -> BackendFiles:
    """Return the files of the backend, some of which may be those of the user `owner`, whose the
    daemon is. As root, fork a broker of them, `load` what is imported late, and give up all
    rights. Raises `OSError`, `UnusableUserError`."""
    if privileges.drops_to(backend.user) is None:
        return LocalFiles(backend, (owner,))
    account = privileges.look_up(backend.user)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asker = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        ours.close()
        _leave_standard_output()
        sys.exit(broker.main(theirs.detach(), backend, asker=asker, trusted=(owner,)))
    os.close(asker)
    theirs.close()
    load()
    parent = os.getppid()
    privileges.prepare()
    deadline.begin()
    privileges.become(account)
    set_parent_death_signal(signal.SIGTERM)  # the kernel forgot it with the user (prctl(2))
    if os.getppid() != parent:
        sys.exit(1)
    return broker.BrokeredFiles(ours)


def _leave_standard_output() -> None:
    """Let who reads it see its end when this process ends, and not when its broker does."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
