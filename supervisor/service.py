"""Service of the daemon: it opens store, sockets and loop, turns the loop, reloads, and stops.

Decides nothing. `bootstrap.py` is first, and what that opened is closed last.
"""

import contextlib
import gc
import logging
import os
import time
from collections.abc import Iterator

from .. import __version__
from ..ipc.channel import Channel
from ..ipc.messages.control import Call, Reply
from ..ipc.messages.runs import FromWorker, ToWorker
from ..ipc.messages.sync import FromSynchroniser, ToSynchroniser
from ..ipc.messages.views import LimitsView
from ..ipc.router import Bounds, Router
from ..ipc.sockets import BindError, Server, new_context
from ..workers.host.linux import open_clock_set_timer
from ..workers.host.liveness import JudgeClock
from ..workers.zygote_client import Given, ZygoteClient
from .config.derived import address, rules_of
from .config.descriptors import OF_A_CHILD
from .config.sections import Settings, SettingsError
from .config.settings import needs_restart
from .control.handlers import Handlers
from .control.operators import Operators
from .control.server import Control
from .core.model import Instant
from .host.children import Child, Children
from .host.clock import Clock
from .host.helpers import Helpers
from .host.logs import Log
from .host.news_poller import NewsPoller
from .host.runtime_dir import Listener, RuntimeDirWatch
from .jobs import JobPlan
from .loop import Loop, Parts
from .participant import Participant
from .periodic import PeriodicJobs
from .runs.pool import Pool
from .runs.run_order import live_run
from .scheduler.agenda import Agenda
from .scheduler.due import DueEvents
from .scheduler.lookahead import Lookahead
from .startup.bootstrap import Bootstrap
from .startup.reread import Reread
from .startup.sweep import Leftovers
from .store.daemondb import DaemonDB
from .store.errors import StoreError
from .store.open import open_store
from .sync.backoff import Backoff
from .sync.exchange import ExchangeRunner
from .sync.manager import SyncManager
from .upkeep.backup import Backup
from .upkeep.retention import Retention

log = logging.getLogger(__name__)


class Service(Participant):
    """One run of the daemon, from its bootstrap on; `opened` closes in reverse what it opens. Of
    the loop's turns it wants those in which a reading of its file has to be looked at."""

    def __init__(
        self,
        settings: Settings,
        opened: contextlib.ExitStack,
        base: Bootstrap,
        *,
        kept: Log,
    ) -> None:
        self.settings = self._cut(base, settings)
        self.manager = base.manager
        self._base = base
        self._log = kept
        self._reread: Reread | None = None
        self._rereads = 0
        self._opened = opened
        self._listeners: list[Listener] = []

    def run(self) -> None:
        """Turn the loop until the daemon is to leave. Raises `StoreError`,
        `SettingsError`."""
        base = self._base
        base.leftovers.sweep()
        children = self._children(base)
        children.start()  # it begins while the store is waited for
        self._log.relay_by(children)
        db = self._open_store(base)
        with self._binding():
            loop = self._loop(base, db, children)
        loop.join(self._log)
        loop.join(self)
        helpers = self._helpers(loop)
        recover_runs(loop, base.leftovers)
        with self._binding():
            self._open_control(loop, base, helpers)
        jobs = JobPlan(loop, self.manager)
        jobs.begin(self.settings)
        gc.freeze()  # the collector need not scan objects that live as long as the daemon
        loop.turn()
        log.info("Ready", extra={"event": "ready", "version": __version__})
        self.manager.ready(jobs.summary())
        while not loop.finished:
            loop.turn()
            self._reload(loop, jobs)
            if loop.leaving is not None and not loop.leaving.told:
                loop.leaving.told = True
                children.drop_held()
                self.manager.stopping(loop.leaving.bound_seconds)
        self._leave(loop)

    def next_deadline(self, _now: Instant) -> float | None:
        return None if self._reread is None else self._reread.next_look()

    # --- start --------------------------------------------------------------------------

    @contextlib.contextmanager
    def _binding(self) -> Iterator[None]:
        """Raise `SettingsError` where a socket cannot be bound below `runtime_dir`."""
        try:
            yield
        except BindError as error:
            where = f"cannot use {self.settings.source}: daemon.runtime_dir"
            raise SettingsError(f"{where}: {error}") from None

    def _children(self, base: Bootstrap) -> Children:
        """Make the lifeline, and the children that hold it: only this process has its write end,
        so that every worker sees the daemon's end, however it comes about (law 11)."""
        lifeline, held = os.pipe2(os.O_CLOEXEC)
        self._opened.callback(os.close, lifeline)

        def start_zygote() -> ZygoteClient:
            given = Given(
                lifeline=lifeline,
                runtime_dir=str(base.runtime.dir.absolute()),
                instance=base.leftovers.mark.instance,
                mark=base.leftovers.mark.text,
                log_level=self._log.level,
                log_style=self._log.style,
                open_files=base.open_files,
                immortal_heap=self.settings.daemon.immortal_heap,
            )
            return ZygoteClient(given)

        children = Children(start_zygote, children_max=base.descriptors.children)
        self._opened.callback(base.leftovers.forget_gone)
        self._opened.callback(children.close)
        # Before they are waited for: a child forked a moment ago learns of the end only by this.
        self._opened.callback(os.close, held)
        return children

    def _open_store(self, base: Bootstrap) -> DaemonDB:
        daemon = self.settings.daemon
        db = open_store(
            daemon.state_dir,
            now_us=time.time_ns() // 1000,
            map_bytes=daemon.map_size_bytes,
            lock=base.runtime.store_lock,
            say=self.manager.busy,
            begun=base.examination,
        )
        self._opened.callback(db.close)
        return db

    def _clock_set(self) -> int | None:
        """Open the timer that wakes the loop when the wall clock is set; without it a step is
        seen at the next turn, at most half a minute later."""
        try:
            descriptor = open_clock_set_timer()
        except OSError as error:
            log.warning("Steps of the clock will be seen late: %s", error)
            return None
        self._opened.callback(os.close, descriptor)
        return descriptor

    def _loop(self, base: Bootstrap, db: DaemonDB, children: Children) -> Loop:
        settings = self.settings
        context = new_context()
        self._opened.callback(context.term)
        workers: Server[FromWorker, ToWorker] = Server(
            context, base.runtime.worker_socket, receives=FromWorker
        )
        self._opened.callback(workers.close)
        exchanges: Channel[FromSynchroniser, ToSynchroniser] = Channel(receives=FromSynchroniser)
        self._opened.callback(exchanges.close)
        self._listeners.append(workers)
        inherited = _utf8_environment()
        clock = Clock(
            mark_us=db.meta.clock_mark_us,
            wait_seconds=settings.daemon.clock_wait_seconds,
            must_synchronise=settings.daemon.clock_must_sync,
        )
        now = clock.read()
        judge = JudgeClock(now.monotonic_seconds)
        cleanup = base.leftovers.cleanup
        pool = Pool(workers, children, cleanup, judge)
        rules = rules_of(settings, db.meta.generation)
        agenda = Agenda(rules)
        lookahead = Lookahead(db, pool, agenda, settings.daemon)
        backoff = Backoff(base.runtime.backoff, now)
        exchange_runner = ExchangeRunner(
            exchanges,
            children,
            address(settings.backend),
            backoff,
            monotonic_seconds=clock.monotonic_seconds,
        )
        backup = Backup(db, children, settings.daemon)
        self._opened.callback(backup.close)
        sync = SyncManager(
            settings.backend, exchange_runner, db, quiet_seconds=lookahead.quiet_seconds
        )
        parts = Parts(
            db=db,
            clock=clock,
            children=children,
            pool=pool,
            sync=sync,
            retention=Retention(db, settings.daemon, lambda: sync.applying, cleanup.remove_output),
            backup=backup,
            jobs=PeriodicJobs(now.boot_seconds, known=(StoreError,)),
            agenda=agenda,
            due=DueEvents(db, agenda, cleanup),
            lookahead=lookahead,
            poller=NewsPoller(),
            wakeup=base.wakeup,
            clock_set=self._clock_set(),
            make_run=lambda record, at: live_run(
                record, at, self.settings, instance=cleanup.instance, inherited=inherited
            ),
        )
        for readable in (workers, exchanges.fileno(), children.fileno()):
            parts.poller.watch_patiently(readable)
        parts.poller.watch(base.wakeup)
        if parts.clock_set is not None:
            parts.poller.watch(parts.clock_set)
        return Loop(parts, settings, rules)

    def _helpers(self, loop: Loop) -> Helpers:
        """Make the helpers, which wait for the disk of `log_dir` in place of the loop."""
        helpers = Helpers(loop.parts.children)
        self._opened.callback(helpers.close)
        loop.join(helpers)
        loop.parts.poller.watch(helpers.fileno())
        loop.parts.pool.cleanup.help_by(
            lambda request: helpers.submit(request, loop.now, waited=False),
            helpers.keep,
        )
        return helpers

    def _open_control(self, loop: Loop, base: Bootstrap, helpers: Helpers) -> None:
        descriptors = base.descriptors
        server: Router[Call, Reply] = Router(
            base.runtime.control_socket,
            receives=Call,
            bounds=Bounds(descriptors.connections, descriptors.connections_of_user),
            mode=0o660,
        )
        self._opened.callback(server.close)

        def limits() -> LimitsView:
            return LimitsView(
                open_files=descriptors.open_files,
                max_running=loop.settings.daemon.max_running,
                max_running_asked=loop.settings.max_running_asked,
                connections=len(server),
                connections_max=descriptors.connections,
                connections_refused=server.refused,
            )

        self._operators = Operators(helpers, self.settings.control.operators)
        handlers = Handlers(
            loop,
            helpers,
            containment=base.leftovers.containment,
            limits=limits,
            operators=lambda: self._operators.view,
        )
        loop.join(self._operators)
        loop.join(Control(server, handlers, self._operators))
        loop.parts.poller.watch(server.fileno())
        self._listeners.append(server)
        children = loop.parts.children
        watch = RuntimeDirWatch(
            base.runtime,
            base.runtime_lock,
            self._listeners,
            lambda count: children.have_room_for_fewer(-(-count // OF_A_CHILD)),
        )
        self._opened.callback(watch.close)
        loop.join(watch)
        if watch.readable is not None:
            loop.parts.poller.watch(watch.readable)

    @staticmethod
    def _cut(base: Bootstrap, settings: Settings) -> Settings:
        """Return the settings with no more runs than descriptors allow."""
        cut = base.descriptors.cut(settings)
        if cut.max_running_asked is not None:
            log.warning(
                "max_running is %d, not %d: no more fit into %d open files",
                cut.daemon.max_running,
                cut.max_running_asked,
                base.descriptors.open_files,
                extra={"event": "max-running-cut"},
            )
        return cut

    # --- reload and stop ----------------------------------------------------------------

    def _reload(self, loop: Loop, jobs: JobPlan) -> None:
        """Reload all or nothing: an invalid file changes nothing. Call it every turn."""
        if loop.leaving is not None:
            self._abandon_reread()
            return
        try:
            if self._reread is None:
                if not loop.reload_wanted:
                    return
                loop.reload_wanted = False
                self.manager.reloading()
                self._begin_reread(loop)
                return
            new = self._reread.result()
            if new is None:
                return
            self._apply(loop, jobs, self._cut(self._base, new))
        except (SettingsError, OSError) as error:
            log.error("Not reloaded: %s", error, extra={"event": "reload-refused"})
        self._reread = None
        self.manager.ready(jobs.summary())

    def _begin_reread(self, loop: Loop) -> None:
        """Have the file read; the end of the child that does so begins a turn of the loop."""
        self._reread = reread = Reread(self.settings.source)
        self._rereads += 1
        name = f"reread-{self._rereads}"
        try:
            watched = os.dup(reread.pidfd)
        except OSError:
            self._abandon_reread()
            raise
        loop.parts.children.adopt(Child(name, reread.pid, watched))

    def _abandon_reread(self) -> None:
        """A daemon that leaves takes no other settings, and is not ready again."""
        if self._reread is not None:
            self._reread.abandon()
            self._reread = None

    def _apply(self, loop: Loop, jobs: JobPlan, new: Settings) -> None:
        kept = needs_restart(self.settings, new)
        for key in kept:
            log.warning("%s needs a restart to change", key, extra={"event": "needs-restart"})
        if kept:
            new = new.without_restart(self.settings)
        self.settings = new
        loop.reconfigure(new, rules_of(new, loop.rules.generation))
        parts = loop.parts
        parts.sync.reconfigure(new.backend)
        parts.retention.settings = parts.backup.settings = parts.lookahead.settings = new.daemon
        self._operators.permit(new.control.operators)
        jobs.replan(new)
        log.info("Reloaded %s", new.source, extra={"event": "reloaded"})

    def _leave(self, loop: Loop) -> None:
        for run in loop.parts.pool.runs.values():
            log.error(
                "Leaving run %s of action %s behind: it is stuck",
                run.run_id,
                run.action_id,
                extra={"event": "left-behind", "id": run.action_id},
            )
        loop.parts.pool.release_all()
        log.info("Stopped", extra={"event": "stopped"})


def _utf8_environment() -> dict[str, str]:
    """Return the environment without variables that are no UTF-8: no message can carry them."""
    usable = dict(os.environ)
    for name, value in os.environ.items():
        try:
            f"{name}{value}".encode()
        except UnicodeEncodeError:
            del usable[name]
            log.warning("Scripts do not get the variable %r: it is no UTF-8", name)
    return usable


def recover_runs(loop: Loop, leftovers: Leftovers) -> None:
    """Recover the runs of an earlier daemon (S2), in one transaction, and log the outcome."""
    kept = leftovers.kept_results()
    found = loop.recover(kept, leftovers.alive)
    for result in found.strangers:
        log.warning(
            "Dropped the kept result of run %s: it fits no open run",
            result.run_id,
            extra={"event": "stranger-result", "runId": result.run_id},
        )
    for run_id in kept.keys() - leftovers.alive:
        leftovers.cleanup.forget_result(run_id)
    for change in found.changes:
        log.info(
            "Recovered action %s: %s (%s)",
            change.after.action.id,
            change.after.status.value,
            change.after.reason,
            extra={"event": "recovered", "id": change.after.action.id},
        )
