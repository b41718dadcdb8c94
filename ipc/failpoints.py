"""Failpoints: the durable steps of a run by name, and a halt right before or after one.

Recovery is proved by killing processes at exactly these points: the tests do so, and the
model in `tests/model` takes the same steps under the same names. This module has the names
only; callers carry out the steps, and determine their order.

A process halts (SIGSTOP, to itself) when its environment has
`GEOSCHED_HALT_AT=before-keep-result@/path/of/a/mark`. It writes its pid to the mark first,
and while the mark exists no process halts again. Without the variable a step costs next to
nothing.
"""

import contextlib
import enum
import os
import signal
from collections.abc import Iterator

VARIABLE = "GEOSCHED_HALT_AT"


class Step(enum.StrEnum):
    """The steps of a run in their order, then those of a stop, then that of a start."""

    SEND_READY = "send-ready"  # worker: it may be given a run from here on
    COMMIT_STARTED = "commit-started"  # supervisor: the intention to run is on disk
    SEND_RUN = "send-run"  # supervisor
    LOCK_RUN = "lock-run"  # worker
    START_SCRIPT = "start-script"  # worker
    KEEP_RESULT = "keep-result"  # worker: the tree is gone, the result in runtime_dir
    SEND_ENDED = "send-ended"  # worker
    HEAR_ENDED = "hear-ended"  # supervisor: from here on it may wait for other changes
    COMMIT_ENDED = "commit-ended"  # supervisor: the status, its report and the run's row
    SEND_ACK = "send-ack"  # supervisor
    FORGET_RESULT = "forget-result"  # worker
    UNLOCK_RUN = "unlock-run"  # worker, which exits then

    COMMIT_STOP = "commit-stop"  # supervisor: the intention to stop, with its reason
    SEND_STOP = "send-stop"  # supervisor
    SIGNAL_TREE = "signal-tree"  # worker: the stop signal
    KILL_TREE = "kill-tree"  # worker: a round of SIGKILL

    COMMIT_RECOVERED = "commit-recovered"  # supervisor: runs of an earlier daemon are settled


_NOWHERE = contextlib.nullcontext()


def _halting_place() -> tuple[str, str]:
    """Return the point at which this process is to halt, and the path of the mark; "" for none."""
    point, _, mark = os.environ.get(VARIABLE, "").partition("@")
    return point, mark


_POINT, _MARK = _halting_place()


def step(*names: Step) -> contextlib.AbstractContextManager[None]:
    """Return a context for code that does all of these steps: the process may halt before it
    or after it."""
    for name in names:
        if _POINT.endswith(f"-{name}"):
            return _halting(name)
    return _NOWHERE


@contextlib.contextmanager
def _halting(name: Step) -> Iterator[None]:
    _reached(f"before-{name}")
    yield
    _reached(f"after-{name}")


def _reached(point: str) -> None:
    if point != _POINT:
        return
    try:
        mark = os.open(_MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    os.write(mark, str(os.getpid()).encode())
    os.close(mark)
    os.kill(os.getpid(), signal.SIGSTOP)
