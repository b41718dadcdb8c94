"""Probes of the kernel's services that no process of the daemon can do without.

A hardened unit, an old seccomp profile, or a chroot may refuse any of them. Refused later, it
would be a trace in the middle of a start, or the end of the process: libzmq aborts where it is
given no thread (facts P33, P34).
"""

import os
import select
import signal
import socket
from collections.abc import Callable

from ...ipc.thread_probe import thread_refused
from ...workers.host import procfs
from ...workers.host.linux import become_subreaper

#: Nothing can be executed there, so a process that is made for it ends at once.
_NO_PROGRAM = f"{os.devnull}/none"
_MADE = (FileNotFoundError, NotADirectoryError)


def why_not() -> str:
    """Say which service is refused, and where that comes from; "" where all are there. Leaves
    nothing behind."""
    for service, probe in _PROBES.items():
        try:
            probe()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            return f"cannot use {service} ({reason}): {_HINTS[service]}"
    return ""


def _own_process() -> None:
    if procfs.stat(os.getpid()) is None:
        raise OSError("it is not mounted, or not of this process's namespace")


def _pidfd() -> None:
    pidfd = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(pidfd, 0)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return  # this process is no child of its own: the kernel knows the question
    finally:
        os.close(pidfd)


def _process() -> None:
    try:
        os.posix_spawn(_NO_PROGRAM, [_NO_PROGRAM], {})
    except _MADE:
        return


def _thread() -> None:
    if refused := thread_refused():
        raise refused


def _memory_file() -> None:
    os.close(os.memfd_create("geosched-probe"))


def _sockets() -> None:
    """Accept a connection, and send a descriptor."""
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).close()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as peer:
        listener.bind(b"")  # an abstract name of the kernel's choice (unix(7))
        listener.listen(1)
        peer.connect(listener.getsockname())
        listener.accept()[0].close()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        socket.send_fds(ours, [b"!"], [ours.fileno()])
        for descriptor in socket.recv_fds(theirs, 1, 1)[1]:
            os.close(descriptor)


def _events() -> None:
    select.epoll().close()
    os.close(os.eventfd(0))


_UNIT = "a unit must not hide it (ProcSubset=, ProtectProc=), nor a chroot lack it"
_SECCOMP = (
    "it needs Linux 5.4 or later, and a seccomp profile (SystemCallFilter=, that of an old"
    " container) must allow it"
)
_PROBES: dict[str, Callable[[], object]] = {
    "/proc": _own_process,
    "/proc/sys/kernel/random/boot_id": procfs.boot_id,
    "pidfd_open, pidfd_send_signal and waitid": _pidfd,
    "new processes (clone3)": _process,
    "new threads (clone3)": _thread,
    "memfd_create": _memory_file,
    "prctl PR_SET_CHILD_SUBREAPER": become_subreaper,
    "sockets of AF_UNIX": _sockets,
    "epoll and eventfd": _events,
}
_HINTS = {service: _UNIT if service.startswith("/proc") else _SECCOMP for service in _PROBES}
