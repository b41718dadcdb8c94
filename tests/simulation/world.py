"""Simulated time and chance, and what is going to happen.

`now_us` never stops; the host's own clocks are made from it. What processes of the host do
happens on its monotonic clock, and not while it sleeps; everything else on `now_us`.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from geosched.ipc.instants import SECOND_US, format_instant, parse_instant
from geosched.supervisor.host.clock import Readings

#: When simulated time begins, by a clock that is right.
BEGIN_US = parse_instant("2027-01-01T00:00:00.000Z")
#: The loop looks at the clocks at least so often, and so sees a step or the end of a sleep.
STIR_SECONDS_MAX = 30.0
NOTES_KEPT = 300

Happening: TypeAlias = Callable[[], None]


class BrokenRuleError(AssertionError):
    """The daemon broke a rule."""


class DeathError(BaseException):
    """The daemon is gone, in the middle of whatever it did. Not to be caught by it."""


class KilledError(DeathError):
    """By a signal that nobody can catch; the host goes on."""


class PowerCutError(DeathError):
    """The host is gone with it."""


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_us = 0
        self.wall_offset_us = 0  # how wrong the wall clock is
        self.stepped_us = 0  # when it last jumped
        self.synchronised = False
        self.happened = 0
        self.boots = 0
        self.tells_steps = self.chance(0.5)  # whether a step wakes who waits (timerfd)
        self.daemon_lives = False
        self.awake = False  # somebody has something to tell the daemon
        self.notes: deque[tuple[int, str, tuple[Any, ...]]] = deque(maxlen=NOTES_KEPT)
        self._booted_us = -30 * SECOND_US
        self._slept_us = 0
        self._stir_us: int | None = None  # monotonic
        self._count = itertools.count()
        self._here: list[tuple[int, int, Happening]] = []  # by the monotonic clock
        self._elsewhere: list[tuple[int, int, Happening]] = []  # by `now_us`

    # --- clocks -------------------------------------------------------------------------

    @property
    def monotonic_us(self) -> int:
        return self.now_us - self._booted_us - self._slept_us

    @property
    def wall_us(self) -> int:
        return BEGIN_US + self.now_us + self.wall_offset_us

    @property
    def boot_us(self) -> int:
        return self.now_us - self._booted_us

    def readings(self) -> Readings:
        return Readings(
            wall_us=lambda: self.wall_us,
            monotonic_seconds=lambda: self.monotonic_us / SECOND_US,
            boot_seconds=lambda: self.boot_us / SECOND_US,
            synchronised=lambda: self.synchronised,
        )

    def set_wall(self, offset_us: int, *, synchronised: bool = False) -> None:
        """Step the wall clock: how far from the truth it is from now on."""
        self.note("the wall clock is %+.3f s off", offset_us / SECOND_US)
        self.wall_offset_us, self.synchronised = offset_us, synchronised
        self.stepped_us = self.now_us
        self._stir()

    def boot_id(self) -> str:
        return str(self.boots)

    def set_wall_to_1970(self) -> None:
        """What a clock without a battery reads."""
        self.set_wall(-BEGIN_US - self.now_us)

    def suspend(self, seconds: float) -> None:
        """The host sleeps; the monotonic clock stands still, and so do its processes."""
        self.note("the host sleeps for %.1f s", seconds)
        self.now_us += round(seconds * SECOND_US)
        self._slept_us += round(seconds * SECOND_US)
        self._stir()

    def reboot(self, dark_seconds: float) -> None:
        """The power goes, and comes back: no process is left, and clocks begin anew."""
        self._here.clear()
        self.boots += 1
        self.now_us += round(dark_seconds * SECOND_US)
        self._booted_us, self._slept_us = self.now_us - 10 * SECOND_US, 0
        self._stir_us, self.awake = None, False

    def pass_us(self, microseconds: int) -> None:
        """Time goes by while the daemon works."""
        self.now_us += microseconds

    def _stir(self) -> None:
        """The clock has jumped: the daemon notices it at once, or within a while."""
        self.awake |= self.tells_steps
        self._stir_us = self.monotonic_us + int(self.random.uniform(0, STIR_SECONDS_MAX * 1e6))

    # --- what is going to happen --------------------------------------------------------

    def after(self, seconds: float, happening: Happening) -> None:
        """On this host, so many of its waking seconds from now; a power cut prevents it."""
        at = self.monotonic_us + max(0, round(seconds * SECOND_US))
        heapq.heappush(self._here, (at, next(self._count), happening))

    def at(self, at_us: int, happening: Happening) -> None:
        """Anywhere, at an instant of `now_us`."""
        heapq.heappush(self._elsewhere, (max(at_us, self.now_us), next(self._count), happening))

    def sleep(self, seconds: float) -> None:
        """What the poll of the daemon does: wait so long, or until there is news for it."""
        ends_us = self.monotonic_us + -int(-seconds * 1000 // 1) * 1000  # whole milliseconds
        self._live_until(ends_us, lambda: self.awake)
        self.awake = False

    def go_by(self, seconds: float) -> None:
        """Live on for so many waking seconds, with nobody waiting for news."""
        self._live_until(self.monotonic_us + round(seconds * SECOND_US), lambda: False)

    def _live_until(self, ends_us: int, over: Callable[[], bool]) -> None:
        while not over():
            stirs_us = ends_us if self._stir_us is None else min(ends_us, self._stir_us)
            left_us = max(0, stirs_us - self.monotonic_us)
            following = self._next(self.now_us + left_us)
            if following is None:
                self.now_us += left_us
                break
            self.happened += 1
            following()
        self._stir_us = None

    def _next(self, until_us: int) -> Happening | None:
        """Take off what happens next, up to an instant, and go there."""
        here, elsewhere = self._here, self._elsewhere
        at_here = self.now_us + here[0][0] - self.monotonic_us if here else until_us + 1
        at_elsewhere = elsewhere[0][0] if elsewhere else until_us + 1
        if min(at_here, at_elsewhere) > until_us:
            return None
        self.now_us = max(self.now_us, min(at_here, at_elsewhere))
        return heapq.heappop(here if at_here <= at_elsewhere else elsewhere)[2]

    # --- chance and notes ---------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def note(self, text: str, *values: Any) -> None:
        self.notes.append((self.now_us, text, values))

    def told(self) -> list[str]:
        """The last notes as lines."""
        return [
            f"{format_instant(BEGIN_US + at_us)} {text % values}"
            for at_us, text, values in self.notes
        ]
