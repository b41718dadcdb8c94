"""Replacement of a zygote that says nothing at all, by what it does meanwhile."""

import os
from collections.abc import Iterator
from itertools import pairwise

import pytest
from geosched.ipc.messages.zygote import Forked, ForkFailed, FromZygote, ToZygote, ZygoteReady
from geosched.supervisor.core.model import Instant
from geosched.supervisor.host.children import (
    UNASKED_SECONDS_MAX,
    ZYGOTE_CPU_SECONDS_MAX,
    ZYGOTE_PATIENCE_SECONDS_MAX,
    ZYGOTE_SILENCE_SECONDS_MAX,
    ZYGOTE_START_SECONDS_MAX,
    Children,
)
from geosched.supervisor.participant import News
from geosched.workers.host.liveness import Activity

STALL_SECONDS = 5 * ZYGOTE_SILENCE_SECONDS_MAX
ASLEEP = Activity(7, 1.0, runnable=False)


class SilentZygote:
    """Takes what it is asked for, and says only what a test has it say."""

    def __init__(self, pid: int, does: Activity) -> None:
        self.pid = pid
        self.does = does
        self.killed = False
        self._reading, self._writing = os.pipe()
        self._said: list[tuple[FromZygote, int | None]] = []

    def fileno(self) -> int:
        return self._reading

    def ask(self, request: ToZygote) -> bool:
        return True

    def say(self, message: FromZygote) -> None:
        pidfd = os.pidfd_open(os.getpid()) if isinstance(message, Forked) else None
        self._said.append((message, pidfd))
        os.write(self._writing, b"!")

    def receive(self) -> list[tuple[FromZygote, int | None]]:
        os.read(self._reading, 1)
        said, self._said = self._said, []
        return said

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)

    def leave(self, seconds: float) -> None:
        self.close()


class Host:
    """The clock of a host, its zygotes, and what the next of them does."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.zygotes: list[SilentZygote] = []
        self.does = ASLEEP
        self.fails = False
        self.tick_seconds = 0.0
        self.children = Children(
            self._start, monotonic_seconds=self._clock, activity=self._activity
        )
        self.children.start()

    def close(self) -> None:
        self.tick_seconds = 0.1
        self.children.close()

    def _clock(self) -> float:
        self.seconds += self.tick_seconds
        return self.seconds

    def _start(self) -> SilentZygote:
        if self.fails:
            raise OSError("no memory")
        self.zygotes.append(SilentZygote(len(self.zygotes), self.does))
        return self.zygotes[-1]

    def _activity(self, pid: int) -> Activity:
        return self.zygotes[pid].does

    @property
    def zygote(self) -> SilentZygote:
        return self.zygotes[-1]

    def ask(self, name: str = "worker-1") -> None:
        self.children.fork_worker(name, "ipc://nowhere", forks_ahead=False)

    def turn(self) -> News:
        news = News()
        self.children.gather(news, Instant(0, self.seconds))
        return news

    def wait(self, seconds: float) -> list[str]:
        """What failed within the time, of a loop that turns when the children want it to."""
        failed: list[str] = []
        until = self.seconds + seconds
        while self.seconds < until:
            due = self.children.next_deadline(Instant(0, self.seconds))
            self.seconds = until if due is None else min(until, max(self.seconds, due) + 0.001)
            failed += self.turn().failed.keys()
        return failed

    def until_replaced(self) -> float:
        """How long the zygote had before it was replaced."""
        before, begun = len(self.zygotes), self.seconds
        asked_for = self.zygote
        while not asked_for.killed:
            self.wait(0.5)
            assert self.seconds < begun + 5 * ZYGOTE_PATIENCE_SECONDS_MAX
        took = self.seconds - begun
        while len(self.zygotes) == before:
            self.ask()
            self.wait(0.5)
        return took


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    made.zygote.say(ZygoteReady())
    made.turn()
    yield made
    made.close()


def test_a_zygote_that_leaves_a_request_unanswered_is_replaced(host: Host) -> None:
    host.ask()
    assert host.wait(ZYGOTE_SILENCE_SECONDS_MAX - 0.1) == []
    assert host.wait(0.2) == ["worker-1"]
    assert host.zygotes[0].killed


def test_a_zygote_that_is_asked_after_a_stalled_commit_has_all_of_its_time(host: Host) -> None:
    host.turn()
    host.seconds += STALL_SECONDS
    host.ask()
    assert host.wait(ZYGOTE_SILENCE_SECONDS_MAX - 0.1) == []
    assert not host.zygote.killed


def test_a_zygote_that_begins_has_longer(host: Host) -> None:
    host.ask()
    host.until_replaced()
    host.zygote.say(Forked("worker-1", os.getpid()))  # back to the first patience
    assert host.wait(1) == []
    fresh = Host()
    fresh.ask()
    assert fresh.wait(ZYGOTE_START_SECONDS_MAX - 0.1) == []
    assert fresh.wait(0.2) == ["worker-1"]
    fresh.close()


def test_each_zygote_that_hangs_gives_the_next_one_twice_the_time_up_to_ten_minutes(
    host: Host,
) -> None:
    host.ask()
    host.until_replaced()
    times = [host.until_replaced() for _ in range(8)]
    for earlier, later in pairwise(times[:5]):
        assert later == pytest.approx(2 * earlier, rel=0.1)
    assert times[-1] == pytest.approx(ZYGOTE_PATIENCE_SECONDS_MAX, rel=0.01)


@pytest.mark.parametrize(
    "answer", [Forked("worker-1", os.getpid()), ForkFailed("worker-1", "no memory")]
)
def test_an_answer_to_a_request_takes_patience_back_to_the_first(
    host: Host, answer: FromZygote
) -> None:
    host.ask()
    host.until_replaced()
    host.until_replaced()
    for message in (ZygoteReady(), answer):
        host.zygote.say(message)
    assert list(host.turn().failed) == (["worker-1"] if isinstance(answer, ForkFailed) else [])
    assert host.children.trouble is None
    host.wait(1)  # it has other things to do
    host.ask("worker-2")
    assert host.wait(ZYGOTE_SILENCE_SECONDS_MAX - 0.1) == []
    assert host.wait(0.3) != []


def test_a_zygote_that_answers_one_request_after_the_other_may_burn_in_all(host: Host) -> None:
    for number in range(40):
        host.ask(f"worker-{number}")
    for number in range(39):
        host.zygote.does = Activity(8 + number, 1.0 + number, runnable=True)
        host.zygote.say(ForkFailed(f"worker-{number}", "no memory"))
        host.turn()
        host.wait(1)
    assert not host.zygote.killed
    host.zygote.does = ASLEEP
    assert host.wait(1.5 * ZYGOTE_SILENCE_SECONDS_MAX) == ["worker-39"]


def test_that_a_zygote_is_ready_is_no_answer_yet(host: Host) -> None:
    """Else one that can import, and not fork in time, would be killed for ever."""
    host.ask()
    host.until_replaced()
    host.zygote.say(ZygoteReady())
    host.turn()
    assert host.wait(2 * ZYGOTE_SILENCE_SECONDS_MAX - 0.1) == []
    assert host.wait(0.2) != []


def test_a_zygote_that_waits_for_a_processor_is_never_replaced(host: Host) -> None:
    host.zygote.does = Activity(7, 1.0, runnable=True)
    host.ask()
    assert host.wait(3600) == []
    assert not host.zygote.killed


def test_a_zygote_that_runs_a_little_now_and_then_is_not_replaced(host: Host) -> None:
    host.ask()
    for run in range(100):
        host.zygote.does = Activity(8 + run, 1.0 + run / 100, runnable=False)
        assert host.wait(ZYGOTE_SILENCE_SECONDS_MAX / 2) == []
    assert not host.zygote.killed


def test_a_zygote_that_only_burns_is_replaced_and_the_next_may_burn_twice_as_long(
    host: Host,
) -> None:
    host.ask()
    host.zygote.does = Activity(8, 1.0 + ZYGOTE_CPU_SECONDS_MAX, runnable=True)
    assert host.wait(60) == []
    host.zygote.does = Activity(9, 1.1 + ZYGOTE_CPU_SECONDS_MAX, runnable=True)
    assert host.wait(1) == ["worker-1"]
    host.ask()
    host.wait(2)
    host.zygote.does = Activity(9, 1.0 + 2 * ZYGOTE_CPU_SECONDS_MAX, runnable=True)
    assert host.wait(60) == []
    host.zygote.does = Activity(9, 1.1 + 2 * ZYGOTE_CPU_SECONDS_MAX, runnable=True)
    assert host.wait(1) == ["worker-1"]


def test_a_daemon_that_was_stopped_together_with_its_zygote_does_not_replace_it(
    host: Host,
) -> None:
    """Silence counts only while the judge itself ran (law 16)."""
    host.ask()
    host.wait(ZYGOTE_SILENCE_SECONDS_MAX / 2)
    host.seconds += 3600
    assert host.turn().failed == {}
    assert not host.zygote.killed


def test_while_no_zygote_answers_the_trouble_is_told(host: Host) -> None:
    host.ask()
    assert host.children.trouble is None
    host.zygote.does = Activity(7, 1.0, runnable=True)
    host.wait(30)
    assert host.children.trouble == "cannot start processes: no answer of the zygote for 30 s"
    host.zygote.does = ASLEEP
    host.wait(5)
    assert (host.children.trouble or "").endswith("no answer of the zygote for 35 s, 1 given up")
    host.ask()
    host.wait(1)
    host.zygote.say(Forked("worker-1", os.getpid()))
    host.turn()
    assert host.children.trouble is None


def test_a_zygote_that_cannot_be_started_is_tried_again_and_told(host: Host) -> None:
    host.fails = True
    host.ask()
    host.wait(ZYGOTE_SILENCE_SECONDS_MAX + 0.1)
    host.ask()
    host.wait(20)
    assert host.children.trouble is not None
    host.fails = False
    host.wait(60)
    assert len(host.zygotes) == 2


def test_a_zygote_that_nobody_asks_for_anything_is_no_trouble(host: Host) -> None:
    host.ask()
    host.wait(ZYGOTE_SILENCE_SECONDS_MAX + 0.1)
    assert host.zygote.killed
    assert host.children.trouble is not None
    for _ in range(int(UNASKED_SECONDS_MAX) + 1):
        host.wait(1)
    assert host.children.trouble is None
