"""Keeps daemonDB small and copied: what is forgotten when, and when a backup is due.

What may be forgotten at all is `ended.py`'s, how a copy is made `backups.py`'s. A bounded
number of actions a turn; a backup is made in a process of its own (law 2).
"""

import logging
import os
from collections.abc import Iterable

from ...ipc.instants import SECOND_US
from ..config.settings import DaemonSettings
from ..core.model import Instant
from ..host.children import Child, Children, News
from ..runs.run_order import output_path
from ..store.daemondb import DaemonDB, StoreError
from ..store.files import Places
from ..store.tools import backups
from ..store.tools.child_process import StoreChild

log = logging.getLogger(__name__)

#: Above this share of its map the store forgets earlier than `retention` says (fact L14).
SOFT_LIMIT = 0.7
BACKUP_SECONDS_MAX = 600.0
_BACKUP = "backup"


class Upkeep:
    """`settings` may be replaced at any time."""

    def __init__(self, db: DaemonDB, children: Children, settings: DaemonSettings) -> None:
        self.settings = settings
        self.backup_error: str | None = None
        self._db = db
        self._children = children
        self._places = Places(settings.state_dir)
        self._cursor: bytes | None = None
        self._pressed = False
        self._forgotten = 0
        self._child: StoreChild | None = None
        self._child_deadline = 0.0
        self._copied_transaction: int | None = None
        self.last_backup_us = self._newest_backup_us()

    # --- what the duties ask for --------------------------------------------------------

    def look_for_old(self) -> None:
        """Begin to look through what is over, from its oldest end on."""
        if self._cursor is None:
            self._cursor, self._pressed, self._forgotten = b"", False, 0

    def back_up_if_due(self, now: Instant) -> None:
        interval = self.settings.backup_interval_seconds
        unchanged = self._copied_transaction == self._db.last_transaction
        if not interval or self._child is not None or unchanged:
            return
        last = self.last_backup_us
        if last is not None and not now.trusted:
            return
        if last is not None and 0 <= now.wall_us - last < interval * SECOND_US:
            return
        self._begin_backup(now)

    # --- the turns of the loop ----------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether the next turn has more to forget."""
        return self._cursor is not None

    def next_deadline(self) -> float | None:
        return None if self._child is None else self._child_deadline

    def gather(self, news: News, now: Instant, *, applying: bool = False) -> None:
        """Nothing is forgotten while a snapshot is `applying`: it may hold it again (S6)."""
        if self._child is not None and _BACKUP in news.gone:
            self._backup_done(self._child, now)
        elif self._child is not None and now.monotonic_seconds >= self._child_deadline:
            self._child.kill()
        if self._cursor is not None and not applying:
            self._forget_some(self._cursor, now)

    def close(self) -> None:
        """The daemon leaves: half a backup is none."""
        if self._child is not None:
            self._child.kill()

    def remove_output(self, run_ids: Iterable[str]) -> None:
        """The output of runs goes with their rows."""
        for run_id in run_ids:
            path = output_path(self.settings.log_dir, run_id)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("Cannot remove %s: %s", path, error, extra={"event": "output-left"})

    # --- forgetting ---------------------------------------------------------------------

    def _forget_some(self, cursor: bytes, now: Instant) -> None:
        self._cursor = None
        if not now.trusted:
            return  # nothing is decided by this clock (S19)
        age = 0.0 if self._pressed else self.settings.retention_seconds
        try:
            gone = self._db.forget(cursor, now.wall_us - int(age * SECOND_US))
            full = self._db.room().used_share > SOFT_LIMIT
        except StoreError as error:
            if error.fatal:
                raise
            log.warning("Cannot forget old actions: %s", error, extra={"event": "not-forgotten"})
            return
        self.remove_output(gone.runs)
        self._forgotten += gone.actions
        if gone.cursor and (full or not self._pressed):
            self._cursor = gone.cursor
        elif full and not self._pressed:
            self._cursor, self._pressed = b"", True
        elif self._forgotten:
            log.info("Forgot %d old actions", self._forgotten, extra={"event": "forgotten"})

    # --- backups ------------------------------------------------------------------------

    def _begin_backup(self, now: Instant) -> None:
        self._copied_transaction = self._db.last_transaction
        try:
            child = StoreChild("backup-own", self._places.state_dir)
        except OSError as error:
            self._backup_failed(str(error))
            return
        self._children.adopt(Child(_BACKUP, child.pid, os.dup(child.pidfd)))
        self._child = child
        self._child_deadline = now.monotonic_seconds + BACKUP_SECONDS_MAX

    def _backup_done(self, child: StoreChild, now: Instant) -> None:
        self._child = None
        answer = child.answer()
        self._db.check_readers()  # one that was killed would pin its pages (fact 7)
        if not answer.output:
            self._backup_failed(answer.complaint or answer.died_of or "it was killed")
            return
        self.backup_error, self.last_backup_us = None, now.wall_us
        log.info("Backed daemonDB up", extra={"event": "backed-up"})

    def _backup_failed(self, why: str) -> None:
        self._copied_transaction = None
        if self.backup_error != why:
            log.error("Cannot back daemonDB up: %s", why, extra={"event": "backup-failed"})
        self.backup_error = why

    def _newest_backup_us(self) -> int | None:
        known = backups.generations(self._places.backups)
        try:
            return (known[-1] / "data.mdb").stat().st_mtime_ns // 1000 if known else None
        except OSError:
            return None
