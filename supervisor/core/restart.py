"""Restart policy: the conditions for another run, and the delay before it (SPEC S12a).

Only the arithmetic is here; `lifecycle.py` says when it applies.
"""

import enum

import msgspec

from ...ipc.digests import blake2b
from ...ipc.instants import SECOND_US
from .model import Hold

#: From this attempt on even a restart of the daemon does not start it at once (S12a):
#: a script that takes the host down must not do so for ever.
FIRST_ATTEMPT_HELD_AFTER_CRASH = 5
#: A delay is shortened by up to this fraction, so that runs that failed together do not
#: restart together.
JITTER = 0.2


class RestartMode(enum.StrEnum):
    """The ends of a run after which another follows."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class RestartPolicy(msgspec.Struct, frozen=True):
    """The restart settings for one type of action.

    `delay_seconds` doubles with every failure in a row, up to `delay_seconds_max`. A run that
    lasted `delay_seconds_max` was stable: doubling and counting begin anew. `restarts_max`
    bounds the restarts in a row; 0 is no limit.
    """

    mode: RestartMode = RestartMode.NEVER
    delay_seconds: float = 1.0
    delay_seconds_max: float = 300.0
    restarts_max: int = 0


def gives_up(policy: RestartPolicy, failures: int) -> bool:
    """The failures in a row are more than the policy restarts."""
    return 0 < policy.restarts_max < failures


def wants_another(policy: RestartPolicy, *, ok: bool) -> bool:
    match policy.mode:
        case RestartMode.NEVER:
            return False
        case RestartMode.ON_FAILURE:
            return not ok
        case RestartMode.ALWAYS:
            return True


def failures_after(policy: RestartPolicy, failures: int, *, ran_seconds: float) -> int:
    """Return how many runs in a row count for the back-off, the one that just ended included."""
    return 1 if ran_seconds >= policy.delay_seconds_max else failures + 1


def delay_after(policy: RestartPolicy, failures: int, *, run_id: str) -> float:
    """Return the seconds to wait after this many failures in a row; never overflows.

    The jitter is derived from the id of the run that ended: it differs between actions and
    devices, and is the same whenever it is computed again.
    """
    doublings = min(max(failures - 1, 0), 62)
    delay = min(policy.delay_seconds * 2.0**doublings, policy.delay_seconds_max)
    return delay * (1.0 - JITTER * _chance(run_id))


def _chance(seed: str) -> float:
    """Return a number in [0, 1) that is always the same for the same text."""
    return int.from_bytes(blake2b(seed.encode(), digest_size=6).digest()) / 2**48


def remaining_seconds(hold: Hold, now_us: int) -> float:
    """Return the seconds left of a hold by the wall clock, for a daemon that starts.

    It is between 0 and the whole delay, so a clock that was stepped meanwhile costs one delay
    at most.
    """
    elapsed = (now_us - hold.since_us) / SECOND_US
    return min(max(hold.delay_seconds - elapsed, 0.0), hold.delay_seconds)
