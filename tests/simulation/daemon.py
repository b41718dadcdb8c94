"""The daemon in the simulated host: the real loop and all it turns, put together and watched.

As `supervisor/service.py` does it, with the host's side of each seam simulated. Each part
that is watched is the real one: it does its work, and tells the oracle.
"""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geosched.ipc.instants import SECOND_US
from geosched.supervisor.config.derived import address, rules_of
from geosched.supervisor.config.sections import Settings
from geosched.supervisor.core.model import Change, Instant
from geosched.supervisor.host.clock import Clock
from geosched.supervisor.jobs import JobPlan
from geosched.supervisor.loop import STORE_RETRY_SECONDS, Loop, Parts
from geosched.supervisor.participant import News
from geosched.supervisor.periodic import PeriodicJobs
from geosched.supervisor.runs.pool import Pool
from geosched.supervisor.runs.run_order import live_run
from geosched.supervisor.scheduler.agenda import Agenda
from geosched.supervisor.scheduler.due import DueEvents
from geosched.supervisor.scheduler.lookahead import Lookahead
from geosched.supervisor.service import recover_runs
from geosched.supervisor.store.daemondb import Committed, DaemonDB, MetaUpdate, Verdicts
from geosched.supervisor.store.errors import StoreError, StoreErrorKind
from geosched.supervisor.sync.backoff import Backoff
from geosched.supervisor.sync.exchange import ExchangeRunner, Outcome, PullDone
from geosched.supervisor.sync.manager import SyncManager
from geosched.supervisor.upkeep.backup import Backup
from geosched.supervisor.upkeep.retention import Retention
from geosched.workers.host.liveness import JudgeClock

from .exchange import ASKED_PER_MINUTE_MAX, SimulatedBackend, SimulatedSynchroniser
from .host import Channel, Children, Host, Leftovers, Line
from .oracle import Oracle
from .rules import Phase
from .world import BrokenRuleError, World

#: What a commit takes, and on a disk that is slow for a while.
COMMIT_US = 2_000
STALL_US = 8 * SECOND_US


class NoManager:
    """Stands for the service manager that nobody runs under here."""

    alive_seconds = 0.0

    def status(self, text: str) -> None:
        """Nobody reads it."""


class WatchedDB(DaemonDB):
    """The real store. It may be the daemon's last step, before a commit or after it, and
    its disk may be full."""

    host: Host
    oracle: Oracle
    leaving = False
    retention_us = 0

    def commit(
        self,
        changes: Sequence[Change],
        *,
        report: bool,
        meta: MetaUpdate | None = None,
        absences: Mapping[bytes, bool] | None = None,
        verdicts: Verdicts | None = None,
    ) -> Committed:
        marked = meta is not None and meta.applied_to(self.meta) != self.meta
        if changes or absences or verdicts or marked:
            self._write_to_disk()
        committed = super().commit(
            changes, report=report, meta=meta, absences=absences, verdicts=verdicts
        )
        self.oracle.committed(changes, committed.won, leaving=self.leaving)
        self.host.step()
        return committed

    def forget(self, start: bytes, until_us: int) -> Any:
        self._write_to_disk()
        forgotten = super().forget(start, until_us)
        if forgotten.actions:
            self.oracle.forgotten(self, self.retention_us)
        self.host.step()
        return forgotten

    def _write_to_disk(self) -> None:
        self.host.step()
        if self.host.disk_full:
            raise StoreError("cannot use daemonDB: no room", kind=StoreErrorKind.FULL)
        slow = self.host.slow_commits > 0
        self.host.slow_commits -= slow
        self.host.stalled_us += STALL_US if slow else 0
        self.host.world.pass_us(STALL_US if slow else COMMIT_US)


class WatchedClock(Clock):
    oracle: Oracle | None = None

    def read(self) -> Instant:
        now = super().read()
        if self.oracle is not None:
            self.oracle.clock_was_read(now)
        return now


class WatchedLookahead(Lookahead):
    oracle: Oracle | None = None

    def as_of(self, now: Instant) -> Instant:
        instant = super().as_of(now)
        if self.oracle is not None:
            self.oracle.turn_is_for(instant)
        return instant


class WatchedPool(Pool):
    """The real pool; but it is not woken once a second to judge workers that all speak."""

    oracle: Oracle
    host: Host

    def gather(self, news: News, now: Instant) -> None:
        super().gather(news, now)
        for result in self.ended:
            self.oracle.end_is_heard(result.run_id)
            self.host.step()  # it may wait for its commit, and the daemon may die meanwhile

    def next_deadline(self, now: Instant) -> float | None:
        deadline = super().next_deadline(now)
        if any(worker.frozen for worker in self.host.workers.values()):
            return deadline
        if deadline == now.monotonic_seconds:
            return deadline
        once_a_second = now.monotonic_seconds + 1.0
        every = [
            due
            for run in self.runs.values()
            for due in run.deadlines(once_a_second)
            if due != once_a_second
        ]
        pace_due = self._pace.next_deadline(now.monotonic_seconds)
        waits = (self._promise_at_monotonic, pace_due, self.cleanup.next_deadline(now))
        return min((due for due in (*every, *waits) if due is not None), default=None)


class WatchedExchanges(ExchangeRunner):
    oracle: Oracle
    held_by: SimulatedBackend
    heard = False  # a snapshot that is not applied to its end yet

    def gather(self, news: News, now: Instant) -> Outcome | None:
        outcome = super().gather(news, now)
        if isinstance(outcome, PullDone):
            self.oracle.told.heard(self.held_by.answered)
            self.heard = True
        return outcome


class SimulatedPoller:
    """Where the daemon waits, simulated time goes by."""

    def __init__(self, world: World, oracle: Oracle) -> None:
        self.loop: Loop | None = None
        self.looks_again = 0.0  # the store failed: edges are looked at no earlier
        self._world, self._oracle = world, oracle

    def wait(self, timeout_seconds: float, together_seconds: float) -> None:
        loop = self.loop
        assert loop is not None
        self._oracle.goes_to_sleep(
            timeout_seconds,
            idle=loop.leaving is None and loop.now.monotonic_seconds > self.looks_again,
            trust_in=loop.parts.clock.wait_ends_in(loop.now),
        )
        world = self._world
        until_us = world.monotonic_us + round(timeout_seconds * SECOND_US)
        world.sleep(timeout_seconds)
        left_seconds = (until_us - world.monotonic_us) / SECOND_US
        if left_seconds > 0:  # it was woken: what children say waits for more of it
            world.go_by(min(left_seconds, together_seconds))
            world.awake = False


class SimulatedDaemon:
    """One life of the daemon, from the sweep to its end, whichever it is."""

    def __init__(
        self,
        world: World,
        host: Host,
        oracle: Oracle,
        backend: SimulatedBackend,
        settings: Settings,
        wakeup: tuple[int, int],
    ) -> None:
        self.world, self.host, self.oracle, self.backend = world, host, oracle, backend
        self.settings, self._wakeup = settings, wakeup
        leftovers = Leftovers(host)
        leftovers.sweep()
        self.workers, self.exchanges = Line(host, beats=True), Line(host, beats=False)
        self.db = _open(settings.daemon.state_dir, host, oracle)
        self.db.retention_us = round(settings.daemon.retention_seconds * SECOND_US)
        try:
            self.loop = self._loop(leftovers)
            recover_runs(self.loop, leftovers)
        except BaseException:
            self.close()
            raise
        oracle.phase = Phase.TURN
        JobPlan(self.loop, NoManager()).begin(settings)

    def _loop(self, leftovers: Leftovers) -> Loop:
        world, host, oracle, settings = self.world, self.host, self.oracle, self.settings
        self.children = children = Children(
            host,
            self.workers,
            self.exchanges,
            lambda name, pid: SimulatedSynchroniser(world, self.exchanges, self.backend, name, pid),
        )
        oracle.daemon_starts(self.db, self.workers.free, settings.daemon.clock_wait_seconds)
        clock = WatchedClock(
            mark_us=self.db.meta.clock_mark_us,
            wait_seconds=settings.daemon.clock_wait_seconds,
            must_synchronise=settings.daemon.clock_must_sync,
            readings=world.readings(),
        )
        clock.oracle = oracle
        now = clock.read()
        pool = WatchedPool(
            self.workers,
            children,
            leftovers,
            JudgeClock(now.monotonic_seconds),
            activity_of=host.activity,
        )
        pool.oracle, pool.host = oracle, host
        backoff = Backoff(settings.daemon.runtime_dir / "backoff", now, chance=world.random.random)
        self.exchange_runner = exchange_runner = WatchedExchanges(
            Channel(self.exchanges),
            children,
            address(settings.backend),
            backoff,
            monotonic_seconds=clock.monotonic_seconds,
        )
        exchange_runner.oracle, exchange_runner.held_by = oracle, self.backend
        self.poller = poller = SimulatedPoller(world, oracle)
        rules = rules_of(settings, self.db.meta.generation)
        agenda = Agenda(rules)
        lookahead = WatchedLookahead(self.db, pool, agenda, settings.daemon)
        lookahead.oracle = oracle
        sync = SyncManager(
            settings.backend, exchange_runner, self.db, quiet_seconds=lookahead.quiet_seconds
        )
        parts = Parts(
            db=self.db,
            clock=clock,
            children=children,
            pool=pool,
            sync=sync,
            retention=Retention(
                self.db, settings.daemon, lambda: sync.applying, leftovers.remove_output
            ),
            backup=Backup(self.db, children, settings.daemon),
            jobs=PeriodicJobs(now.boot_seconds, known=(StoreError,)),
            agenda=agenda,
            due=DueEvents(self.db, agenda, leftovers),
            lookahead=lookahead,
            poller=poller,
            wakeup=self._wakeup[0],
            make_run=lambda record, at: live_run(
                record, at, self.settings, instance="simulated", inherited={}
            ),
        )
        loop = poller.loop = Loop(parts, settings, rules)
        return loop

    # --- its life -----------------------------------------------------------------------------

    def turn(self) -> None:
        loop = self.loop
        loop.turn()
        self.db.leaving = loop.leaving is not None
        self.world.pass_us(200)
        if loop.degraded is not None:
            self.poller.looks_again = loop.now.monotonic_seconds + STORE_RETRY_SECONDS
        late = loop.now.monotonic_seconds <= self.poller.looks_again or loop.parts.due.more_edges
        self.oracle.turn_is_over(
            can_write=not late,
            leaving=loop.leaving is not None,
        )
        self._look_at_pull()

    def _look_at_pull(self) -> None:
        backend, exchange_runner = self.loop.parts.sync, self.exchange_runner
        if exchange_runner.heard and not backend.applying:
            exchange_runner.heard = False
            if backend.progress.last_ok and self.loop.leaving is None:
                self.oracle.snapshot_is_applied()
        if len(self.backend.asked) > ASKED_PER_MINUTE_MAX:
            raise BrokenRuleError(f"B8: {len(self.backend.asked)} exchanges within a minute")

    def terminate(self) -> None:
        """What a service manager does."""
        os.write(self._wakeup[1], bytes([signal.SIGTERM]))
        self.world.awake = True

    def close(self) -> None:
        """However it came about, this daemon is no more."""
        self.workers.closed = self.exchanges.closed = True
        self.db.close()


def _open(state_dir: Path, host: Host, oracle: Oracle) -> WatchedDB:
    """Not by `open.py`, which looks at the file in a process of its own."""
    WatchedDB.host, WatchedDB.oracle = host, oracle
    db = WatchedDB.open(state_dir, map_bytes=16 * 1024**2)
    assert isinstance(db, WatchedDB)
    return db
