"""What a daemon stands on before it decides anything (law 15): locks, signals, nothing left of
an earlier one, the zygote. And the store, which is being looked at meanwhile.

It imports nothing of the loop, and neither LMDB nor ZeroMQ: those are imported by the time
that the store has been looked at and the zygote is there.
"""

import contextlib
import os
import signal
import time

import msgspec

from ..ipc.places import Runtime
from ..workers.identity import make_directories
from ..workers.linux import become_subreaper, raise_open_files
from ..workers.spawn import Zygote
from .children import Children
from .locks import DirectoryLock
from .servicemanager import ServiceManager
from .settings import Settings
from .store import storechild
from .store.storechild import StoreChild
from .sweep import Leftovers


class Foundation(msgspec.Struct):
    """`examination` is None where it could not be begun; `wakeup` is the reading end of the
    pipe that signals are written into."""

    manager: ServiceManager
    runtime: Runtime
    wakeup: int
    examination: StoreChild | None
    leftovers: Leftovers
    children: Children


def lay(settings: Settings, opened: contextlib.ExitStack, *, log_level: str) -> Foundation:
    """`opened` closes it in reverse. Raises `AlreadyRunningError`, `OSError`."""
    open_files = raise_open_files()[0]
    manager = ServiceManager()
    opened.callback(manager.close)
    daemon = settings.daemon
    runtime = Runtime(daemon.runtime_dir)
    for directory in (daemon.state_dir, daemon.runtime_dir):
        opened.callback(DirectoryLock(directory).close)
    make_directories(runtime)
    wakeup = _record_signals(opened)
    become_subreaper()
    examination = storechild.begin_to_examine(daemon.state_dir)
    leftovers = Leftovers(runtime, daemon.state_dir)
    leftovers.sweep()
    opened.callback(leftovers.close)
    children = _children(opened, runtime, leftovers.instance, log_level, open_files)
    children.start(time.monotonic())
    return Foundation(manager, runtime, wakeup, examination, leftovers, children)


def _record_signals(opened: contextlib.ExitStack) -> int:
    """Signals become bytes in a pipe that the loop polls (law 7, fact Z10)."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    opened.callback(os.close, reader)
    opened.callback(os.close, writer)
    opened.callback(signal.set_wakeup_fd, -1)
    return reader


def _children(
    opened: contextlib.ExitStack, runtime: Runtime, instance: str, log_level: str, open_files: int
) -> Children:
    """The lifeline: only this process holds its write end, so that its end, however
    it comes about, is seen by every worker (law 11)."""
    lifeline, held = os.pipe2(os.O_CLOEXEC)
    opened.callback(os.close, lifeline)
    opened.callback(os.close, held)

    def start_zygote() -> Zygote:
        return Zygote(
            lifeline=lifeline,
            runtime_dir=runtime.dir,
            instance=instance,
            log_level=log_level,
            open_files=open_files,
        )

    children = Children(start_zygote)
    opened.callback(children.close)
    return children
