"""Which duties the daemon has and how often, by its settings. How a duty is run is
`periodic.py`'s, what it does the business of whom it is of.
"""

import random

from .config.settings import Settings
from .core.retry import poll_phase
from .host.sd_notify import ServiceManager
from .loop import Loop
from .store.repair import incidents

HOUSEKEEPING_SECONDS = 3600.0
BACKUP_LOOK_SECONDS = 60.0
DAY_SECONDS = 86_400.0
#: A host that has been up for so long did not just boot: its first pull is not delayed.
JUST_BOOTED_SECONDS = 600.0


class Rounds:
    """The duties of one daemon; they are planned anew when their intervals change."""

    def __init__(self, loop: Loop, manager: ServiceManager) -> None:
        self._loop = loop
        self._manager = manager
        self._planned: tuple[float, ...] = ()

    def begin(self, settings: Settings) -> None:
        """Plan all, and have the first pull: at once, unless the host has just booted and
        `start_splay` spreads a fleet."""
        loop, splay = self._loop, settings.backend.start_splay_seconds
        booted = loop.now.boot_seconds < JUST_BOOTED_SECONDS
        delay = random.uniform(0.0, splay) if booted else 0.0
        self._plan(settings, first_pull_in=delay)
        if delay:
            loop.parts.duties.once(delay, "pull", loop.parts.backend.want_pull)
        else:
            loop.parts.backend.want_pull()

    def replan(self, settings: Settings) -> None:
        """Where nothing changed, what is due next stays due then."""
        if _intervals(settings) != self._planned:
            self._plan(settings)

    def fares(self) -> str:
        """How the daemon is, for the service manager: what a person would ask first."""
        db = self._loop.parts.db
        happened = incidents.read(db.store_dir)
        return "; ".join([db.counts_line(), *(f"daemonDB: {one.detail}" for one in happened[-1:])])

    def _plan(self, settings: Settings, *, first_pull_in: float = 0.0) -> None:
        duties, daemon, loop = self._loop.parts.duties, settings.daemon, self._loop
        parts, interval = loop.parts, settings.backend.poll_interval_seconds
        self._planned = _intervals(settings)
        duties.clear()
        duties.every_at_phase(
            interval,
            poll_phase(loop.parts.db.meta.device, interval),
            "pull",
            loop.parts.backend.want_pull,
            after_seconds=first_pull_in,
        )
        duties.every(HOUSEKEEPING_SECONDS, "housekeeping", self._keep_house)
        old = min(HOUSEKEEPING_SECONDS, max(1.0, daemon.retention_seconds / 10))
        duties.every(old, "old actions", parts.retention.look_for_old)
        if daemon.backup_interval_seconds:
            look = min(BACKUP_LOOK_SECONDS, daemon.backup_interval_seconds)
            duties.every(look, "backup", lambda: parts.backup.begin_if_due(loop.now))
        duties.every(DAY_SECONDS, "clock mark", loop.write_mark)
        if self._manager.watchdog_seconds:
            duties.every(self._manager.watchdog_seconds / 2, "watchdog", self._manager.alive)

    def _keep_house(self) -> None:
        self._loop.parts.db.check_readers()
        self._manager.status(self.fares())


def _intervals(settings: Settings) -> tuple[float, ...]:
    daemon = settings.daemon
    interval = settings.backend.poll_interval_seconds
    return (interval, daemon.retention_seconds, daemon.backup_interval_seconds)
