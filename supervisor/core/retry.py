"""When to speak to the backend again (facts B8): pure arithmetic, chance is an argument."""

RETRY_BASE_SECONDS = 2.0
RETRY_CAP_SECONDS = 900.0
RETRY_AFTER_SECONDS_MIN = 1.0
RETRY_AFTER_SECONDS_MAX = 3600.0


def retry_delay(
    failures: int,
    chance: float,
    *,
    cap_seconds: float = RETRY_CAP_SECONDS,
    retry_after_seconds: float = 0.0,
) -> float:
    """Seconds to wait after so many failures in a row: full jitter, capped.

    `chance` is uniform in [0, 1). What the backend asked for (`Retry-After`) is honoured,
    within bounds: a wrong header must silence a device neither for ever nor not at all.
    """
    if retry_after_seconds > 0:
        bounded = min(retry_after_seconds, RETRY_AFTER_SECONDS_MAX)
        return max(bounded, RETRY_AFTER_SECONDS_MIN)
    ceiling = min(cap_seconds, RETRY_BASE_SECONDS * 2.0 ** min(failures, 20))
    return max(0.1, ceiling * chance)
