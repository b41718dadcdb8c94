"""Watch over `runtime_dir`: what others remove from it, by accident or as old, is made anew.

Without its sockets the daemon could not be asked, and no worker could connect. Connections that
exist outlive their socket's file, so nobody notices the making.
"""

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ...ipc.paths import Runtime
from ...workers.host import trust
from ...workers.host.linux import open_removal_watch, watch_removals
from ...workers.runfiles.processes import make_directories
from ..core.model import Instant
from ..participant import News, Participant
from .locks import AlreadyRunningError, DirectoryLock

log = logging.getLogger(__name__)

#: What no notification tells of (a mount above the directory) is found by the next turn that is
#: this long after the last look.
LOOK_SECONDS = 10.0
#: Whoever removes a whole directory is to find it empty in the end: the look comes when nothing
#: has been removed for this long.
SETTLE_SECONDS = 1.0
SETTLE_SECONDS_MAX = 5.0
_EVENTS_BYTES = 64 * 1024
#: Descriptors that sockets made anew may have left open before children give room for more, and
#: before that is told: as many are always spare.
DESCRIPTORS_LEFT_SPARE = 8


class Listener(Protocol):
    """A server that listens at a socket file."""

    path: Path
    rebind_leaves_descriptors: int

    def in_place(self) -> bool:
        """Its own socket is at `path`."""

    def rebind(self) -> None:
        """Listen at `path` once more; connections that exist go on. Raises `OSError`."""


class RuntimeDirWatch(Participant):
    """A look at `runtime_dir` whenever something is removed from it.

    `readable` is a descriptor that is readable then, None where the host gives none. What cannot
    be made is told once, and tried again with each look. `set_aside` keeps so many descriptors, in
    all, from children; False where they would be too few.
    """

    def __init__(
        self,
        runtime: Runtime,
        lock: DirectoryLock,
        listeners: Sequence[Listener],
        set_aside: Callable[[int], bool],
    ) -> None:
        self.readable = _removal_watch()
        self._runtime = runtime
        self._lock = lock
        # In this order: a daemon that can listen for no more workers can still be asked.
        self._listeners = sorted(listeners, key=lambda each: each.rebind_leaves_descriptors)
        self._set_aside = set_aside
        self._descriptors_left = 0
        self._made = os.stat(runtime.dir)
        self._store_lock = _inode(runtime.store_lock)
        self._told = ""
        self._looked_monotonic = 0.0
        self._removed_monotonic: float | None = None  # the first removal since the last look
        self._due_monotonic: float | None = None

    def close(self) -> None:
        if self.readable is not None:
            os.close(self.readable)

    def next_deadline(self, _now: Instant) -> float | None:
        return self._due_monotonic

    def gather(self, _news: News, now: Instant) -> None:
        seconds = now.monotonic_seconds
        if self._notified():
            self._removed_monotonic = self._removed_monotonic or seconds
            latest = self._removed_monotonic + SETTLE_SECONDS_MAX
            self._due_monotonic = min(seconds + SETTLE_SECONDS, latest)
        due = self._looked_monotonic + LOOK_SECONDS
        if seconds >= (due if self._due_monotonic is None else self._due_monotonic):
            self._removed_monotonic = self._due_monotonic = None
            self._looked_monotonic = seconds
            self._look()

    def _notified(self) -> bool:
        if self.readable is None:
            return False
        try:
            return bool(os.read(self.readable, _EVENTS_BYTES))
        except BlockingIOError:
            return False

    def _look(self) -> None:
        made: list[str] = []
        try:
            self._mend(made)
            self._look_for_store_lock()
        except (OSError, AlreadyRunningError) as error:
            if self._told != str(error):
                log.error(
                    "Cannot make anew what was removed from %s: %s",
                    self._runtime.dir,
                    error,
                    extra={"event": "runtime-dir-lost"},
                )
            self._told = str(error)
        else:
            self._told = ""
        if made:
            log.warning(
                "Made anew in %s, from where others had removed it: %s",
                self._runtime.dir,
                ", ".join(made),
                extra={"event": "runtime-dir-mended"},
            )

    def _mend(self, made: list[str]) -> None:
        """Make what is missing, and add its names to `made`. Raises `OSError`,
        `AlreadyRunningError`."""
        runtime = self._runtime
        if not runtime.dir.is_dir():
            runtime.dir.mkdir()
            with contextlib.suppress(PermissionError):  # a group that we are not in
                os.chown(runtime.dir, -1, self._made.st_gid)
            runtime.dir.chmod(stat.S_IMODE(self._made.st_mode))
            made.append("the directory")
        if _changeable_by(runtime.dir.stat()) != _changeable_by(self._made):
            self._refuse_others()
        if self.readable is not None:
            watch_removals(self.readable, runtime.dir)  # the same directory is watched once
        directories = (runtime.runs, runtime.results, runtime.processes, runtime.notify)
        missing = [path for path in directories if not path.is_dir()]
        make_directories(runtime)
        made += [path.name for path in missing]
        # Before the sockets: they may be another daemon's by now.
        if not self._lock.in_place():
            self._lock.take_anew()
            made.append("lock")
        for listener in self._listeners:
            if not listener.in_place():
                self._rebind(listener)
                made.append(listener.path.name)

    def _rebind(self, listener: Listener) -> None:
        """Raises `OSError`, also where that would leave too few descriptors for children: with
        none, libzmq ends the process (fact Z6)."""
        left = self._descriptors_left + listener.rebind_leaves_descriptors
        beyond = left - DESCRIPTORS_LEFT_SPARE
        if listener.rebind_leaves_descriptors and beyond > 0 and not self._set_aside(beyond):
            raise OSError(f"{listener.path} was removed too often: start the daemon anew")
        listener.rebind()
        if left > self._descriptors_left and beyond > 0:
            log.warning(
                "%d descriptors are lost to sockets that others removed from %s: find out who does"
                " that; only a start of the daemon brings them back",
                left,
                self._runtime.dir,
                extra={"event": "descriptors-lost", "descriptors": left},
            )
        self._descriptors_left = left

    def _refuse_others(self) -> None:
        """Use another directory than that of the start only where nobody else can write it, as at
        a start. Raises `OSError`."""
        if os.geteuid() != trust.ROOT:
            return
        if reason := trust.why_not(self._runtime.dir):
            raise PermissionError(f"others can write it: {reason}")

    def _look_for_store_lock(self) -> None:
        """Tell, once, that LMDB's lock file is gone. Only opening the store makes it anew, and
        until then its other readers are not known to it (fact 7)."""
        if self._store_lock is not None and _inode(self._runtime.store_lock) != self._store_lock:
            self._store_lock = None
            log.error(
                "%s was removed: start the daemon anew before you use `geosched-ctl db`",
                self._runtime.store_lock,
                extra={"event": "store-lock-lost"},
            )


def _changeable_by(found: os.stat_result) -> tuple[int, ...]:
    """Return what tells directories apart, and who may write them: a number is used again. Workers
    let everybody search this one (`runs/notify.py`)."""
    mode = found.st_mode & ~(stat.S_IXGRP | stat.S_IXOTH)
    return found.st_dev, found.st_ino, found.st_uid, found.st_gid, mode


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _removal_watch() -> int | None:
    try:
        return open_removal_watch()
    except OSError as error:  # a user has a limited number of them
        log.info("What is removed from runtime_dir will be seen late: %s", error)
        return None
