"""A run that lost its worker has ended when that was seen, however late nothing is left of it."""

from geosched.ipc.instants import SECOND_US
from geosched.ipc.messages.runs import EndCause, StopReason
from geosched.supervisor.core.model import Instant
from geosched.supervisor.runs.live_run import LiveRun

AT_US = 1_800_000_000 * SECOND_US


def at(seconds: float, *, set_by_seconds: float = 0.0) -> Instant:
    wall_us = AT_US + round((seconds + set_by_seconds) * SECOND_US)
    return Instant(wall_us, seconds, boot_seconds=seconds)


def lost_and_ended(later: Instant) -> LiveRun:
    run = LiveRun("r", "a", 1, stop_at_monotonic=4.0, stuck_at_monotonic=9.0)
    run.lose(EndCause.WORKER_LOST, "it was killed", at(1.0))
    run.stop = StopReason.WINDOW_OVER
    run.end_lost(later)
    return run


def test_the_instant_of_the_loss_is_that_of_the_end():
    run = lost_and_ended(at(60.0))
    assert run.result is not None
    assert run.result.ended_us == AT_US + SECOND_US
    assert run.result.cause is EndCause.WORKER_LOST
    assert run.result.stop_reason is None


def test_that_instant_is_restated_where_the_clock_was_set_back():
    run = lost_and_ended(at(60.0, set_by_seconds=-3600.0))
    assert run.result is not None
    assert run.result.ended_us == AT_US + SECOND_US - 3600 * SECOND_US


def test_nobody_is_asked_to_stop_a_lost_run():
    run = LiveRun("r", "a", 1, stop_at_monotonic=4.0, stuck_at_monotonic=9.0)
    run.lose(EndCause.WORKER_SILENT, "it was silent", at(1.0))
    assert list(run.deadlines(2.0)) == []
