"""Silence and its time-outs: of workers, judged by the supervisor; of scripts, by their workers.

Silence counts only while the judge itself ran (law 16): a long gap between two of its turns
counts next to nothing, so neither a suspended host, nor a stopped judge, nor a slow disk makes a
healthy run look dead. And where a process owes an answer, the time that a slow host takes to
let it run is not its silence: `HangJudge` goes by what it did.
"""

from collections.abc import Iterable
from typing import NamedTuple

#: The judge takes a turn this often, so the others did not cause a gap that is longer.
LOOK_SECONDS_MAX = 1.0
LONG_GAP_LOOKS = 1.5
#: Counted of such a gap; not nothing, so that a judge that is always late still judges.
LONG_GAP_COUNTED_SECONDS = 0.25


def look_seconds(timeouts_seconds: Iterable[float]) -> float:
    """Return the time between two turns: short enough for no gap to be most of a time-out."""
    return min([LOOK_SECONDS_MAX, *(timeout / 3 for timeout in timeouts_seconds)])


class JudgeClock:
    """A clock that runs while its judge does: `seconds` count from 0."""

    def __init__(self, monotonic_seconds: float) -> None:
        self.ticked_at_monotonic = monotonic_seconds
        self.seconds = 0.0

    def tick(self, monotonic_seconds: float, looks: float = LOOK_SECONDS_MAX) -> None:
        """Count the gap since the last turn. Call it once a turn, after all sockets are drained
        and before anyone is judged. `looks` is `look_seconds` of all that are judged."""
        gap = monotonic_seconds - self.ticked_at_monotonic
        long = gap > looks * LONG_GAP_LOOKS
        self.seconds += min(LONG_GAP_COUNTED_SECONDS if long else max(gap, 0.0), looks)
        self.ticked_at_monotonic = monotonic_seconds


def is_silent(last_beat: float, judged: float, *, timeout_seconds: float) -> bool:
    """The silence since `last_beat` is longer than its time-out. `last_beat` and `judged` are
    readings of the judge's clock."""
    return judged - last_beat > timeout_seconds


def patience_seconds(first: float, *, tries_failed: int, longest: float) -> float:
    """Return the time for the next try: `first`, doubled by every try that has failed since the
    last success, up to `longest`. So a bound that is too short for a host grows until it is not.
    """
    return min(first * 2.0 ** min(tries_failed, 62), longest)


class Activity(NamedTuple):
    """What a process has done so far, as `procfs.activity` reads it."""

    switches: int  # times that its first thread gave up a processor, or lost it
    cpu_seconds: float  # of all its threads, without its children
    runnable: bool  # its first thread has a processor, or waits for one


#: In place of what a process has done, where nobody could look: no descriptor is left, perhaps.
UNSEEN = Activity(switches=-1, cpu_seconds=0.0, runnable=False)


class HangJudge:
    """Judges a process that owes an answer: whether it hangs, or is only slow.

    It hangs when it neither ran nor was runnable for `idle_seconds_max`, or has used
    `cpu_seconds_max` of processor time since it owes the answer. One that waits for a processor
    is not at fault, however long. Times are readings of one clock, best a `JudgeClock`.
    """

    def __init__(
        self,
        now_seconds: float,
        activity: Activity | None,
        *,
        idle_seconds_max: float,
        cpu_seconds_max: float,
    ) -> None:
        """The answer is owed from now on."""
        self._idle_seconds_max = idle_seconds_max
        self._cpu_seconds_max = cpu_seconds_max
        self._first = self._last = None if activity is UNSEEN else activity
        self._active_at_seconds = now_seconds

    def hangs(self, now_seconds: float, activity: Activity | None) -> bool:
        """Look at the process: often, for one that is paused again and again is not idle. One
        whose activity is not known (None) is judged by its silence alone; a time in which nobody
        could look at it (`UNSEEN`) is not its silence."""
        if activity is UNSEEN:
            self._active_at_seconds = now_seconds
            return False
        ran = activity and self._last and activity.switches != self._last.switches
        if ran or (activity and activity.runnable):
            self._active_at_seconds = now_seconds
        self._first, self._last = self._first or activity, activity or self._last
        if now_seconds - self._active_at_seconds > self._idle_seconds_max:
            return True
        used = activity.cpu_seconds - self._first.cpu_seconds if activity and self._first else 0.0
        return used > self._cpu_seconds_max

    def heard(self, now_seconds: float) -> None:
        """It has given an answer, and owes another from now on."""
        self._first, self._active_at_seconds = None, now_seconds

    def idle_left_seconds(self, now_seconds: float) -> float:
        """Return how long it may still stay idle."""
        return max(0.0, self._active_at_seconds + self._idle_seconds_max - now_seconds)


class AnswerWait:
    """The wait for an answer that a process owes: a `HangJudge` on a clock of its own. `now` is
    in monotonic seconds."""

    def __init__(
        self,
        now: float,
        activity: Activity | None,
        *,
        idle_seconds_max: float,
        cpu_seconds_max: float,
    ) -> None:
        self._clock = JudgeClock(now)
        self._look_seconds = look_seconds([idle_seconds_max])
        self._judge = HangJudge(
            0.0, activity, idle_seconds_max=idle_seconds_max, cpu_seconds_max=cpu_seconds_max
        )

    def hangs(self, now: float, activity: Activity | None) -> bool:
        """Look at the process, after all that it said has been read."""
        self._clock.tick(now, self._look_seconds)
        return self._judge.hangs(self._clock.seconds, activity)

    def heard(self, now: float) -> None:
        """It has given an answer, and owes another; which is not worth a look."""
        self._clock.tick(now, self._look_seconds)
        self._judge.heard(self._clock.seconds)

    def next_look(self) -> float:
        """Return the monotonic instant of the next look."""
        left = self._judge.idle_left_seconds(self._clock.seconds)
        return self._clock.ticked_at_monotonic + min(left, self._look_seconds)
