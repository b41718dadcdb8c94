"""What a soak does, as a pure function of its seed: the same seed, the same steps.

A step names its victim by kind and by `pick`, a number in [0, 1): which of the processes or
actions there are just then is the host's business.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

#: What a script does, by the `type` of its action.
KINDS = ("ok", "fails", "whole", "deaf", "brood", "again")
#: Who is hit, and how often of a hundred.
TARGETS = {
    "script": 30,
    "worker": 24,
    "armed": 8,
    "child": 10,
    "supervisor": 8,
    "zygote": 8,
    "synchroniser": 6,
    "everybody": 3,
    "supervisor+worker": 3,
}
FAULTS = ("reset", "garbage", "status", "truncated", "drip-body", "html", "down")


@dataclass(frozen=True)
class Add:
    """A new action: its window from now, in seconds."""

    kind: str
    start: float
    length: float


@dataclass(frozen=True)
class Withdraw:
    pick: float


@dataclass(frozen=True)
class Edit:
    """Other apps (S15: the run is replaced) or a later end."""

    pick: float
    longer: bool


@dataclass(frozen=True)
class StopAction:
    pick: float


@dataclass(frozen=True)
class Kill:
    target: str
    pick: float


@dataclass(frozen=True)
class Halt:
    """SIGSTOP; SIGCONT after so many seconds, or never where a daemon must cope with it."""

    target: str
    pick: float
    seconds: float | None


@dataclass(frozen=True)
class Stall:
    """Everything of the daemon is stopped, and continued."""

    seconds: float


@dataclass(frozen=True)
class BackendFault:
    name: str
    seconds: float


Step: TypeAlias = Add | Withdraw | Edit | StopAction | Kill | Halt | Stall | BackendFault


def plan(seed: int) -> Iterator[Step]:
    """Without end: how far it is followed is a matter of minutes."""
    chance = random.Random(seed)
    for number in itertools.count():
        if number % 3 == 0:
            yield Add(
                chance.choice(KINDS),
                start=round(chance.uniform(-0.5, 1.5), 2),
                length=round(chance.uniform(1.5, 8.0), 2),
            )
        yield _trouble(chance)


def _trouble(chance: random.Random) -> Step:
    pick = chance.random()
    match chance.choices(range(7), weights=(72, 8, 8, 6, 4, 1, 2))[0]:
        case 0:
            return Kill(chance.choices(list(TARGETS), weights=list(TARGETS.values()))[0], pick)
        case 1:
            return Withdraw(pick)
        case 2:
            return Edit(pick, longer=chance.random() < 0.5)
        case 3:
            return StopAction(pick)
        case 4:
            return _halt(chance, pick)
        case 5:
            return Stall(round(chance.uniform(0.5, 3.0), 2))
        case _:
            return BackendFault(chance.choice(FAULTS), round(chance.uniform(0.5, 3.0), 2))


def _halt(chance: random.Random, pick: float) -> Halt:
    target = chance.choice(("script", "worker", "armed", "zygote", "synchroniser", "supervisor"))
    for_ever = target in ("worker", "armed", "zygote", "synchroniser") and chance.random() < 0.5
    return Halt(target, pick, None if for_ever else round(chance.uniform(0.3, 2.5), 2))
