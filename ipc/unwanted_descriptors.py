"""Descriptors that strangers attach to what they send: refused, and dropped without a wait.

The last close of a descriptor is made in the call that lets go of it: a `recvmsg` without room
for it, or the close of a socket in whose queue it lies. A TCP socket waits there for as long as
its owner has set (SO_LINGER), unless a signal comes (fact P46).
"""

import contextlib
import errno
import signal
import socket

INTERRUPTED_AFTER_SECONDS = 0.001
#: <asm-generic/socket.h>, Linux 6.16 or later.
_SO_PASSRIGHTS = 83


def refuse(listener: socket.socket) -> None:
    """Have the kernel refuse descriptors to whoever connects after this. An older one cannot."""
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise


def allow_interruptions() -> None:
    """Have the signal of `interrupted` do nothing but interrupt. Of the main thread."""
    signal.signal(signal.SIGALRM, lambda *_: None)


class _Interrupted(contextlib.AbstractContextManager[None]):
    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, INTERRUPTED_AFTER_SECONDS, INTERRUPTED_AFTER_SECONDS)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


_INTERRUPTED = _Interrupted()


def interrupted() -> contextlib.AbstractContextManager[None]:
    """Let no call in here wait for longer than `INTERRUPTED_AFTER_SECONDS`, where this is the main
    thread. One that can be made again is, by Python itself."""
    return _INTERRUPTED


def close(opened: socket.socket) -> None:
    """Close a socket, in whose queue descriptors may lie."""
    with interrupted():
        opened.close()
