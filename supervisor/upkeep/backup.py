"""Periodic backups of daemonDB, each made in a process of its own (law 2).

The copying itself is in `store/tools/backups.py`.
"""

import logging
import os

from ...ipc.instants import FIRST_US, LAST_US, SECOND_US
from ...workers.host.liveness import patience_seconds
from ..config.sections import DaemonSettings
from ..core.model import Instant
from ..host.children import Child, Children
from ..participant import News, Participant
from ..store.daemondb import DaemonDB
from ..store.files import StorePaths
from ..store.tools import backups
from ..store.tools.child_process import ChildProcess

log = logging.getLogger(__name__)

#: A backup that takes longer is killed; doubled with each that was, until one is made (law 17),
#: up to the hour after which such a process ends of itself.
PERIODIC_BACKUP_SECONDS_MAX = 600.0
PERIODIC_BACKUP_SECONDS_LONGEST = 3600.0
_CHILD = "backup"


class Backup(Participant):
    """Makes one backup at a time, where daemonDB has changed since the last.

    `error` is the reason for which the last attempt failed, None where it did not; `last_us` is
    the instant of the newest backup. `settings` may be replaced at any time.
    """

    def __init__(self, db: DaemonDB, children: Children, settings: DaemonSettings) -> None:
        self.settings = settings
        self.error: str | None = None
        self._db = db
        self._children = children
        self._paths = StorePaths(settings.state_dir)
        self._child: ChildProcess | None = None
        self._kill_at_monotonic = 0.0
        self._failures = 0  # since the last that was made
        self._copied_transaction: int | None = None
        self.last_us = self._newest_us()

    def begin_if_due(self, now: Instant) -> None:
        """Begin a backup where the newest is older than the interval."""
        interval = self.settings.backup_interval_seconds
        unchanged = self._copied_transaction == self._db.last_transaction
        if not interval or self._child is not None or unchanged:
            return
        if self.last_us is not None and not now.trusted:
            return
        if self.last_us is not None and 0 <= now.wall_us - self.last_us < interval * SECOND_US:
            return
        self._begin(now)

    def gather(self, news: News, now: Instant) -> None:
        """Notice the end of a backup; kill one that takes too long."""
        if self._child is None:
            return
        if _CHILD in news.gone:
            self._done(self._child, now)
        elif now.monotonic_seconds >= self._kill_at_monotonic:
            self._child.kill()

    def next_deadline(self, _now: Instant) -> float | None:
        """Return when a backup under way is killed, in monotonic seconds; None for none."""
        return None if self._child is None else self._kill_at_monotonic

    def close(self) -> None:
        """Kill a backup under way: the daemon leaves, and half a backup is none."""
        if self._child is not None:
            self._child.kill()

    def _begin(self, now: Instant) -> None:
        self._copied_transaction = self._db.last_transaction
        try:
            child = ChildProcess("backup-own", self._paths.state_dir)
        except OSError as error:
            self._failed(str(error))
            return
        try:
            watched = os.dup(child.pidfd)
        except OSError as error:
            child.abandon()
            self._failed(str(error))
            return
        self._children.adopt(Child(_CHILD, child.pid, watched))
        self._child = child
        self._kill_at_monotonic = now.monotonic_seconds + patience_seconds(
            PERIODIC_BACKUP_SECONDS_MAX,
            tries_failed=self._failures,
            longest=PERIODIC_BACKUP_SECONDS_LONGEST,
        )

    def _done(self, child: ChildProcess, now: Instant) -> None:
        self._child = None
        answer = child.answer()
        self._db.check_readers()  # one that was killed would pin its pages (fact 7)
        if not answer.output:
            self._failed(answer.complaint or answer.died_of or "it was killed")
            return
        self.error, self.last_us, self._failures = None, now.wall_us, 0
        log.info("Backed daemonDB up", extra={"event": "backed-up"})

    def _failed(self, why: str) -> None:
        self._copied_transaction = None
        self._failures += 1
        if self.error != why:
            log.error("Cannot back daemonDB up: %s", why, extra={"event": "backup-failed"})
        self.error = why

    def _newest_us(self) -> int | None:
        """Return the date of the newest backup; None also for one that no calendar has."""
        known = backups.generations(self._paths.backups)
        try:
            newest_us = (known[-1] / "data.mdb").stat().st_mtime_ns // 1000 if known else None
        except OSError:
            return None
        return newest_us if newest_us is not None and FIRST_US <= newest_us <= LAST_US else None
