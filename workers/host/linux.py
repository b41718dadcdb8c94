"""Calls of the C library that Python lacks. The only importer of `ctypes`.

Each function is one call; its callers decide what to use it for.
"""

import array
import contextlib
import ctypes
import errno
import fcntl
import gc
import os
import resource
import struct
import sys
import time
from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_GET_SECUREBITS = 27
_PR_SET_SECUREBITS = 28
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_PR_SET_MEMORY_MERGE = 67
#: Of the securebits: capabilities are kept when root becomes another user.
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_SECBIT_KEEP_CAPS = 1 << 4
_CAPABILITY_VERSION_3 = 0x20080522
#: From `linux/sched.h`.
_CLONE_NEWIPC = 0x08000000
_KEYCTL_JOIN_SESSION_KEYRING = 1
#: The number of keyctl(2), which the C library has no name for, by a machine's name and the bytes
#: of a pointer: a 32-bit process may find itself on a 64-bit machine.
_KEYCTL = {
    **{(machine, 8): 219 for machine in ("aarch64", "riscv64", "loongarch64")},
    **{(machine, 4): 311 for machine in ("aarch64", "armv6l", "armv7l", "armv8l")},
    **{(machine, 4): 288 for machine in ("x86_64", "i386", "i486", "i586", "i686")},
    **{(machine, 8): 271 for machine in ("ppc64", "ppc64le")},
    ("x86_64", 8): 250,
    ("s390x", 8): 280,
}
#: More than any kernel has; the first that it does not know ends a loop over all.
_CAPABILITIES_MAX = 64
_STA_UNSYNC = 0x0040
_TIME_ERROR = 5
_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2
_MADV_DONTNEED = 4

_IN_MOVED_FROM = 0x40
_IN_DELETE = 0x200
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_IN_ONLYDIR = 0x01000000

_FALLOC_FL_UNSHARE_RANGE = 0x40
_FS_IOC_FIEMAP = 0xC020660B
#: Their numbers have the size of a long in them; the kernel reads an int.
_FS_IOC_GETFLAGS = 0x80006601 | struct.calcsize("l") << 16
_FS_IOC_SETFLAGS = 0x40006602 | struct.calcsize("l") << 16
_FS_NOCOW_FL = 0x00800000
_FIEMAP_FLAG_SYNC = 1
_FIEMAP_EXTENT_LAST = 0x1
_FIEMAP_EXTENT_SHARED = 0x2000
_FIEMAP = struct.Struct("=QQIIII")
_FIEMAP_EXTENT = struct.Struct("=QQQQQIIII")
_EXTENTS = 64

_PTRACE_CONT = 7
_PTRACE_DETACH = 17
_PTRACE_SEIZE = 0x4206
_PTRACE_O_TRACEEXEC = 1 << 4
_PTRACE_O_EXITKILL = 1 << 20
#: `si_status` of a process that `hold_at_exec` has stopped: SIGTRAP, and PTRACE_EVENT_EXEC.
HELD_AT_EXEC = 5 | 4 << 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


class _Timex(ctypes.Structure):
    """The beginning of `struct timex`; `rest` is room for the fields that are not read."""

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
    """Make descendants that lose their parent children of this process (fact P4). Raises
    `OSError`."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_parent_death_signal(number: int) -> None:
    """Have this process sent a signal when the thread that forked it ends. Raises `OSError`.

    It does nothing when that has happened already: compare `os.getppid()` afterwards (fact P3).
    """
    _prctl(_PR_SET_PDEATHSIG, number)


def let_capabilities_go() -> None:
    """Have root that becomes another user lose its capabilities, as is usual, even where whoever
    started this process has turned that off; a program that gives up root later relies on it, too
    (capabilities(7), securebits). Raises `OSError`."""
    bits = _libc.prctl(_PR_GET_SECUREBITS, *[ctypes.c_ulong(0)] * 4)
    if bits < 0:
        raise _last_error("prctl")
    keeping = bits & (_SECBIT_NO_SETUID_FIXUP | _SECBIT_KEEP_CAPS)
    unlocked = keeping & ~(bits >> 1)  # the lock of each is the next bit
    if unlocked:
        _prctl(_PR_SET_SECUREBITS, bits & ~unlocked)


def drop_capabilities() -> None:
    """Give up the permitted, effective and inheritable capabilities of this process, and with
    them the ambient ones, which are never more than those (capabilities(7)). Raises `OSError`."""
    _set_capabilities((_CapabilitySets * 2)())


def forbid_new_privileges() -> None:
    """Let no exec of this process or of its descendants give rights: set-uid, set-gid and file
    capabilities do nothing from here on (no_new_privs of prctl(2)). Raises `OSError`."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def leave_session_keyring() -> None:
    """Give this process an empty session keyring of its own in the place of the one that it
    inherited (keyctl(2)). Does nothing where the kernel has no keys or a seccomp profile refuses
    them, to all that this process starts, too. Raises `OSError`."""
    number = _KEYCTL.get((os.uname().machine, struct.calcsize("P")))
    if number is None:
        return  # a machine that is not known here
    joined = _libc.syscall(
        ctypes.c_long(number), ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), ctypes.c_void_p(None)
    )
    if joined < 0 and ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        raise _last_error("keyctl")


def leave_ipc_namespace() -> None:
    """Give this process an IPC namespace of its own: segments of shared memory, semaphores and
    message queues (sysvipc(7)) end with the last process in it. Raises `OSError`."""
    if _libc.unshare(ctypes.c_int(_CLONE_NEWIPC)) < 0:
        raise _last_error("unshare")


def forbid_tracing() -> None:
    """Keep processes of the same user from tracing this one, and from reading its memory, its
    environment and its descriptors in `/proc`. It leaves no core. Raises `OSError`."""
    _prctl(_PR_SET_DUMPABLE, 0)


class _CapabilitySets(ctypes.Structure):
    """Two of these are the data of `capget(2)`: bits 0 to 31, and 32 to 63."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def clear_inheritable_capabilities() -> None:
    """Empty this thread's inheritable and ambient sets of capabilities, which a change of user
    may leave as they are. Raises `OSError`."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    sets = (_CapabilitySets * 2)()
    if _libc.capget(_own_capabilities(), sets) != 0:
        raise _last_error("capget")
    for one in sets:
        one.inheritable = 0
    _set_capabilities(sets)


def _set_capabilities(sets: "ctypes.Array[_CapabilitySets]") -> None:
    if _libc.capset(_own_capabilities(), sets) != 0:
        raise _last_error("capset")


def _own_capabilities() -> "ctypes.Array[ctypes.c_uint32]":
    """Return the header of `capget(2)` and `capset(2)` that names the calling thread."""
    return (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)


def drop_bounding_capabilities() -> None:
    """Empty this thread's bounding set of capabilities. Raises `OSError`."""
    for capability in range(_CAPABILITIES_MAX):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return  # the kernel has no more
            raise


def merge_pages() -> None:
    """Let the kernel merge pages that are alike in this process, in others that allow it, and in
    their later forks. It does so where the host has that turned on
    (Documentation/admin-guide/mm/ksm.rst). Raises `OSError`, always before Linux 6.4."""
    _prctl(_PR_SET_MEMORY_MERGE, 1)


def give_memory_back() -> None:
    """Return memory to the system: what Python and, where it can, the C library have freed but
    keep, and the pages of files that this process maps and shares, which may stay in the
    kernel's cache."""
    gc.collect()
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)
    with contextlib.suppress(OSError):  # then the pages stay
        for begin, end in _shared_maps():
            _libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_DONTNEED)


def _shared_maps() -> Iterator[tuple[int, int]]:
    """Yield begin and end of each shared map of a file (`MAP_SHARED`): its pages can be read
    anew, so nothing is lost with them."""
    with open("/proc/self/maps") as lines:
        for line in lines:
            addresses, rights, *_, name = line.split(maxsplit=5)
            if rights.endswith("s") and name.startswith("/"):
                begin, end = addresses.split("-")
                yield int(begin, 16), int(end, 16)


def own_memory() -> "memoryview[int]":
    """View the memory of this process as words of 64 bits; the index of a word is its address
    divided by their eight bytes. To touch what is not mapped is a SIGSEGV, and nothing says what
    a word is for: who writes here answers for both."""
    words = (ctypes.c_uint64 * (sys.maxsize // ctypes.sizeof(ctypes.c_uint64))).from_address(0)
    return memoryview(words).cast("B").cast("Q")


def raise_open_files() -> tuple[int, int]:
    """Raise the soft limit of descriptors to the hard one (fact Z6: a daemon that runs out of
    them is aborted by its socket library). Returns the limits before, for scripts."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # the system's own maximum is lower by now
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def open_files_max(*, hard: bool = False) -> int:
    """Return the limit of descriptors of this process; a `hard` one is what it can be raised to."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[hard]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def clock_synchronised() -> bool:
    """The kernel calls the wall clock synchronised; False where it cannot be asked."""
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
    """Open a timer that is readable after the wall clock was set or the host has slept (fact
    P19). Reading it then fails with ECANCELED, and re-arms it. Raises `OSError`."""
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


def open_removal_watch() -> int:
    """Open a descriptor that is readable after something was removed from a directory that
    `watch_removals` was told of (`inotify(7)`). Raises `OSError`."""
    descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise _last_error("inotify_init1")
    return int(descriptor)


def watch_removals(descriptor: int, directory: str | os.PathLike[str]) -> None:
    """Watch a directory, which may be watched already: names that leave it, and its own end.
    Raises `OSError`."""
    events = _IN_MOVED_FROM | _IN_DELETE | _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_ONLYDIR
    if _libc.inotify_add_watch(descriptor, os.fsencode(directory), ctypes.c_uint32(events)) < 0:
        raise _last_error("inotify_add_watch")


def shared_bytes(descriptor: int) -> int:
    """Return the bytes of a file in blocks that other files have too (`cp --reflink`). Raises
    `OSError`, where the file system cannot tell, too."""
    shared, start, last = 0, 0, False
    while not last:
        request = _FIEMAP.pack(start, 2**63 - start, _FIEMAP_FLAG_SYNC, 0, _EXTENTS, 0)
        answer = bytearray(request + bytes(_EXTENTS * _FIEMAP_EXTENT.size))
        fcntl.ioctl(descriptor, _FS_IOC_FIEMAP, answer)
        count = _FIEMAP.unpack_from(answer)[3]
        last = count == 0
        for number in range(count):
            place = _FIEMAP.size + number * _FIEMAP_EXTENT.size
            logical, _, length, _, _, flags, *_ = _FIEMAP_EXTENT.unpack_from(answer, place)
            shared += length if flags & _FIEMAP_EXTENT_SHARED else 0
            start, last = logical + length, bool(flags & _FIEMAP_EXTENT_LAST)
    return shared


def unshare_blocks(descriptor: int, size_bytes: int) -> None:
    """Give a file blocks of its own in the place of those that it shares. Raises `OSError`."""
    fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate  # musl has only the latter
    arguments = (_FALLOC_FL_UNSHARE_RANGE, ctypes.c_int64(0), ctypes.c_int64(size_bytes))
    if fallocate(descriptor, *arguments) != 0:
        raise _last_error("fallocate")


def forbid_copy_on_write(descriptor: int) -> bool:
    """Have an empty file be written in place, where its file system would copy (btrfs). False
    where it knows of no such thing, as most do not."""
    flags = array.array("i", [0, 0])
    try:
        fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, flags)
        flags[0] |= _FS_NOCOW_FL
        fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, flags)
    except OSError:
        return False
    return True


def hold_at_exec(child: int) -> None:
    """Have a child stop at its next exec, before the first instruction of the new program.

    The kernel kills it should the calling thread end first. A program whose file gives it
    rights does not get them while it is held (ptrace(2), execve(2)). Raises `OSError`, as not
    every host allows this.
    """
    _ptrace(_PTRACE_SEIZE, child, _PTRACE_O_TRACEEXEC | _PTRACE_O_EXITKILL)


def let_run(child: int, si_status: int) -> None:
    """Let a trapped child go on: untraced where it was held at its exec, else with the signal
    that trapped it. `si_status` is from `waitid`. Raises `OSError` where the child is gone."""
    if si_status == HELD_AT_EXEC:
        _ptrace(_PTRACE_DETACH, child, 0)
    else:
        _ptrace(_PTRACE_CONT, child, 0 if si_status >> 8 else si_status)


def _ptrace(request: int, pid: int, data: int) -> None:
    if _libc.ptrace(request, pid, None, data) != 0:
        raise _last_error("ptrace")


def _last_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"cannot {call}: {os.strerror(number)}")


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero) != 0:
        raise _last_error(f"prctl {option}")
