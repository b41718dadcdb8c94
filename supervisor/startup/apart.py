"""Calls made in a forked process, which is given up when it hangs: at the start, where a disk may.

Only before the store and any socket are opened: this process forks itself here. Later there are
helpers (`host/helpers.py`).
"""

import logging
import os
import select
import signal
import time
from collections.abc import Callable
from typing import NoReturn

import msgspec

from ...workers.host import procfs
from ...workers.host.liveness import LOOK_SECONDS_MAX, AnswerWait

log = logging.getLogger(__name__)

#: A call hangs that did nothing for so long, or has used so much processor time (law 17): it waits
#: for a disk. One on a slow host goes on.
CALL_IDLE_SECONDS_MAX = 5.0
CALL_CPU_SECONDS_MAX = 60.0
_ANSWER_BYTES_MAX = 1024 * 1024


class CallError(Exception):
    """A call that returned nothing; one sentence says why."""


class HangingError(CallError):
    """A call was given up, because it hung."""


class CallFailedError(CallError):
    """A call raised an exception, or its process was killed."""


class _Answer(msgspec.Struct, frozen=True):
    """What a call returned, or the reason why it `failed`."""

    found: list[str] = []
    failed: str = ""


def called_apart(work: Callable[[], list[str]]) -> list[str]:
    """Return what `work` returns. Raises `CallError`, `OSError`."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _answer(work, writer)
    os.close(writer)
    with open(reader, "rb") as answer:
        _await(reader, pid)
        told = answer.read(_ANSWER_BYTES_MAX)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not told:
        ended = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise CallFailedError(f"its process ended before it answered: {ended}")
    try:
        answered = msgspec.json.decode(told, type=_Answer)
    except msgspec.DecodeError as error:
        raise CallFailedError(f"its answer cannot be read: {error}") from None
    if answered.failed:
        raise CallFailedError(answered.failed)
    return answered.found


def _answer(work: Callable[[], list[str]], writer: int) -> NoReturn:
    """Do the work, tell what came of it, and end this process."""
    status = 1
    try:
        told = _answered(work)
        with open(writer, "wb") as answer:
            answer.write(told)
        status = 0
    finally:
        os._exit(status)


def _answered(work: Callable[[], list[str]]) -> bytes:
    """Return what is to be told: an exception, too, for nobody else would hear of it."""
    try:
        answer = _Answer([_encodable(text) for text in work()])
    except Exception as error:
        log.debug("A call failed", exc_info=True)
        answer = _Answer(failed=_encodable(f"{type(error).__name__}: {error}"))
    return msgspec.json.encode(answer)


def _encodable(text: str) -> str:
    """Return a text with what no UTF-8 has, of the name of a file perhaps, as escapes."""
    return text.encode(errors="backslashreplace").decode()


def _await(reader: int, pid: int) -> None:
    """Wait for the first of an answer, or for its end. Raises `HangingError`."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    begun_monotonic = time.monotonic()
    awaited = AnswerWait(
        begun_monotonic,
        procfs.activity(pid),
        idle_seconds_max=CALL_IDLE_SECONDS_MAX,
        cpu_seconds_max=CALL_CPU_SECONDS_MAX,
    )
    while not poll.poll(min(LOOK_SECONDS_MAX, CALL_IDLE_SECONDS_MAX / 3) * 1000):
        now_monotonic = time.monotonic()
        if awaited.hangs(now_monotonic, procfs.activity(pid)):
            os.kill(pid, signal.SIGKILL)  # reaped with all others, once the disk lets go of it
            raise HangingError(f"no answer for {now_monotonic - begun_monotonic:.0f} s")
