"""Waiting in tests: for a condition, up to a deadline, never for time to pass."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_for(
    condition: Callable[[], Value],
    *,
    seconds: float = 10.0,
    what: str = "",
    pause_seconds: float = 0.01,
) -> Value:
    """The first truthy value of `condition`. Fails, naming `what`, when none came in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(pause_seconds)
