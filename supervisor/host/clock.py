"""The clocks, read once a turn, and the judgement whether the wall clock is trusted (S19).

The wall clock is *untrusted* while it reads earlier than this version was made or than
the highest time a trusted clock has shown, and, where that is asked for, while the kernel
has never called it synchronised since this daemon began. A clock that the kernel calls
synchronised now is trusted whatever it reads. The core decides what follows from that.
"""

import logging
import time
from collections.abc import Callable

import msgspec

from ... import RELEASED
from ...ipc.instants import SECOND_US, STEP_SECONDS_MIN, format_instant, parse_instant
from ...workers.host.linux import clock_synchronised
from ..core.model import Instant
from ..participant import Participant

log = logging.getLogger(__name__)

RELEASED_US = parse_instant(RELEASED)


class Readings(msgspec.Struct, frozen=True):
    """The host's clocks, or those of a simulated host."""

    wall_us: Callable[[], int] = lambda: time.time_ns() // 1000
    monotonic_seconds: Callable[[], float] = time.monotonic
    boot_seconds: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    synchronised: Callable[[], bool] = clock_synchronised


class Clock(Participant):
    """`mark_us` is the highest time that a trusted clock has shown, kept in daemonDB.

    An untrusted clock delays decisions for at most `wait_seconds` from now on.
    `must_synchronise`: a clock that is merely plausible is not trusted either.
    """

    def __init__(
        self,
        *,
        mark_us: int,
        wait_seconds: float,
        must_synchronise: bool = False,
        readings: Readings | None = None,
    ) -> None:
        self.mark_us = mark_us
        self.stepped = False
        self._must_synchronise = must_synchronise
        self._was_synchronised = False
        self._readings = readings or Readings()
        self._wait_ends_boot_seconds = self._readings.boot_seconds() + wait_seconds
        self._offset_seconds: float | None = None
        self._trusted: bool | None = None
        self._why_not = ""

    def read(self) -> Instant:
        """Read the time of this turn; `stepped` is set where edges must be looked up again."""
        boot_seconds = self._readings.boot_seconds()
        wall_us = max(0, self._readings.wall_us())
        self.stepped = self._notice_step(wall_us, boot_seconds)
        trusted = self._judge(wall_us, boot_seconds)
        return Instant(wall_us, self.monotonic_seconds(), boot_seconds, trusted, self.trusted)

    def monotonic_seconds(self) -> float:
        return self._readings.monotonic_seconds()

    def later(self, now: Instant) -> Instant:
        """Return `now` with a newer reading of the monotonic clock, for deadlines that are set
        after a commit: one that stalled must not have used their time up. Nothing is decided by
        it, so the wall clock stays; an instant that was decided ahead stays ahead."""
        reading = max(now.monotonic_seconds, self.monotonic_seconds())
        return msgspec.structs.replace(now, monotonic_seconds=reading)

    def wait_ends_in(self, now: Instant) -> float | None:
        """Return the seconds until an untrusted clock is believed all the same; None while
        it is."""
        return None if now.trusted else max(0.0, self._wait_ends_boot_seconds - now.boot_seconds)

    def next_deadline(self, now: Instant) -> float | None:
        wait_seconds = self.wait_ends_in(now)
        return None if wait_seconds is None else now.monotonic_seconds + wait_seconds

    @property
    def trusted(self) -> bool:
        """Trust as shown to people: an untrusted clock that was waited for stays untrusted."""
        return self._trusted is not False

    @property
    def detail(self) -> str:
        """The reason why the clock is not trusted, for people; "" while it is."""
        if self._trusted is not False:
            return ""
        return self._why_not

    def _notice_step(self, wall_us: int, boot_seconds: float) -> bool:
        offset = wall_us / SECOND_US - boot_seconds
        last, self._offset_seconds = self._offset_seconds, offset
        if last is None or abs(offset - last) < STEP_SECONDS_MIN:
            return False
        log.warning(
            "The wall clock was stepped by %+.3f s to %s",
            offset - last,
            format_instant(wall_us),
            extra={"event": "clock-step", "seconds": round(offset - last, 3)},
        )
        return True

    def _judge(self, wall_us: int, boot_seconds: float) -> bool:
        earliest_us = max(self.mark_us, RELEASED_US)
        plausible = wall_us >= earliest_us
        settled = self._was_synchronised or not self._must_synchronise
        synchronised = not (plausible and settled) and self._readings.synchronised()
        self._was_synchronised |= synchronised
        believed = synchronised or (plausible and settled)
        if believed:
            self.mark_us = wall_us
        elif plausible:
            self._why_not = "was never synchronised since the daemon began"
        else:
            self._why_not = f"reads earlier than {format_instant(earliest_us)}"
        if believed is not self._trusted:
            self._tell(believed, wall_us)
            self.stepped = self._trusted is not None
            self._trusted = believed
        return believed or boot_seconds >= self._wait_ends_boot_seconds

    def _tell(self, believed: bool, wall_us: int) -> None:
        if not believed:
            log.warning(
                "The wall clock is not trusted: it reads %s, and %s",
                format_instant(wall_us),
                self._why_not,
                extra={"event": "clock-untrusted"},
            )
        elif self._trusted is False:
            log.info(
                "The wall clock is trusted: it reads %s",
                format_instant(wall_us),
                extra={"event": "clock-trusted"},
            )
