"""Calls that a start has made by a process of its own: how they end, and how long they may take."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from geosched.supervisor.startup import apart
from geosched.supervisor.startup.apart import CallFailedError, HangingError, called_apart


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(apart, "CALL_IDLE_SECONDS_MAX", 0.5)
    yield
    while True:  # one that was killed is reaped by whoever goes on
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def test_the_answer_is_what_was_returned() -> None:
    long = ["x" * 1000] * 500
    assert called_apart(lambda: long) == long


def test_names_that_are_no_text_are_told_as_escapes() -> None:
    assert called_apart(lambda: ["/tmp/\udcff"]) == ["/tmp/\\udcff"]


def test_a_call_that_waits_for_a_disk_is_given_up() -> None:
    begun = time.monotonic()
    with pytest.raises(HangingError, match=r"no answer for \d+ s"):
        called_apart(lambda: [str(time.sleep(60))])
    assert time.monotonic() - begun < 10


def slow() -> list[str]:
    """What a slow host does: a little now and then, and in the end it is done."""
    for _ in range(20):
        time.sleep(0.1)
    return ["done"]


def burning() -> list[str]:
    until = time.monotonic() + 2
    while time.monotonic() < until:
        pass
    return ["done"]


@pytest.mark.parametrize("work", [slow, burning])
def test_a_call_that_is_only_slow_goes_on(work) -> None:
    assert called_apart(work) == ["done"]


def failing() -> list[str]:
    raise PermissionError(13, "Permission denied", "/some/where")


def killed() -> list[str]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (failing, r"^PermissionError: \[Errno 13\] Permission denied: '/some/where'$"),
        (killed, "^its process ended before it answered: SIGKILL$"),
        (lambda: ["x" * (apart._ANSWER_BYTES_MAX + 1)], "^its answer cannot be read: "),
    ],
    ids=["failed", "killed", "too long"],
)
def test_a_call_that_fails_says_why(work, words: str) -> None:
    with pytest.raises(CallFailedError, match=words):
        called_apart(work)
