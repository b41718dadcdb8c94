"""The periodic jobs of the daemon, and their intervals by its settings."""

import logging
import random

from .config.sections import Settings
from .host.sd_notify import ServiceManager
from .loop import Loop
from .periodic import poll_phase

log = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 3600.0
BACKUP_LOOK_SECONDS = 60.0
STORE_LOOK_SECONDS = 60.0
DAY_SECONDS = 86_400.0
#: A host that has been up for this long did not just boot: the first pull is not delayed.
JUST_BOOTED_SECONDS = 600.0


class JobPlan:
    """The plan of one daemon's jobs; they are planned anew when their intervals change."""

    def __init__(self, loop: Loop, manager: ServiceManager) -> None:
        self._loop = loop
        self._manager = manager
        self._planned: tuple[float, ...] = ()
        self._store_removed = False

    def begin(self, settings: Settings) -> None:
        """Plan all jobs, and the first pull: at once, unless the host has just booted and
        `start_splay` spreads a fleet."""
        parts, splay_seconds = self._loop.parts, settings.backend.start_splay_seconds
        booted = self._loop.now.boot_seconds < JUST_BOOTED_SECONDS
        delay_seconds = random.uniform(0.0, splay_seconds) if booted else 0.0
        self._plan(settings, first_pull_in_seconds=delay_seconds)
        if delay_seconds:
            parts.jobs.once(delay_seconds, "pull", parts.sync.want_pull)
        else:
            parts.sync.want_pull()

    def replan(self, settings: Settings) -> None:
        """Plan anew where an interval has changed; else each job stays due when it was."""
        if _intervals(settings) != self._planned:
            self._plan(settings)

    def summary(self) -> str:
        """Return one line on the daemon for its service manager."""
        return self._loop.parts.db.summary()

    def _plan(self, settings: Settings, *, first_pull_in_seconds: float = 0.0) -> None:
        parts, daemon, loop = self._loop.parts, settings.daemon, self._loop
        jobs, interval = parts.jobs, settings.backend.poll_interval_seconds
        self._planned = _intervals(settings)
        jobs.clear()
        jobs.every_at_phase(
            interval,
            poll_phase(parts.db.meta.device, interval),
            "pull",
            parts.sync.want_pull,
            after_seconds=first_pull_in_seconds,
        )
        jobs.every(HOUSEKEEPING_SECONDS, "housekeeping", self._keep_house)
        old = min(HOUSEKEEPING_SECONDS, max(1.0, daemon.retention_seconds / 10))
        jobs.every(old, "old actions", parts.retention.look_for_old)
        if daemon.backup_interval_seconds:
            look = min(BACKUP_LOOK_SECONDS, daemon.backup_interval_seconds)
            jobs.every(look, "backup", lambda: parts.backup.begin_if_due(loop.now))
        jobs.every(DAY_SECONDS, "clock mark", loop.write_mark)
        jobs.every(STORE_LOOK_SECONDS, "store", self.look_for_store)
        if self._manager.alive_seconds:
            jobs.every(self._manager.alive_seconds, "watchdog", self._manager.alive)

    def look_for_store(self) -> None:
        """Log once that the files of daemonDB are gone: it is told nothing by the open ones."""
        db = self._loop.parts.db
        removed = db.removed
        if removed and not self._store_removed:
            log.error(
                "The files of daemonDB in %s were removed or replaced: what is written from now"
                " on is lost when this daemon ends",
                db.store_dir,
                extra={"event": "store-removed"},
            )
        self._store_removed = removed

    def _keep_house(self) -> None:
        self._loop.parts.db.check_readers()
        self._manager.status(self.summary())


def _intervals(settings: Settings) -> tuple[float, ...]:
    daemon = settings.daemon
    interval = settings.backend.poll_interval_seconds
    return (interval, daemon.retention_seconds, daemon.backup_interval_seconds)
