"""The few things that only the C library offers. The only importer of `ctypes`.

Each function is one call; what it is good for is decided by its callers.
"""

import contextlib
import ctypes
import gc
import os
import resource
import sys
import time
from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_MEMORY_MERGE = 67
_STA_UNSYNC = 0x0040
_TIME_ERROR = 5
_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2
_MADV_DONTNEED = 4

_PTRACE_CONT = 7
_PTRACE_DETACH = 17
_PTRACE_SEIZE = 0x4206
_PTRACE_O_TRACEEXEC = 1 << 4
_PTRACE_O_EXITKILL = 1 << 20
#: `si_status` of a process that `hold_at_exec` has stopped: SIGTRAP, and PTRACE_EVENT_EXEC.
HELD_AT_EXEC = 5 | 4 << 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


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


def merge_pages() -> None:
    """Let the kernel keep only once what is alike in this process, in others that allow it, and
    in what they fork from here on; which it does where the host has that turned on
    (Documentation/admin-guide/mm/ksm.rst). Raises `OSError`: before Linux 6.4."""
    _prctl(_PR_SET_MEMORY_MERGE, 1)


def give_memory_back() -> None:
    """Let the system have what this process has freed, with what Python keeps for later; not
    every C library can. And what it has read of files that it maps and shares, which stays in
    the cache of the kernel as long as that likes."""
    gc.collect()
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)
    with contextlib.suppress(OSError):  # then it keeps them
        for begin, end in _shared_maps():
            _libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_DONTNEED)


def _shared_maps() -> Iterator[tuple[int, int]]:
    """The addresses of maps of files that are shared (`MAP_SHARED`): nothing in them is ours
    alone, so that nothing is lost when they are read anew."""
    with open("/proc/self/maps") as lines:
        for line in lines:
            addresses, rights, *_, name = line.split(maxsplit=5)
            if rights.endswith("s") and name.startswith("/"):
                begin, end = addresses.split("-")
                yield int(begin, 16), int(end, 16)


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


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_seconds", ctypes.c_long),
        ("interval_nanoseconds", ctypes.c_long),
        ("value_seconds", ctypes.c_long),
        ("value_nanoseconds", ctypes.c_long),
    )


def open_clock_set_timer() -> int:
    """A descriptor that is readable after the wall clock was set, or the host has slept
    (fact P19); reading it then fails with ECANCELED, and it goes on. Raises `OSError`."""
    descriptor = _libc.timerfd_create(time.CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise _last_error("timerfd_create")
    never = _Itimerspec(0, 0, min(sys.maxsize, 2**40), 0)
    flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
    if _libc.timerfd_settime(descriptor, flags, ctypes.byref(never), None) != 0:
        error = _last_error("timerfd_settime")
        os.close(descriptor)
        raise error
    return int(descriptor)


def hold_at_exec(child: int) -> None:
    """Have a child stop before its first instruction once it has become another program.

    It is killed should the calling thread end before it lets it go. A program whose file
    gives it rights does not get them while it is held so (ptrace(2), execve(2)). Raises
    `OSError`: not every host allows it.
    """
    _ptrace(_PTRACE_SEIZE, child, _PTRACE_O_TRACEEXEC | _PTRACE_O_EXITKILL)


def let_run(child: int, si_status: int) -> None:
    """Let a child go on that `waitid` says is trapped: for good where it was held at its
    exec, else with the signal that it was about to get. Raises `OSError` where it is gone."""
    if si_status == HELD_AT_EXEC:
        _ptrace(_PTRACE_DETACH, child, 0)
    else:
        _ptrace(_PTRACE_CONT, child, 0 if si_status >> 8 else si_status)


def _ptrace(request: int, pid: int, data: int) -> None:
    if _libc.ptrace(request, pid, None, data) != 0:
        raise _last_error("ptrace")


def _last_error(call: str) -> OSError:
    error = ctypes.get_errno()
    return OSError(error, f"cannot {call}: {os.strerror(error)}")


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot prctl {option}: {os.strerror(error)}")
