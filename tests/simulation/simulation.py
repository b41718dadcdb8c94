"""A simulated year from its seed: troubles come at random, and then everything settles."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from geosched.ipc.instants import SECOND_US
from geosched.supervisor.store.errors import StoreError

from .backendyear import DAY, HOUR, MINUTE, BackendYear
from .daemon import SimulatedDaemon
from .stage import Stage, settings_by, simulated
from .troubles import Troubles
from .world import BrokenRuleError, KilledError, PowerCutError, World

DAYS = 365.0
ACTIONS = 110
TROUBLES = 260
NOTES_SHOWN = 60
#: Once nothing fails any more, everything is settled within so many turns.
SETTLED_WITHIN_TURNS = 4_000
#: S16, and what a poll may be late.
LEAVING_MARGIN_SECONDS = 5.2


@dataclass
class Figures:
    """What a year held: turns of the loop, what happened in the world, and so on."""

    turns: int = 0
    happened: int = 0
    changes: int = 0
    lives: int = 0
    troubles: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()  # the last of them

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(
            self.turns + other.turns,
            self.happened + other.happened,
            self.changes + other.changes,
            self.lives + other.lives,
            self.troubles + other.troubles,
            self.statuses + other.statuses,
        )


def simulate(seed: int, directory: Path) -> Figures:
    """Live one year. Raises `BrokenRuleError`, which tells the seed and what came before it."""
    world = World(seed)
    with simulated(world), Stage(world, directory, *settings_by(world.random, directory)) as stage:
        try:
            return _Year(stage).live()
        except Exception as error:
            notes = "\n".join(world.told()[-NOTES_SHOWN:])
            told = f"seed {seed}: {error!r}\n\nThe last that happened:\n{notes}"
            raise BrokenRuleError(told) from error


class _Year:
    def __init__(self, stage: Stage) -> None:
        self._stage, self._world = stage, stage.world
        self._figures = Figures()
        self._year = BackendYear(stage.world, stage.backend, DAYS, ACTIONS)
        self._troubles = Troubles(stage, self._year, DAYS, TROUBLES)
        self._keeps_results = stage.world.chance(0.5)  # whether they outlive a power cut
        self._leaves_by_us: int | None = None
        self._last: frozenset[str] = frozenset()

    def live(self) -> Figures:
        """One life of the daemon after the other; in the last, nothing fails."""
        end_us = round(DAYS * DAY) * SECOND_US
        while self._world.now_us < end_us:
            self._live_once(lambda: self._world.now_us >= end_us)
            self._world.go_by(self._world.random.choice([0.1, 0.1, 1.0, 1.0, MINUTE, HOUR, DAY]))
        self._calm_down()
        turns_before = self._figures.turns
        self._live_once(lambda: self._is_settled(self._figures.turns - turns_before))
        self._stage.oracle.all_is_reported()
        if self._stage.host.scripts:
            raise BrokenRuleError(f"S16: left behind: {list(self._stage.host.scripts)}")
        return self._counted()

    def _counted(self) -> Figures:
        figures, oracle = self._figures, self._stage.oracle
        figures.happened, figures.changes = self._world.happened, oracle.changes
        figures.troubles, figures.statuses = self._troubles.struck, oracle.statuses
        figures.notes = tuple(self._world.told())
        return figures

    def _live_once(self, over: Callable[[], bool]) -> None:
        self._figures.lives += 1
        self._world.note("--- a daemon starts")
        if not self._troubles.over and self._world.chance(0.1):
            steps = self._world.random.randint(0, 6)
            self._stage.host.doom(steps, self._troubles.a_death())
        try:
            self._turn(self._stage.start_daemon(), over)
        except StoreError as error:
            if not self._stage.host.disk_full:
                raise
            self._world.note("--- the daemon cannot start: %s", error)
        except KilledError:
            self._world.note("--- the daemon is killed")
        except PowerCutError:
            self._world.note("--- the power is cut")
            self._troubles.power_comes_back(keeps_results=self._keeps_results)
        finally:
            self._stage.end_daemon()

    def _turn(self, daemon: SimulatedDaemon, over: Callable[[], bool]) -> None:
        self._leaves_by_us = None
        while not daemon.loop.finished:
            daemon.turn()
            self._figures.turns += 1
            if over() and daemon.loop.leaving is None:
                daemon.terminate()
            self._look_at_leaving(daemon)
        daemon.loop.parts.pool.release_all()
        self._world.note("--- the daemon stops in order")

    def _look_at_leaving(self, daemon: SimulatedDaemon) -> None:
        """S16: it leaves after at most the longest grace and 5 s, and what a disk stalls it."""
        now_us = self._world.monotonic_us - self._stage.host.stalled_us
        if daemon.loop.leaving is None:
            return
        if self._leaves_by_us is None:
            runs = daemon.loop.parts.pool.runs.values()
            longest = max((run.order.stop_grace_seconds for run in runs), default=0.0)
            margin_us = round((longest + LEAVING_MARGIN_SECONDS) * SECOND_US)
            self._leaves_by_us = now_us + margin_us
        if now_us > self._leaves_by_us:
            raise BrokenRuleError(
                "S16: the daemon takes longer to leave than the longest grace and 5 s"
            )

    # --- and then nothing fails any more --------------------------------------------------------

    def _calm_down(self) -> None:
        """The last few actions find a host on which everything works, and with room: all
        that came before them are over by then."""
        stage, year = self._stage, self._year
        self._troubles.over, stage.backend.fault, stage.host.disk_full = True, "", False
        year.over = True
        stage.backend.refused.clear()
        stage.backend.broken.clear()
        self._world.set_wall(0, synchronised=True)
        for worker in list(stage.host.workers.values()):
            worker.thaw()
        for number in range(3):
            begins = year.now + 10 * DAY + number * 2 * HOUR
            entry = year.entry(f"last{number}", begins, begins + HOUR)
            year.publish(entry | {"type": "once", "shouldBeExecuted": True})
        self._last = frozenset(f"last{number}" for number in range(3))

    def _is_settled(self, turns: int) -> bool:
        """S9 to S13, S18: what is due runs, everything comes to its end, all is reported."""
        daemon, oracle = self._stage.daemon, self._stage.oracle
        assert daemon is not None
        left = oracle.unsettled(daemon.db.outbox_depth)
        if turns > SETTLED_WITHIN_TURNS:
            raise BrokenRuleError(f"not settled within {turns} turns: {left}")
        if left or not self._last <= oracle.known.keys():
            return False
        never = [
            action_id for action_id in self._last if not oracle.known[action_id].record.attempt
        ]
        if never:
            raise BrokenRuleError(f"S9: never ran, and nothing was in the way: {never}")
        return True
