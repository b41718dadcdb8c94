"""A simulated year from its seed: troubles come at random, and then everything settles."""

import contextlib
import logging
import os
import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from geosched.ipc.instants import SECOND_US
from geosched.supervisor import loop as loop_module
from geosched.supervisor.rules import rules_of
from geosched.supervisor.settings import (
    BackendSettings,
    ControlSettings,
    DaemonSettings,
    ScriptSettings,
    Settings,
)
from geosched.supervisor.store.daemondb import StoreError
from msgspec.structs import replace

from .backendyear import DAY, HOUR, MINUTE, BackendYear
from .daemon import SimulatedDaemon
from .exchange import SimulatedBackend
from .host import Host
from .oracle import Oracle
from .world import BEGIN_US, DeathError, Fault, KilledError, PowerCutError, World

DAYS = 365.0
ACTIONS = 110
TROUBLES = 260
#: When nothing fails any more, everything is settled within so many turns.
SETTLED_WITHIN_TURNS = 4_000
LEAVING_MARGIN_SECONDS = 5.2


@dataclass
class Figures:
    """What a year held: turns, what happened in the world, commits, and troubles by kind."""

    turns: int = 0
    happened: int = 0
    changes: int = 0
    lives: int = 0
    troubles: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    last: tuple[str, ...] = ()


def simulate(seed: int, directory: Path) -> Figures:
    """Live one year. Raises `Fault`, which tells the seed and what came before it."""
    with _simulated(seed):
        year = _Year(seed, directory)
        try:
            year.live()
        except (Exception, DeathError) as error:
            last = "\n".join(year.world.told()[-2500:])
            raise Fault(f"seed {seed}: {error!r}\nthe last that happened:\n{last}") from error
        finally:
            year.close()
    return year.figures


@contextlib.contextmanager
def _simulated(seed: int) -> Iterator[None]:
    """Chance from the seed alone; and the loop sleeps until its own deadlines, not only for
    30 seconds: a deadline that it forgets is then found, and a year has fewer turns."""
    chance = random.Random(seed)
    logging.disable(logging.CRITICAL)
    try:
        with (
            mock.patch.object(secrets, "token_hex", lambda n: chance.randbytes(n).hex()),
            mock.patch.object(loop_module, "IDLE_SECONDS_MAX", 400 * DAY),
        ):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _settings(directory: Path, chance: random.Random) -> Settings:
    daemon = DaemonSettings(
        state_dir=directory / "state",
        log_dir=directory / "log",
        max_running=chance.choice([2, 3, 5, 20]),
        spare_workers=chance.choice([0, 1]),
        retention_seconds=chance.choice([2.0, 14.0]) * DAY,
    )
    backend = BackendSettings(
        url="http://simulated",
        poll_interval_seconds=chance.choice([0.5, 1.0, 2.0]) * DAY,
        report=chance.random() < 0.9,
    )
    command = ("/bin/script",)
    scripts = {
        "once": ScriptSettings(command=command),
        "again": ScriptSettings(command=command, restart="on-failure", stop_grace_seconds=2.0),
        "always": ScriptSettings(
            command=command,
            restart="always",
            restart_delay_seconds=60.0,
            restart_delay_max_seconds=HOUR,
        ),
        "few": ScriptSettings(command=command, restart="on-failure", max_restarts=2),
    }
    source = directory / "none"
    return Settings(
        daemon=daemon, backend=backend, scripts=scripts, control=ControlSettings(), source=source
    )


class _Year:
    def __init__(self, seed: int, directory: Path) -> None:
        self.world = world = World(seed)
        self.figures = Figures()
        self.settings = _settings(directory, world.random)
        self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        report, most = self.settings.backend.report, self.settings.daemon.max_running
        self.oracle = oracle = Oracle(world, report=report, max_running=most)
        self.oracle.policies = rules_of(self.settings, "").policies
        self.host = Host(world, oracle)
        oracle.living, oracle.kept = self.host.scripts, self.host.kept
        self.backend = SimulatedBackend(world, oracle.reported)
        self.year = BackendYear(world, self.backend, DAYS, ACTIONS)
        self.daemon: SimulatedDaemon | None = None
        self._calm = False
        self._keeps_results = world.chance(0.5)
        self._plan_troubles()

    def close(self) -> None:
        for descriptor in self._wakeup:
            os.close(descriptor)

    # --- a life of the daemon after the other -----------------------------------------------------

    def live(self) -> None:
        end_us = round(DAYS * DAY) * SECOND_US
        while self.world.now_us < end_us:
            self._live_once(lambda: self.world.now_us >= end_us)
            self.world.go_by(self._pause())
        self._calm_down()
        self._live_once(self._is_settled)
        self.oracle.all_is_reported()
        if self.host.scripts or self.host.kept.keys() & self.oracle.runs.keys():
            raise Fault(f"S17: left behind: {list(self.host.scripts)}")
        self.figures.happened, self.figures.changes = self.world.happened, self.oracle.changes
        self.figures.statuses.update(
            {status.value: count for status, count in self.oracle.statuses.items()}
        )
        self.figures.last = tuple(self.world.told())

    def _pause(self) -> float:
        """How long nobody starts the daemon again."""
        return self.world.random.choice([0.1, 0.1, 1.0, 1.0, MINUTE, HOUR, DAY])

    def _live_once(self, over: Callable[[], bool]) -> None:
        self.figures.lives += 1
        self.world.note("--- a daemon starts")
        if not self._calm and self.world.chance(0.1):
            self.host.doom(self.world.random.randint(0, 6), self._a_death())
        try:
            self.daemon = daemon = SimulatedDaemon(
                self.world, self.host, self.oracle, self.backend, self.settings, self._wakeup
            )
            self.world.daemon_lives = True
            self._turn(daemon, over)
        except StoreError as error:
            if not self.host.disk_full:
                raise
            self.world.note("the daemon cannot start: %s", error)
        except KilledError:
            self.world.note("--- the daemon is killed")
        except PowerCutError:
            self._cut_power()
        finally:
            self._end()

    def _turn(self, daemon: SimulatedDaemon, over: Callable[[], bool]) -> None:
        while not daemon.loop.finished:
            daemon.turn()
            self.figures.turns += 1
            if over() and daemon.loop.leaving is None:
                daemon.terminate()
            self._look_at_leaving(daemon)
        daemon.loop.parts.pool.release_all()
        self.world.note("--- the daemon stops in order")

    def _look_at_leaving(self, daemon: SimulatedDaemon) -> None:
        """S16: it leaves after at most the longest grace and 5 s."""
        leaving = daemon.loop.leaving
        if leaving is None or leaving.told:
            return
        leaving.told = True
        graces = (run.order.stop_grace_seconds for run in daemon.loop.parts.pool.runs.values())
        if leaving.bound_seconds > max(graces, default=0.0) + LEAVING_MARGIN_SECONDS:
            raise Fault(f"S16: it takes {leaving.bound_seconds} s to leave")

    def _end(self) -> None:
        self.world.daemon_lives = False
        if self.daemon is not None:
            self.daemon.close()
            self.daemon = None
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup[0], 512)
        self.host.daemon_is_gone()

    def _cut_power(self) -> None:
        self.world.note("--- the power is cut")
        self.host.power_is_cut(keeps_results=self._keeps_results)
        dark = self.world.random.choice([1.0, MINUTE, HOUR, 2 * DAY])
        self.world.reboot(dark)
        if self._calm:
            return
        way = self.world.random.random()
        if way < 0.4:
            self.world.set_wall(0)
        elif way < 0.7:  # it stood still meanwhile, or longer
            self.world.set_wall(-round(self.world.random.choice([dark, 3 * DAY])) * SECOND_US)
        elif way < 0.9:
            self.world.set_wall(-self.world.now_us - BEGIN_US)  # 1970
        else:
            self.world.set_wall(round(self.world.random.uniform(0, 5 * DAY)) * SECOND_US)
        seconds = self.world.random.choice([5.0, MINUTE, 20 * MINUTE, 5 * HOUR])
        told = self.world.chance(0.5)
        self.world.after(seconds, lambda: self.world.set_wall(0, synchronised=told))

    # --- troubles ---------------------------------------------------------------------------------

    def _plan_troubles(self) -> None:
        """Half of them about when windows begin and end, the rest at any time."""
        chance, kinds = self.world.random, self._kinds()
        for _ in range(TROUBLES):
            at_us = chance.uniform(0, DAYS * DAY * SECOND_US)
            if chance.random() < 0.6:
                edge_us = chance.choice(self.year.edges)
                at_us = edge_us + chance.choice([0.05, 2.0, 60.0]) * chance.gauss(0, 1) * SECOND_US
            (name,) = chance.choices(list(kinds), [weight for weight, _ in kinds.values()])
            self.world.at(round(at_us), self._trouble(name, kinds[name][1]))

    def _trouble(self, name: str, strike: Callable[[], None]) -> Callable[[], None]:
        def happen() -> None:
            if not self._calm:
                self.figures.troubles[name] += 1
                self.world.note("trouble: %s", name)
                strike()

        return happen

    def _kinds(self) -> dict[str, tuple[int, Callable[[], None]]]:
        """Each kind of trouble with its weight."""
        return {
            "meddle": (40, self._meddle),
            "backend fails": (6, self.year.fail),
            "reports refused": (4, self.year.refuse),
            "daemon dies": (14, self._kill_daemon),
            "daemon stops": (7, self._stop_daemon),
            "power cut": (6, self._doom_power),
            "suspend": (4, self._suspend),
            "clock step": (6, self._step_clock),
            "worker killed": (8, self._kill_worker),
            "worker frozen": (3, self._freeze_worker),
            "zygote dies": (2, self._kill_zygote),
            "operator": (8, self._stop_action),
            "disk full": (3, self._fill_disk),
            "slow disk": (2, self._slow_disk),
            "reload": (2, self._reload),
        }

    def _meddle(self) -> None:
        """The backend changes its mind; often somebody makes the daemon pull soon after."""
        self.year.meddle()
        if self.world.chance(0.7):
            self.world.after(self.world.random.choice([0.0, 0.5, 30.0]), self._sync)

    def _sync(self) -> None:
        if self.world.daemon_lives and self.daemon and self.daemon.loop.leaving is None:
            self.daemon.loop.parts.backend.ask()
            self.world.awake = True

    def _a_death(self) -> type[DeathError]:
        return PowerCutError if self.world.chance(0.25) else KilledError

    def _kill_daemon(self) -> None:
        self._doom(self._a_death())

    def _doom_power(self) -> None:
        if not self.world.daemon_lives:
            return
        self._doom(PowerCutError)

    def _doom(self, death: type[DeathError]) -> None:
        """At once, or at one of its next steps."""
        if not self.world.daemon_lives:
            return
        if self.world.chance(0.3):
            raise death
        self.host.doom(self.world.random.randint(0, 12), death)

    def _stop_daemon(self) -> None:
        if self.world.daemon_lives and self.daemon:
            self.daemon.terminate()

    def _suspend(self) -> None:
        self.world.suspend(self.world.random.choice([2.0, MINUTE, HOUR, 10 * HOUR]))

    def _step_clock(self) -> None:
        seconds = self.world.random.choice([-DAY, -HOUR, -5.0, -0.6, 0.6, 5.0, HOUR, DAY])
        self.world.set_wall(round(seconds * SECOND_US))
        back = self.world.random.choice([10.0, HOUR, DAY])
        told = self.world.chance(0.5)
        self.world.after(back, lambda: self.world.set_wall(0, synchronised=told))

    def _kill_worker(self) -> None:
        workers = [worker for worker in self.host.workers.values()]
        if workers:
            self.world.random.choice(workers).be_killed()

    def _freeze_worker(self) -> None:
        running = [worker for worker in self.host.workers.values() if worker.script]
        if running:
            worker = self.world.random.choice(running)
            worker.freeze()
            self.world.after(self.world.random.choice([5.0, 14.0, 100.0]), worker.thaw)
            self.world.awake = True

    def _kill_zygote(self) -> None:
        if self.daemon is not None:
            self.daemon.children.zygote_dies()

    def _stop_action(self) -> None:
        if self.world.daemon_lives and self.daemon and self.daemon.loop.leaving is None:
            started = [i for i, seen in self.oracle.open.items() if seen.record.attempt]
            known = self.world.random.choice([started, started, list(self.oracle.grown)])
            if known:
                action_id = self.world.random.choice(known)
                self.oracle.stop_is_asked(action_id)
                self.daemon.loop.ask_stop(action_id)
                self.world.awake = True

    def _fill_disk(self) -> None:
        self.host.disk_full = True

        def make_room() -> None:
            self.host.disk_full = False

        self.world.at(
            self.world.now_us + round(self.world.random.choice([3.0, MINUTE, HOUR]) * SECOND_US),
            make_room,
        )

    def _slow_disk(self) -> None:
        self.host.slow_commits = 3

    def _reload(self) -> None:
        """Another `max_running`; a lower one stops nothing."""
        most = self.world.random.choice([1, 3, 8])
        daemon = replace(self.settings.daemon, max_running=most)
        self.settings = replace(self.settings, daemon=daemon)
        self.oracle.max_running = most
        if self.daemon is not None:
            self.daemon.settings = self.daemon.loop.settings = self.settings

    # --- and then nothing fails any more ----------------------------------------------------------

    def _calm_down(self) -> None:
        world = self.world
        self._calm, self.backend.fault, self.host.disk_full = True, "", False
        self.backend.refused.clear()
        self.backend.broken.clear()
        world.set_wall(0, synchronised=True)
        for worker in self.host.workers.values():
            worker.thaw()
        self._turns_before = self.figures.turns
        begins = self.year.now + HOUR
        for number in range(3):
            self.year.publish(
                self.year.entry(f"last{number}", begins, begins + HOUR)
                | {"type": "once", "shouldBeExecuted": True}
            )
        self._last = {f"last{number}" for number in range(3)}

    def _is_settled(self) -> bool:
        """S9 to S13, S18: what is due runs, everything comes to its end, all is reported."""
        turns = self.figures.turns - self._turns_before
        daemon = self.daemon
        assert daemon is not None
        left = list(self.oracle.all_is_settled(daemon.db.outbox_depth))
        if turns > SETTLED_WITHIN_TURNS:
            raise Fault(f"not settled within {turns} turns: {left}")
        return not left and self._last <= self.oracle.grown.keys()
