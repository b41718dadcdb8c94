"""Periodic jobs of the daemon, by the boot clock."""

import logging

import pytest
from geosched.supervisor.core.model import Instant
from geosched.supervisor.participant import News
from geosched.supervisor.periodic import PeriodicJobs
from geosched.supervisor.store.errors import StoreError, StoreErrorKind

BEGUN = 1000.0
PHASE = 7.0
INTERVAL = 60.0


def at(boot_seconds: float) -> Instant:
    return Instant(0, boot_seconds, boot_seconds)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 5e-7])
def test_a_job_without_a_period_hangs_nobody(seconds: float):
    jobs, done = PeriodicJobs(BEGUN), list[int]()
    jobs.every(seconds, "often", lambda: done.append(1))
    jobs.once(seconds, "once", lambda: done.append(2))
    jobs.gather(News(), at(BEGUN + 1))
    jobs.gather(News(), at(BEGUN + 2))
    assert sorted(done) == [1, 1, 2]


class Clock:
    """Jobs whose clock the test turns; `done` are the instants of the job "pull"."""

    def __init__(self) -> None:
        self.now = BEGUN
        self.done: list[float] = []
        self.jobs = PeriodicJobs(self.now)

    def note(self) -> None:
        self.done.append(self.now)

    def turn_to(self, boot_seconds: float) -> None:
        """As the loop does it: it wakes when the next job is due, and a little late."""
        while (wait := self.jobs.next_in_seconds(self.now)) is not None:
            if self.now + wait > boot_seconds:
                break
            self.now += wait + 0.003
            self.jobs.gather(News(), at(self.now))
        self.now = boot_seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_job_keeps_its_phase_of_the_boot_clock_for_ever(clock: Clock):
    clock.jobs.every_at_phase(INTERVAL, PHASE, "pull", clock.note)
    clock.turn_to(BEGUN + 100 * INTERVAL)
    assert len(clock.done) == 100
    assert all(PHASE <= moment % INTERVAL < PHASE + 0.01 for moment in clock.done)
    assert clock.done[0] == pytest.approx(1027.0, abs=0.01)


def test_its_first_time_can_be_put_off(clock: Clock):
    clock.jobs.every_at_phase(INTERVAL, PHASE, "pull", clock.note, after_seconds=300.0)
    assert clock.jobs.next_in_seconds(BEGUN, "pull") == pytest.approx(327.0, abs=0.01)
    clock.turn_to(BEGUN + 400.0)
    assert clock.done == [pytest.approx(1327.0, abs=0.01), pytest.approx(1387.0, abs=0.01)]


def test_after_a_sleep_of_the_host_it_is_done_once_and_keeps_its_phase(clock: Clock):
    clock.jobs.every_at_phase(INTERVAL, PHASE, "pull", clock.note)
    clock.now = BEGUN + 10_000.0
    clock.jobs.gather(News(), at(clock.now))
    assert clock.done == [BEGUN + 10_000.0]
    clock.turn_to(clock.now + INTERVAL)
    assert clock.done[1:] == [pytest.approx(11_047.0, abs=0.01)]


def test_a_job_that_fails_is_done_again(clock: Clock):
    def fails() -> None:
        clock.note()
        raise RuntimeError("no")

    clock.jobs.every_at_phase(INTERVAL, PHASE, "pull", fails)
    clock.turn_to(BEGUN + 3 * INTERVAL)
    assert len(clock.done) == 3


@pytest.mark.parametrize(
    ("error", "traced"),
    [(StoreError("cannot write", kind=StoreErrorKind.FULL), False), (RuntimeError("no"), True)],
    ids=["a store that is full", "a fault of ours"],
)
def test_an_error_that_says_all_is_one_line_and_any_other_has_its_trace(
    error: Exception, traced: bool, caplog: pytest.LogCaptureFixture
):
    run_failing(error)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == f"Cannot do the job mark: {error}"
    assert bool(record.exc_info) is traced


def test_an_error_against_which_no_waiting_helps_ends_the_daemon():
    with pytest.raises(StoreError):
        run_failing(StoreError("cannot use it", kind=StoreErrorKind.IO))


def run_failing(error: Exception) -> None:
    """As the daemon does it: with the errors that it knows."""

    def fails() -> None:
        raise error

    jobs = PeriodicJobs(BEGUN, known=(StoreError,))
    jobs.every(1.0, "mark", fails)
    jobs.gather(News(), at(BEGUN + 2.0))
