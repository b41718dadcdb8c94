"""The few things that only the C library offers. The only importer of `ctypes`.

Each function is one call; what it is good for is decided by its callers.
"""

import ctypes
import os
import resource

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STA_UNSYNC = 0x0040
_TIME_ERROR = 5

_libc = ctypes.CDLL(None, use_errno=True)


class _Timex(ctypes.Structure):
    """The beginning of `struct timex`; the rest is room for what the kernel writes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 40),
    )


def become_subreaper() -> None:
    """Descendants that lose their parent become children of this process. Raises `OSError`."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_parent_death_signal(number: int) -> None:
    """Have this process sent a signal when the thread that forked it ends. Raises `OSError`.

    It does nothing when that has happened already: compare `os.getppid()` afterwards.
    """
    _prctl(_PR_SET_PDEATHSIG, number)


def raise_open_files() -> tuple[int, int]:
    """As many descriptors as the host allows (fact 11: a daemon that runs out of them is
    aborted by its socket library). The limits as they were, for those who inherit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def clock_synchronised() -> bool:
    """Whether the kernel calls the wall clock synchronised; False where it cannot be asked."""
    answer = _Timex()
    state = _libc.adjtimex(ctypes.byref(answer))
    return state not in (-1, _TIME_ERROR) and not answer.status & _STA_UNSYNC


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot prctl {option}: {os.strerror(error)}")
