"""When to speak to the backend again (facts B8): pure arithmetic, chance is an argument."""

from ...ipc.digests import blake2b

RETRY_BASE_SECONDS = 2.0
RETRY_CAP_SECONDS = 900.0
RETRY_AFTER_SECONDS_MIN = 1.0
RETRY_AFTER_SECONDS_MAX = 3600.0
#: By up to this part more is waited than was asked for: a date comes for all at once.
RETRY_AFTER_SPREAD = 0.5
#: A poll that would follow so closely, as part of the interval, is left out.
POLL_GAP_MIN = 0.1


def retry_delay(
    failures: int,
    chance: float,
    *,
    base_seconds: float = RETRY_BASE_SECONDS,
    cap_seconds: float = RETRY_CAP_SECONDS,
    retry_after_seconds: float = 0.0,
) -> float:
    """Seconds to wait after so many failures in a row: full jitter, capped.

    `chance` is uniform in [0, 1). What the backend asked for (`Retry-After`) is honoured,
    within bounds: a wrong header must silence a device neither for ever nor not at all.
    Who polls well takes its interval as `base_seconds`: a fleet that asks again much sooner
    than it would have polled makes a backend that stumbles fall.
    """
    if retry_after_seconds > 0:
        bounded = max(retry_after_seconds, RETRY_AFTER_SECONDS_MIN)
        return min(bounded * (1.0 + RETRY_AFTER_SPREAD * chance), RETRY_AFTER_SECONDS_MAX)
    ceiling = min(cap_seconds, base_seconds * 2.0 ** min(failures, 20))
    return max(0.1, ceiling * chance)


def poll_phase(device: str, interval_seconds: float) -> float:
    """At which part of each interval a device polls: always the same, and for the devices of
    a fleet spread evenly, whenever they were started."""
    number = int.from_bytes(blake2b(device.encode(), digest_size=8).digest())
    return number / 2.0**64 * interval_seconds


def poll_delay(boot_seconds: float, phase_seconds: float, interval_seconds: float) -> float:
    """Seconds until the device's next poll: the clock that runs since boot is then at its
    phase of an interval."""
    delay = (phase_seconds - boot_seconds) % interval_seconds
    return delay if delay > POLL_GAP_MIN * interval_seconds else delay + interval_seconds
