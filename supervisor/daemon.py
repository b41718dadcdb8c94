"""`geoschedd`: reads the command line, opens everything in order, turns the loop, and
closes in reverse. Decides nothing but the exit code.

The order of start (law 15): locks, zygote, sweep of what an earlier daemon left, daemonDB,
S2, sockets, work. What fails on the way leaves with its documented code, and everything
that was opened is closed.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from .. import __version__
from ..ipc.control import Call, Reply
from ..ipc.messages import FromSynchroniser, FromWorker, ToSynchroniser, ToWorker
from ..ipc.places import DEFAULT_CONFIG, Runtime
from ..ipc.sockets import SYNC_FRAME_BYTES_MAX, Poller, Server, new_context
from ..workers.identity import make_directories
from ..workers.linux import become_subreaper, open_clock_set_timer, raise_open_files
from ..workers.spawn import Zygote
from . import logs, preflight
from .backend import Backend
from .backoff import Backoff
from .children import Children
from .clock import Clock
from .control import Control
from .core.liveness import JudgeClock
from .core.recovery import recover
from .desk import LoopDesk
from .duties import Duties
from .locks import AlreadyRunningError, DirectoryLock
from .loop import Loop, Parts
from .pool import Pool
from .rounds import Rounds
from .rules import address, live_run, rules_of
from .servicemanager import ServiceManager
from .settings import Settings, SettingsError, load, needs_restart
from .store.daemondb import DaemonDB, StoreError
from .store.opening import begin_examination, open_store
from .sweep import Leftovers
from .synchronisation import Synchronisation
from .upkeep import Upkeep

log = logging.getLogger(__name__)

EXIT_STOPPED, EXIT_ERROR, EXIT_SETTINGS, EXIT_ALREADY_RUNNING, EXIT_STORE = range(5)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point `geoschedd`."""
    options = _options(arguments)
    logs.set_up(options.log_level, options.log_format)
    raise SystemExit(_run(options))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="geoschedd", description="Runs action scripts for exact windows of time."
    )
    parser.add_argument("--config", type=Path, help=f"default {DEFAULT_CONFIG}")
    parser.add_argument("--check", action="store_true", help="validate the configuration, leave")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--version", action="version", version=f"geoschedd {__version__}")
    options = parser.parse_args(arguments)
    options.config = options.config or Path(os.environ.get("GEOSCHED_CONFIG") or DEFAULT_CONFIG)
    return options


def _run(options: argparse.Namespace) -> int:
    """The daemon's life; its errors as exit codes, each with one line that says what to do."""
    try:
        settings = load(options.config)
        if options.check:
            return _check(settings)
        preflight.refuse_untrusted(settings)
        for warning in preflight.warnings(settings):
            log.warning("%s: %s", settings.source, warning, extra={"event": "settings"})
        preflight.prepare_directories(settings)
        with contextlib.ExitStack() as opened:
            return Daemon(settings, opened, log_level=options.log_level).run()
    except SettingsError as error:
        log.error("%s", error)
        return EXIT_SETTINGS
    except AlreadyRunningError as error:
        log.error("%s", error)
        return EXIT_ALREADY_RUNNING
    except StoreError as error:
        log.error("%s", error, extra={"event": "store-unusable"})
        return EXIT_STORE
    except Exception:
        log.exception("An unexpected error ended the daemon", extra={"event": "crash"})
        return EXIT_ERROR


def _check(settings: Settings) -> int:
    problems = preflight.check(settings)
    for problem in problems:
        print(f"geoschedd: {settings.source}: {problem}", file=sys.stderr)
    if not problems:
        print(f"geoschedd: {settings.source}: all is well", file=sys.stderr)
    return EXIT_SETTINGS if problems else EXIT_STOPPED


class _Foundation(msgspec.Struct):
    """What is there before anything is decided."""

    runtime: Runtime
    leftovers: Leftovers
    children: Children
    db: DaemonDB
    wakeup: int


class Daemon:
    """Everything that one run of the daemon opens; `opened` closes it in reverse."""

    def __init__(self, settings: Settings, opened: contextlib.ExitStack, *, log_level: str) -> None:
        self.settings = settings
        self._log_level = log_level
        self._open_files = raise_open_files()[0]
        self.manager = ServiceManager()
        self._opened = opened
        opened.callback(self.manager.close)

    def run(self) -> int:
        base = self._found()
        loop = self._loop(base)
        recover_runs(loop, base.leftovers)
        self._open_control(loop, base)
        rounds = Rounds(loop, self.manager)
        rounds.begin(self.settings)
        loop.turn()
        log.info("Ready", extra={"event": "ready", "version": __version__})
        self.manager.ready(rounds.fares())
        while not loop.finished:
            loop.turn()
            if loop.reload_wanted:
                self._reload(loop, rounds)
            if loop.leaving is not None and not loop.leaving.told:
                loop.leaving.told = True
                self.manager.stopping(loop.leaving.bound_seconds)
        self._leave(loop)
        return EXIT_STOPPED

    # --- start --------------------------------------------------------------------------

    def _found(self) -> _Foundation:
        """Locks, signals, sweep, zygote, store (law 15). The store is looked at, and the zygote
        begins, while this process has other things to do or to wait for."""
        daemon = self.settings.daemon
        runtime = Runtime(daemon.runtime_dir)
        for directory in (daemon.state_dir, daemon.runtime_dir):
            self._opened.callback(DirectoryLock(directory).close)
        make_directories(runtime)
        wakeup = self._record_signals()
        become_subreaper()
        examination = begin_examination(daemon.state_dir)
        leftovers = Leftovers(runtime, daemon.state_dir)
        leftovers.sweep()
        self._opened.callback(leftovers.close)
        children = self._children(runtime, leftovers.instance)
        children.start(time.monotonic())
        db = open_store(
            daemon.state_dir,
            now_us=time.time_ns() // 1000,
            map_bytes=daemon.map_size_bytes,
            lock=runtime.store_lock,
            say=self.manager.busy,
            begun=examination,
        )
        self._opened.callback(db.close)
        return _Foundation(runtime, leftovers, children, db, wakeup)

    def _record_signals(self) -> int:
        """Signals become bytes in a pipe that the loop polls (law 7, fact Z10)."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self._opened.callback(os.close, reader)
        self._opened.callback(os.close, writer)
        self._opened.callback(signal.set_wakeup_fd, -1)
        return reader

    def _clock_set(self) -> int | None:
        """Wakes the loop when the wall clock is set; without it a step is seen at the next
        turn, which is at most half a minute later."""
        try:
            descriptor = open_clock_set_timer()
        except OSError as error:
            log.warning("Steps of the clock will be seen late: %s", error)
            return None
        self._opened.callback(os.close, descriptor)
        return descriptor

    def _children(self, runtime: Runtime, instance: str) -> Children:
        """The lifeline: only this process holds its write end, so that its end, however
        it comes about, is seen by every worker (law 11)."""
        lifeline, held = os.pipe2(os.O_CLOEXEC)
        self._opened.callback(os.close, lifeline)
        self._opened.callback(os.close, held)

        def start_zygote() -> Zygote:
            return Zygote(
                lifeline=lifeline,
                runtime_dir=runtime.dir,
                instance=instance,
                log_level=self._log_level,
                open_files=self._open_files,
            )

        children = Children(start_zygote)
        self._opened.callback(children.close)
        return children

    def _loop(self, base: _Foundation) -> Loop:
        settings = self.settings
        context = new_context()
        self._opened.callback(context.term)
        workers: Server[FromWorker, ToWorker] = Server(
            context, base.runtime.worker_socket, receives=FromWorker
        )
        self._opened.callback(workers.close)
        exchanges: Server[FromSynchroniser, ToSynchroniser] = Server(
            context,
            base.runtime.sync_socket,
            receives=FromSynchroniser,
            frame_bytes_max=SYNC_FRAME_BYTES_MAX,
        )
        self._opened.callback(exchanges.close)
        clock = Clock(
            mark_us=base.db.meta.clock_mark_us,
            wait_seconds=settings.daemon.clock_wait_seconds,
            must_synchronise=settings.daemon.clock_must_sync,
        )
        now = clock.read()
        judge = JudgeClock(now.monotonic_seconds)
        pool = Pool(workers, base.children, base.leftovers, judge)
        backoff = Backoff(base.runtime.backoff, now)
        synchronisation = Synchronisation(
            exchanges, base.children, address(settings.backend), backoff
        )
        upkeep = Upkeep(base.db, base.children, settings.daemon)
        self._opened.callback(upkeep.close)
        parts = Parts(
            db=base.db,
            clock=clock,
            children=base.children,
            pool=pool,
            backend=Backend(settings.backend, synchronisation, base.db),
            upkeep=upkeep,
            duties=Duties(now.boot_seconds),
            poller=Poller(),
            wakeup=base.wakeup,
            clock_set=self._clock_set(),
            make_run=lambda record, at: live_run(
                record, at, self.settings, instance=base.leftovers.instance
            ),
            run_is_gone=lambda run_id: base.leftovers.end_tree(run_id, None, None),
        )
        for readable in (workers, exchanges, base.children.fileno(), base.wakeup):
            parts.poller.watch(readable)
        if parts.clock_set is not None:
            parts.poller.watch(parts.clock_set)
        return Loop(parts, settings, rules_of(settings, base.db.meta.generation))

    def _open_control(self, loop: Loop, base: _Foundation) -> None:
        context = new_context()
        self._opened.callback(context.term)
        server: Server[Call, Reply] = Server(
            context, base.runtime.control_socket, receives=Call, mode=0o660
        )
        self._opened.callback(server.close)
        desk = LoopDesk(loop, containment=base.leftovers.containment)
        loop.control = Control(server, desk, self.settings.control.operators)
        loop.parts.poller.watch(server)

    # --- reload and stop ----------------------------------------------------------------

    def _reload(self, loop: Loop, rounds: Rounds) -> None:
        """All or nothing: an invalid file changes nothing."""
        loop.reload_wanted = False
        self.manager.reloading()
        try:
            new = load(self.settings.source)
            preflight.refuse_untrusted(new)
        except SettingsError as error:
            log.error("Not reloaded: %s", error, extra={"event": "reload-refused"})
        else:
            self._apply(loop, rounds, new)
        self.manager.ready(rounds.fares())

    def _apply(self, loop: Loop, rounds: Rounds, new: Settings) -> None:
        kept = needs_restart(self.settings, new)
        for key in kept:
            log.warning("%s needs a restart to change", key, extra={"event": "needs-restart"})
        if kept:
            new = new.without_restart(self.settings)
        self.settings = new
        loop.settings = new
        loop.rules = rules_of(new, loop.rules.generation)
        loop.parts.backend.reconfigure(new.backend)
        loop.parts.upkeep.settings = new.daemon
        if loop.control is not None:
            loop.control.permit(new.control.operators)
        rounds.replan(new)
        log.info("Reloaded %s", new.source, extra={"event": "reloaded"})

    def _leave(self, loop: Loop) -> None:
        for run in loop.parts.pool.runs.values():
            log.error(
                "Leaving run %s of action %s behind: it is stuck",
                run.order.run_id,
                run.action_id,
                extra={"event": "left-behind", "id": run.action_id},
            )
        loop.parts.pool.release_all()
        log.info("Stopped", extra={"event": "stopped"})


def recover_runs(loop: Loop, leftovers: Leftovers) -> None:
    """S2, in one transaction; then every action of the past is this daemon's own."""
    kept = leftovers.kept_results()
    started = loop.parts.db.started()
    found = recover(started, kept, leftovers.alive, loop.now, loop.rules)
    loop.begin(found.changes, found.stuck)
    for result in found.strangers:
        log.warning(
            "Dropped the kept result of run %s: it fits no open run",
            result.run_id,
            extra={"event": "stranger-result", "runId": result.run_id},
        )
    for run_id in kept.keys() - leftovers.alive:
        leftovers.forget_result(run_id)
    for change in found.changes:
        log.info(
            "Recovered action %s: %s (%s)",
            change.after.action.id,
            change.after.status.value,
            change.after.reason,
            extra={"event": "recovered", "id": change.after.action.id},
        )
