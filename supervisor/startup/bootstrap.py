"""Bootstrap of the daemon (law 15): locks, signals, and the beginning of examination and sweep.

The examination of the store and the sweep of an earlier daemon's processes take time, so they
are begun before anything large is imported: the loop, LMDB, ZeroMQ.
"""

import contextlib
import os
import signal

import msgspec

from ...ipc.paths import Runtime
from ...workers.host.linux import become_subreaper, open_files_max, raise_open_files
from ...workers.runfiles.processes import make_directories
from ..config.descriptors import Descriptors, shortage
from ..config.sections import Settings, SettingsError
from ..host.locks import DirectoryLock
from ..host.sd_notify import ServiceManager
from ..store.tools import child_process
from ..store.tools.child_process import ChildProcess
from .mark import mark_of
from .script_users import script_users
from .sweep import Leftovers


class Bootstrap(msgspec.Struct):
    """Locks, signals and processes that `prepare` opened.

    `open_files` is the soft limit that this process was given, `descriptors` what the raised
    one leaves room for, `wakeup` the read end of the
    pipe that signals are written into, `examination` None where it could not be begun.
    """

    manager: ServiceManager
    runtime: Runtime
    runtime_lock: DirectoryLock
    open_files: int
    descriptors: Descriptors
    wakeup: int
    examination: ChildProcess | None
    leftovers: Leftovers


def prepare(settings: Settings, opened: contextlib.ExitStack) -> Bootstrap:
    """Take the locks and begin what takes long; `opened` closes all of it in reverse order.

    Raises `AlreadyRunningError`, `OSError`, and `SettingsError` where the limit of descriptors
    is too low for one run.
    """
    open_files = raise_open_files()[0]
    descriptors = _descriptors()
    manager = ServiceManager()
    opened.callback(manager.close)
    daemon = settings.daemon
    runtime = Runtime(daemon.runtime_dir)
    opened.callback(DirectoryLock(daemon.state_dir).close)
    lock = DirectoryLock(daemon.runtime_dir)
    opened.callback(lock.close)
    make_directories(runtime)
    wakeup = _record_signals(opened)
    become_subreaper()
    examination = child_process.begin_to_examine(daemon.state_dir)
    leftovers = Leftovers(
        runtime, mark_of(daemon.state_dir), daemon.log_dir, script_users(settings)
    )
    leftovers.begin_sweep()
    opened.callback(leftovers.close)
    return Bootstrap(
        manager, runtime, lock, open_files, descriptors, wakeup, examination, leftovers
    )


def _descriptors() -> Descriptors:
    limit = open_files_max()
    if reason := shortage(limit):
        raise SettingsError(f"cannot start: {reason}")
    return Descriptors.within(limit)


def _record_signals(opened: contextlib.ExitStack) -> int:
    """Have signals written into a pipe; return the end that the loop polls (law 7, fact Z10).

    Whoever started the daemon may have them blocked, and a mask goes through exec (fact P9).
    """
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    opened.callback(os.close, reader)
    opened.callback(os.close, writer)
    opened.callback(signal.set_wakeup_fd, -1)
    return reader
