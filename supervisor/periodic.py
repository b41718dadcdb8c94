"""Periodic jobs of the daemon itself, run by `schedule`. Actions are never among them.

`schedule` reads naive local time and would sleep for an hour, or for years, after a clock
step (facts S1 to S3); so it is given a `datetime` that tells the time since boot. A job that
fails is logged, and does not stop the others.
"""

import datetime
import logging
from collections.abc import Callable
from typing import Any, cast

import schedule

from ..ipc.digests import blake2b
from .core.model import Instant
from .participant import News, Participant

log = logging.getLogger(__name__)

#: Of less than a microsecond `schedule` adds up nothing, for ever (fact S4).
PERIOD_SECONDS_MIN = 0.001
_REAL = datetime  # below, a class has an attribute of that name
#: A poll that would follow another within this part of the interval is left out.
POLL_GAP_MIN = 0.1
#: Boot, as a naive date: `schedule` compares nothing else.
_BOOT = datetime.datetime.fromisoformat("2000-01-01")


class _BootTime(datetime.datetime):
    """The clock of `schedule`: seconds since boot, as a naive date."""

    boot_seconds = 0.0

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "_BootTime":
        moment = _BOOT + _REAL.timedelta(seconds=cls.boot_seconds)
        return cls.combine(moment.date(), moment.time(), tz)


class PeriodicJobs(Participant):
    """Named jobs, each repeated at an interval of the boot clock.

    An error of one of the classes `known` says all by its text, and ends the daemon where its
    attribute `fatal` is true; any other is logged with its trace.
    """

    def __init__(self, boot_seconds: float, known: tuple[type[Exception], ...] = ()) -> None:
        self._known = known
        vars(schedule)["datetime"] = _SteadyModule
        self._scheduler = schedule.Scheduler()
        self._next_boot_seconds: float | None = None
        _BootTime.boot_seconds = boot_seconds

    def every(self, seconds: float, name: str, job: Callable[[], None]) -> None:
        """Run `job` every `seconds`, the first time that long from now."""
        self._plan(seconds, name, self._guarded(name, job))

    def every_at_phase(
        self,
        seconds: float,
        phase_seconds: float,
        name: str,
        job: Callable[[], None],
        *,
        after_seconds: float = 0.0,
    ) -> None:
        """Run `job` once in each interval of `seconds`, when the boot clock is `phase_seconds` into
        it; the first time later than `after_seconds` from now."""
        guarded = self._guarded(name, job)

        def do_and_plan() -> Any:
            guarded()
            self.every_at_phase(seconds, phase_seconds, name, job)
            return schedule.CancelJob

        first = poll_delay(_BootTime.boot_seconds + after_seconds, phase_seconds, seconds)
        self._plan(after_seconds + first, name, do_and_plan)

    def once(self, seconds: float, name: str, job: Callable[[], None]) -> None:
        """Run `job` once, `seconds` from now."""
        self._plan(seconds, name, self._guarded(name, job, schedule.CancelJob))

    def _plan(self, seconds: float, name: str, job: Callable[[], Any]) -> None:
        # `schedule` multiplies a `timedelta`, so parts of a second work too.
        period_seconds = max(seconds, PERIOD_SECONDS_MIN)
        self._scheduler.every(cast(int, period_seconds)).seconds.do(job).tag(name)
        self._look_at_plan()

    def _look_at_plan(self) -> None:
        """Remember when the next job is due: a look at the plan in each turn would be costly."""
        seconds = self.next_in_seconds(_BootTime.boot_seconds)
        self._next_boot_seconds = None if seconds is None else _BootTime.boot_seconds + seconds

    def gather(self, _news: News, now: Instant) -> None:
        """Run the jobs that are due."""
        _BootTime.boot_seconds = now.boot_seconds
        if self._next_boot_seconds is None or now.boot_seconds < self._next_boot_seconds:
            return
        self._scheduler.run_pending()
        self._look_at_plan()

    def next_deadline(self, now: Instant) -> float | None:
        if self._next_boot_seconds is None:
            return None
        return now.monotonic_seconds + max(0.0, self._next_boot_seconds - now.boot_seconds)

    def next_in_seconds(self, boot_seconds: float, name: str | None = None) -> float | None:
        """Return the seconds until the next job (of that name), never negative; None for none."""
        _BootTime.boot_seconds = boot_seconds
        planned = [each.next_run for each in self._scheduler.get_jobs(name) if each.next_run]
        if not planned:
            return None
        return max(0.0, (min(planned) - _BootTime.now()).total_seconds())

    def clear(self) -> None:
        self._scheduler.clear()
        self._next_boot_seconds = None

    def _guarded(self, name: str, job: Callable[[], None], answer: Any = None) -> Callable[[], Any]:
        """Return the job, wrapped so that its error does not stop the others (fact S3). With the
        `answer` `CancelJob`, `schedule` runs it once."""

        def run() -> Any:
            try:
                job()
            except self._known as error:
                if getattr(error, "fatal", False):
                    raise
                log.error("Cannot do the job %s: %s", name, error, extra={"event": "duty-failed"})
            except Exception as error:
                told = {"event": "duty-failed"}
                log.exception("Cannot do the job %s: %s", name, error, extra=told)
            return answer

        return run


class _SteadyModule:
    """Replaces the module `datetime` in `schedule`."""

    datetime = _BootTime
    timedelta = _REAL.timedelta


def poll_phase(device: str, interval_seconds: float) -> float:
    """Return the seconds into each interval at which a device polls (fact B8).

    Always the same for a device, and spread evenly over the devices of a fleet, whenever they
    were started.
    """
    number = int.from_bytes(blake2b(device.encode(), digest_size=8).digest())
    return number / 2.0**64 * interval_seconds


def poll_delay(boot_seconds: float, phase_seconds: float, interval_seconds: float) -> float:
    """Return the seconds until the device's next poll, when the boot clock is at its phase."""
    delay = (phase_seconds - boot_seconds) % interval_seconds
    return delay if delay > POLL_GAP_MIN * interval_seconds else delay + interval_seconds
