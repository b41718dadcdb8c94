"""A status change as the backend is told of it, and the key by which both know it. Pure."""

import signal

from ...ipc.messages.sync import Report
from ..core.model import StatusChange

SEQUENCE_DIGITS_MAX = 19


def report_of(generation: str, sequence: int, change: StatusChange) -> Report:
    """A status change as the backend is told of it. The key is unique over all stores."""
    return Report(
        key=report_key(generation, sequence),
        action_id=change.action_id,
        status=change.new.value,
        at_us=change.at_us,
        attempt=change.attempt,
        run_id=change.run_id,
        exit_code=change.exit_code,
        signal=None if change.signal is None else signal_name(change.signal),
        reason=change.reason.value if change.reason else "",
    )


def report_key(generation: str, sequence: int) -> str:
    return f"{generation}-{sequence}"


def sequence_of(key: str, generation: str) -> int | None:
    """The number in a key of this store, None for any other text."""
    _, _, number = key.rpartition("-")
    own = number.isascii() and number.isdigit() and len(number) <= SEQUENCE_DIGITS_MAX
    return int(number) if own and key == report_key(generation, int(number)) else None


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"  # real-time signals have no names of their own
