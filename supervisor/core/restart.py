"""Whether a run that ended is followed by another, and how long to wait first (SPEC S12a).

Only the arithmetic is here; `lifecycle.py` says when it applies.
"""

import enum
from dataclasses import dataclass

from ...ipc.instants import SECOND_US
from .model import Hold

#: From this attempt on even a restart of the daemon does not start it at once (S12a):
#: a script that takes the host down must not do so for ever.
FIRST_ATTEMPT_HELD_AFTER_CRASH = 5


class RestartMode(enum.StrEnum):
    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """`delay_seconds` doubles with every failure in a row, up to `delay_seconds_max`.

    A run that lasted `delay_seconds_max` was stable: the doubling begins anew.
    """

    mode: RestartMode = RestartMode.NEVER
    delay_seconds: float = 1.0
    delay_seconds_max: float = 300.0


def wants_another(policy: RestartPolicy, *, ok: bool) -> bool:
    match policy.mode:
        case RestartMode.NEVER:
            return False
        case RestartMode.ON_FAILURE:
            return not ok
        case RestartMode.ALWAYS:
            return True


def failures_after(policy: RestartPolicy, failures: int, *, ran_seconds: float) -> int:
    """Runs in a row that count for the back-off, the one that just ended included."""
    return 1 if ran_seconds >= policy.delay_seconds_max else failures + 1


def delay_after(policy: RestartPolicy, failures: int) -> float:
    """Seconds to wait after so many failures in a row; never overflows."""
    doublings = min(max(failures - 1, 0), 62)
    return min(policy.delay_seconds * 2.0**doublings, policy.delay_seconds_max)


def remaining_seconds(hold: Hold, now_us: int) -> float:
    """What is left of a hold by the wall clock, for a daemon that starts.

    Bounded by the whole delay on one side and 0 on the other, so a clock that was
    stepped meanwhile costs one delay and never more.
    """
    elapsed = (now_us - hold.since_us) / SECOND_US
    return min(max(hold.delay_seconds - elapsed, 0.0), hold.delay_seconds)
