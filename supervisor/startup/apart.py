"""Calls made in a forked process, with a deadline: at the start, where a disk may hang.

Only before the store and any socket are opened: this process forks itself here. Later there are
helpers (`host/helpers.py`).
"""

import logging
import os
import select
import signal
from collections.abc import Callable

import msgspec

log = logging.getLogger(__name__)

#: A disk that has not answered by then is one that hangs.
CALL_SECONDS_MAX = 5.0
_ANSWER_BYTES_MAX = 1024 * 1024


class HangingError(Exception):
    """A call took longer than `CALL_SECONDS_MAX`."""


def called_apart(work: Callable[[], list[str]]) -> list[str]:
    """Return what `work` returns. Raises `HangingError`, `OSError`."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(writer, msgspec.json.encode(work()))
            status = 0
        except Exception:
            log.exception("Cannot look at the host", extra={"event": "look-failed"})
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as answer:
        poll = select.poll()
        poll.register(answer, select.POLLIN)
        if not poll.poll(CALL_SECONDS_MAX * 1000):
            os.kill(pid, signal.SIGKILL)  # reaped with all others, once the disk lets go of it
            raise HangingError(f"no answer for {CALL_SECONDS_MAX:g} s")
        told = answer.read(_ANSWER_BYTES_MAX)
    os.waitpid(pid, 0)
    if not told:
        raise OSError("the process that was to look at it has failed")
    return msgspec.json.decode(told, type=list[str])
