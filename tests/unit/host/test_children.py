"""When a zygote counts as silent, by one that says nothing at all."""

import os
from collections.abc import Iterator

import pytest
from geosched.ipc.messages.zygote import ToZygote
from geosched.supervisor.core.model import Instant
from geosched.supervisor.host.children import ZYGOTE_SILENCE_SECONDS_MAX, Children
from geosched.supervisor.participant import News

STALL_SECONDS = 5 * ZYGOTE_SILENCE_SECONDS_MAX


class SilentZygote:
    """Takes what it is asked for, and never answers."""

    killed = False

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def fileno(self) -> int:
        return self._reading

    def ask(self, request: ToZygote) -> bool:
        return True

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)

    def leave(self, seconds: float) -> None:
        self.close()


class Time:
    seconds = 100.0


def failed(children: Children, time: Time) -> list[str]:
    """What failed by the next turn."""
    news = News()
    children.gather(news, Instant(0, time.seconds))
    return news.failed


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def zygotes() -> list[SilentZygote]:
    return []


@pytest.fixture
def children(time: Time, zygotes: list[SilentZygote]) -> Iterator[Children]:
    def start() -> SilentZygote:
        zygotes.append(SilentZygote())
        return zygotes[-1]

    made = Children(start, monotonic_seconds=lambda: time.seconds)
    made.start(time.seconds)
    made._zygote_deadline_monotonic = None  # it has been there for long
    yield made
    made.close()


def test_a_zygote_that_leaves_a_request_unanswered_is_replaced(
    children: Children, time: Time, zygotes: list[SilentZygote]
) -> None:
    children.fork_worker("worker-1", "ipc://nowhere", forks_ahead=False)
    time.seconds += ZYGOTE_SILENCE_SECONDS_MAX
    assert failed(children, time) == []
    time.seconds += 0.1
    assert failed(children, time) == ["worker-1"]
    assert zygotes[0].killed


def test_a_zygote_that_is_asked_after_a_stalled_commit_has_all_of_its_time(
    children: Children, time: Time, zygotes: list[SilentZygote]
) -> None:
    failed(children, time)
    time.seconds += STALL_SECONDS
    children.fork_worker("worker-1", "ipc://nowhere", forks_ahead=False)
    assert failed(children, time) == []
    assert not zygotes[0].killed
