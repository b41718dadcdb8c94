"""What the backend does in a year: actions come, change, are withdrawn, come back, and go."""

from typing import Any

from geosched.ipc.instants import SECOND_US, format_instant

from .exchange import FAULTS, SimulatedBackend
from .world import BEGIN_US, World

TYPES = ("once", "once", "again", "always", "few", "unknown")
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
APPS = (("Chrome",), ("Chrome", "Steam"), ("Steam", "Chrome"), ())


class BackendYear:
    """`edges` are the instants, of `now_us`, at which windows begin and end."""

    def __init__(self, world: World, backend: SimulatedBackend, days: float, actions: int) -> None:
        self.world, self.backend = world, backend
        self.edges: list[int] = []
        self.over = False  # nothing that is planned happens any more
        self._chance = world.random
        self._number = 0
        begins: list[float] = []
        for _ in range(actions):
            begins.append(self._a_begin(begins, days))
            self._plan(begins[-1], self._a_length())

    def _a_begin(self, others: list[float], days: float) -> float:
        """In seconds from the start: often with, or near, the window of another action."""
        chance = self._chance
        if others and chance.random() < 0.5:
            near = chance.choice(others[-6:])
            return near + chance.choice([0.0, 0.0, MINUTE, HOUR, chance.uniform(-HOUR, 6 * HOUR)])
        return chance.uniform(0.1, days - 5.0) * DAY // MINUTE * MINUTE

    def _a_length(self) -> float:
        chance = self._chance
        return chance.choice(
            [
                round(chance.uniform(0.1, 20.0), 1),
                MINUTE * chance.randint(1, 30),
                HOUR * chance.randint(1, 8),
                HOUR * chance.randint(1, 8),
                HOUR * chance.randint(12, 72),
            ]
        )

    def _plan(self, begins: float, length: float) -> None:
        self._number += 1
        action_id, chance = f"a{self._number}", self._chance
        lead = chance.choice([0.0, 1.0, MINUTE, HOUR, DAY, 5 * DAY, -MINUTE, -length - HOUR])
        entry = self.entry(action_id, begins, begins + length)
        self.world.at(_us(begins - lead), lambda: self.publish(entry))
        gone = begins + length + chance.uniform(-0.2, 10.0) * DAY
        self.world.at(_us(gone), lambda: self.withdraw(action_id))
        self.edges += [_us(begins), _us(begins + length)]

    def entry(self, action_id: str, begins: float, ends: float) -> dict[str, Any]:
        """As the backend sends it; the window in seconds from the start."""
        return {
            "id": action_id,
            "fromDate": format_instant(BEGIN_US + _us(begins)),
            "toDate": format_instant(BEGIN_US + _us(ends)),
            "shouldBeExecuted": not self.world.chance(0.04),
            "appNames": self._chance.choice(APPS),
            "type": self._chance.choice(TYPES),
        }

    @property
    def now(self) -> float:
        return self.world.now_us / SECOND_US

    # --- what it does ---------------------------------------------------------------------------

    def publish(self, entry: dict[str, Any]) -> None:
        self.world.note("backend: sends %s", entry)
        self.backend.entries[entry["id"]] = entry

    def withdraw(self, action_id: str) -> None:
        self.world.note("backend: sends %s no more", action_id)
        self.backend.entries.pop(action_id, None)

    def meddle(self) -> None:
        """One change of its mind, chosen by chance."""
        ways = (
            self.move,
            self.move,
            self.end_now,
            self.change_work,
            self.change_work,
            self.unwant,
            self.go_and_return,
            self.go_and_return,
            self.spoil,
            self.use_again,
        )
        self._chance.choice(ways)()

    def _one(self) -> dict[str, Any] | None:
        """An entry, mostly of an action whose window is not over."""
        now = format_instant(BEGIN_US + self.world.now_us)
        every = list(self.backend.entries.values())
        open_ones = [entry for entry in every if entry["toDate"] > now]
        begun = [entry for entry in open_ones if entry["fromDate"] <= now]
        chosen = self._chance.choice([begun, begun, open_ones, every])
        return self._chance.choice(chosen) if chosen else None

    def _edit(self, **fields: Any) -> None:
        entry = self._one()
        if entry is not None:
            changed = entry | fields
            if changed["toDate"] > changed["fromDate"]:
                self.publish(changed)

    def move(self) -> None:
        chance = self._chance
        begins = self.now + chance.choice([-HOUR, -1.0, 1.0, HOUR, chance.uniform(-HOUR, DAY)])
        ends = begins + self._a_length()
        dates = {
            "fromDate": format_instant(BEGIN_US + _us(begins)),
            "toDate": format_instant(BEGIN_US + _us(ends)),
        }
        kept = chance.choice([("fromDate", "toDate"), ("fromDate",), ("toDate",), ("toDate",)])
        self._edit(**{key: dates[key] for key in kept})

    def end_now(self) -> None:
        ends = self.now + self._chance.choice([-MINUTE, -0.5, 0.5, 5.0, MINUTE])
        self._edit(toDate=format_instant(BEGIN_US + _us(ends)))

    def change_work(self) -> None:
        chance = self._chance
        self._edit(
            **chance.choice(
                [
                    {"appNames": chance.choice(APPS)},
                    {"args": {"level": chance.randint(1, 3)}},
                    {"type": chance.choice(TYPES)},
                ]
            )
        )

    def unwant(self) -> None:
        self._edit(shouldBeExecuted=self.world.chance(0.3))

    def go_and_return(self) -> None:
        """Something is changed or taken away, and soon it is as it was."""
        before = dict(self.backend.entries)
        entry = self._one()
        if entry is None:
            return
        many = self._chance.sample(list(before), self._chance.randint(0, len(before)))
        if self.world.chance(0.5):
            for action_id in [entry["id"], *many]:
                self.withdraw(action_id)
        else:
            self.unwant()

        def undo() -> None:
            if self.over:
                return
            self.world.note("backend: is as it was before")
            self.backend.entries.clear()
            self.backend.entries.update(before)

        seconds = self._chance.choice([1.0, 5.0, MINUTE, HOUR, DAY])
        self.world.at(self.world.now_us + _us(seconds), undo)

    def spoil(self) -> None:
        """Entries that nobody can read, or that contradict each other; for a while."""
        entry = self._one()
        broken: list[Any] = [{"id": 7}, {"nonsense": True}]
        if entry is not None:
            broken = [{"id": entry["id"], "fromDate": "soon"}, {**entry, "appNames": ["Other"]}]
        self.backend.broken = [self._chance.choice([*broken, {"id": None}])]
        self.world.note("backend: sends what is broken: %s", self.backend.broken)
        at_us = self.world.now_us + _us(self._chance.choice([MINUTE, HOUR, 3 * DAY]))
        self.world.at(at_us, self.backend.broken.clear)

    def use_again(self) -> None:
        """An old id comes with a new window."""
        action_id = f"a{self._chance.randint(1, self._number)}"
        begins = self.now + self._chance.uniform(-HOUR, HOUR)
        self.publish(self.entry(action_id, begins, begins + self._a_length()))

    def fail(self) -> None:
        """It is away, or answers nonsense, for a while."""
        self.backend.fault = self._chance.choice(FAULTS)
        self.world.note("backend: fails by %s", self.backend.fault)
        seconds = self._chance.choice([1.0, MINUTE, MINUTE, HOUR, 4 * HOUR])

        def recover() -> None:
            self.backend.fault = ""

        self.world.at(self.world.now_us + _us(seconds), recover)

    def refuse(self) -> None:
        """It refuses the reports of one action for a while, or until they are set aside."""
        action_id = f"a{self._chance.randint(1, self._number)}"
        self.backend.refused[action_id] = self._chance.choice([1, 3, 15])


def _us(seconds: float) -> int:
    """To the millisecond: what a date can say."""
    return round(seconds * 1000) * 1000
