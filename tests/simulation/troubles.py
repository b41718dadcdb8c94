"""What goes wrong on the host: half of it about when windows begin and end."""

from collections import Counter
from collections.abc import Callable

from geosched.ipc.instants import SECOND_US
from msgspec.structs import replace

from .backendyear import DAY, HOUR, MINUTE, BackendYear
from .stage import Stage
from .world import DeathError, KilledError, PowerCutError


class Troubles:
    """They strike until `over`; `struck` counts them by kind."""

    def __init__(self, stage: Stage, year: BackendYear, days: float, count: int) -> None:
        self.over = False
        self.struck: Counter[str] = Counter()
        self._stage, self._year = stage, year
        self._world, self._chance = stage.world, stage.world.random
        kinds = self._kinds()
        weights = [weight for weight, _ in kinds.values()]
        for _ in range(count):
            (name,) = self._chance.choices(list(kinds), weights)
            self._world.at(self._an_instant(days), self._trouble(name, kinds[name][1]))

    def _an_instant(self, days: float) -> int:
        chance = self._chance
        if chance.random() < 0.4:
            return round(chance.uniform(0, days * DAY * SECOND_US))
        near_seconds = chance.choice([0.05, 2.0, 60.0]) * chance.gauss(0, 1)
        return chance.choice(self._year.edges) + round(near_seconds * SECOND_US)

    def _trouble(self, name: str, strike: Callable[[], None]) -> Callable[[], None]:
        def happen() -> None:
            if not self.over:
                self.struck[name] += 1
                self._world.note("trouble: %s", name)
                strike()

        return happen

    def _kinds(self) -> dict[str, tuple[int, Callable[[], None]]]:
        """Each kind of trouble with its weight."""
        return {
            "the backend meddles": (40, self._meddle),
            "the backend fails": (6, self._year.fail),
            "reports are refused": (4, self._year.refuse),
            "the daemon dies": (14, lambda: self._strike_down(self.a_death())),
            "the daemon is stopped": (7, self._stop_daemon),
            "the power is cut": (6, lambda: self._strike_down(PowerCutError)),
            "the host sleeps": (4, self._suspend),
            "the clock is stepped": (6, self._step_clock),
            "a worker is killed": (8, self._kill_worker),
            "a worker is frozen": (3, self._freeze_worker),
            "the zygote dies": (2, self._kill_zygote),
            "an operator stops": (8, self._stop_action),
            "the disk is full": (3, self._fill_disk),
            "the disk is slow": (2, self._slow_disk),
            "settings are reloaded": (2, self._reload),
        }

    def _later(self, seconds: float, happening: Callable[[], None]) -> None:
        self._world.at(self._world.now_us + round(seconds * SECOND_US), happening)

    def _meddle(self) -> None:
        """The backend changes its mind; often somebody makes the daemon pull soon after."""
        self._year.meddle()
        if self._world.chance(0.7):
            self._later(self._chance.choice([0.0, 0.5, 30.0]), self._sync)

    def _sync(self) -> None:
        daemon = self._stage.daemon
        if self._world.daemon_lives and daemon and daemon.loop.leaving is None:
            daemon.loop.parts.sync.ask()
            self._world.awake = True

    # --- the daemon and its host ----------------------------------------------------------------

    def a_death(self) -> type[DeathError]:
        return PowerCutError if self._world.chance(0.25) else KilledError

    def _strike_down(self, death: type[DeathError]) -> None:
        """At once, or at one of the daemon's next steps."""
        if not self._world.daemon_lives:
            return
        if self._world.chance(0.3):
            raise death
        self._stage.host.doom(self._chance.randint(0, 12), death)

    def power_comes_back(self, *, keeps_results: bool) -> None:
        """After a while, with whatever the wall clock then says."""
        world, chance = self._world, self._chance
        self._stage.host.power_is_cut(keeps_results=keeps_results)
        dark = chance.choice([1.0, MINUTE, HOUR, 2 * DAY])
        world.reboot(dark)
        if self.over:
            return
        way = chance.random()
        if way < 0.4:
            world.set_wall(0)
        elif way < 0.7:  # it stood still meanwhile, or longer
            world.set_wall(-round(chance.choice([dark, 3 * DAY])) * SECOND_US)
        elif way < 0.9:
            world.set_wall_to_1970()
        else:
            world.set_wall(round(chance.uniform(0, 5 * DAY)) * SECOND_US)
        self._clock_is_mended(chance.choice([5.0, MINUTE, 20 * MINUTE, 5 * HOUR]))

    def _clock_is_mended(self, seconds: float) -> None:
        told = self._world.chance(0.5)
        self._world.after(seconds, lambda: self._world.set_wall(0, synchronised=told))

    def _stop_daemon(self) -> None:
        if self._world.daemon_lives and self._stage.daemon:
            self._stage.daemon.terminate()

    def _suspend(self) -> None:
        self._world.suspend(self._chance.choice([2.0, MINUTE, HOUR, 10 * HOUR]))

    def _step_clock(self) -> None:
        seconds = self._chance.choice([-DAY, -HOUR, -5.0, -0.6, 0.6, 5.0, HOUR, DAY])
        self._world.set_wall(round(seconds * SECOND_US))
        self._clock_is_mended(self._chance.choice([10.0, HOUR, DAY]))

    def _fill_disk(self) -> None:
        host = self._stage.host
        host.disk_full = True

        def make_room() -> None:
            host.disk_full = False

        self._later(self._chance.choice([3.0, 20.0, 200.0]), make_room)

    def _slow_disk(self) -> None:
        self._stage.host.slow_commits = 3

    # --- workers, people ------------------------------------------------------------------------

    def _kill_worker(self) -> None:
        workers = list(self._stage.host.workers.values())
        if workers:
            self._chance.choice(workers).be_killed()

    def _freeze_worker(self) -> None:
        running = [worker for worker in self._stage.host.workers.values() if worker.script]
        if running:
            worker = self._chance.choice(running)
            worker.freeze()
            self._world.after(self._chance.choice([5.0, 14.0, 100.0]), worker.thaw)
            self._world.awake = True

    def _kill_zygote(self) -> None:
        if self._stage.daemon is not None:
            self._stage.daemon.children.zygote_dies()

    def _stop_action(self) -> None:
        stage, oracle = self._stage, self._stage.oracle
        if not self._world.daemon_lives or not stage.daemon or stage.daemon.loop.leaving:
            return
        begun = [i for i, seen in oracle.open.items() if seen.record.attempt]
        among = self._chance.choice([begun, begun, list(oracle.known)])
        if among:
            action_id = self._chance.choice(among)
            oracle.stop_is_asked(action_id)
            stage.daemon.loop.ask_stop(action_id)
            self._world.awake = True

    def _reload(self) -> None:
        """Another `max_running`; a lower one stops nothing."""
        stage = self._stage
        most = self._chance.choice([1, 3, 8])
        daemon = replace(stage.settings.daemon, max_running=most)
        stage.settings = replace(stage.settings, daemon=daemon)
        stage.oracle.max_running = most
        if stage.daemon is not None:
            stage.daemon.settings = stage.daemon.loop.settings = stage.settings
