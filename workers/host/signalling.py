"""Signals to processes that are known by pid and start time, and to nobody else (law 13)."""

import errno
import os
import signal

from . import procfs
from .procfs import Identity, Stat

#: Of `pidfd_open`, for a number that no process has: of the last two one is said, by the kernel's
#: age, where a thread has it by now (fact P30).
_NO_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)


def signal_process(known: Stat | Identity, number: int) -> None:
    """Signal this very process. Its pid may be another's by now, a pidfd never is: so the pidfd
    is opened first, then the start time compared (fact P6)."""
    try:
        pidfd = os.pidfd_open(known.pid)
    except OSError as error:
        if error.errno in _NO_PROCESS:
            return
        raise
    try:
        if procfs.start_ticks(known.pid) == known.start_ticks:
            signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        return  # gone; or now another user's: then it stays, and is reported as stuck
    finally:
        os.close(pidfd)
