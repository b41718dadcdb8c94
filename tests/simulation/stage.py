"""The stage of a simulation: one host, one backend, and a daemon that comes and goes."""

import contextlib
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from unittest import mock

from geosched.supervisor import jobs
from geosched.supervisor import loop as loop_module
from geosched.supervisor.config.derived import rules_of
from geosched.supervisor.config.sections import (
    BackendSettings,
    ControlSettings,
    DaemonSettings,
    ScriptSettings,
    Settings,
)
from geosched.supervisor.scheduler import due
from geosched.supervisor.store.tables import ended, meta
from geosched.supervisor.sync import apply, backoff, exchange, manager
from geosched.workers.sync import synchroniser

from .daemon import SimulatedDaemon
from .exchange import SimulatedBackend
from .host import Host
from .oracle import Oracle
from .world import World

HOUR, DAY = 3600.0, 86_400.0

SCRIPTS = {
    "once": ScriptSettings(command=("/bin/script",)),
    "again": ScriptSettings(command=("/bin/script",), restart="on-failure", stop_grace_seconds=2.0),
    "always": ScriptSettings(
        command=("/bin/script",),
        restart="always",
        restart_delay_seconds=60.0,
        restart_delay_max_seconds=HOUR,
    ),
    "few": ScriptSettings(command=("/bin/script",), restart="on-failure", max_restarts=2),
}


class Stage:
    """`directory` is better in memory: nothing here is about what a disk does."""

    def __init__(
        self, world: World, directory: Path, daemon: DaemonSettings, backend: BackendSettings
    ) -> None:
        self.world = world
        self.settings = Settings(
            daemon=daemon,
            backend=backend,
            scripts=SCRIPTS,
            control=ControlSettings(),
            source=directory / "none",
        )
        self.oracle = Oracle(
            world,
            report=backend.report,
            max_running=daemon.max_running,
            must_synchronise=daemon.clock_must_sync,
            policies=rules_of(self.settings, "").policies,
        )
        self.host = Host(world, self.oracle)
        self.oracle.living, self.oracle.kept = self.host.scripts, self.host.kept
        self.backend = SimulatedBackend(world, self.oracle.reported)
        self.daemon: SimulatedDaemon | None = None
        self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def start_daemon(self) -> SimulatedDaemon:
        """Sweep, recover, and be there. It may die of that already."""
        self.daemon = daemon = SimulatedDaemon(
            self.world, self.host, self.oracle, self.backend, self.settings, self._wakeup
        )
        # Those of a reload that was asked for meanwhile.
        daemon.settings = daemon.loop.settings = self.settings
        self.world.daemon_lives = True
        return daemon

    def end_daemon(self) -> None:
        """It is gone, however it came about."""
        self.world.daemon_lives = False
        if self.daemon is not None:
            self.daemon.close()
            self.daemon = None
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup[0], 512)
        self.host.daemon_is_gone()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_daemon()
        for descriptor in self._wakeup:
            os.close(descriptor)


def settings_by(chance: random.Random, directory: Path) -> tuple[DaemonSettings, BackendSettings]:
    daemon = DaemonSettings(
        state_dir=directory / "state",
        runtime_dir=directory,
        log_dir=directory / "log",
        max_running=chance.choice([2, 3, 5, 20]),
        spare_workers=chance.choice([0, 1]),
        clock_must_sync=chance.random() < 0.15,
        retention_seconds=chance.choice([10.0, 30.0]) * DAY,
        backup_interval_seconds=0.0,
    )
    backend = BackendSettings(
        url="http://simulated",
        poll_interval_seconds=chance.choice([1.0, 4.0, 4.0]) * DAY,
        report=chance.random() < 0.9,
    )
    return daemon, backend


@contextlib.contextmanager
def simulated(world: World) -> Iterator[None]:
    """Chance is the world's alone. The loop sleeps until its own deadlines, not only for 30
    seconds: one that it forgets is then found, and a year has fewer turns. What is done in
    shares is done in small ones, so that little makes many."""

    def new_name() -> str:
        return world.random.randbytes(8).hex()

    logging.disable(logging.CRITICAL)
    try:
        with (
            mock.patch.object(meta, "new_name", new_name),
            mock.patch.object(backoff, "boot_id", world.boot_id),
            mock.patch.object(exchange, "give_memory_back"),
            mock.patch.object(loop_module, "IDLE_SECONDS_MAX", 400 * DAY),
            mock.patch.object(jobs, "HOUSEKEEPING_SECONDS", 3 * DAY),
            mock.patch.object(jobs, "STORE_LOOK_SECONDS", 3 * DAY),
            mock.patch.object(jobs, "DAY_SECONDS", 3 * DAY),
            mock.patch.object(apply, "ENTRIES_PER_TURN_MIN", 4),
            mock.patch.object(apply, "ENTRIES_PER_TURN_MAX", 4),
            mock.patch.object(manager, "OPEN_RECORDS_PER_TURN_MAX", 6),
            mock.patch.object(ended, "ROWS_PER_TURN_MAX", 60),
            mock.patch.object(due, "EDGES_PER_TURN_MAX", 6),
            mock.patch.object(synchroniser, "PAGE_ACTIONS_MAX", 5),
        ):
            yield
    finally:
        logging.disable(logging.NOTSET)
