"""The clocks of this host: what wakes the loop when one is set, and which is believed."""

import os
import select
import time
from typing import Any

import pytest
from geosched.supervisor.host.clock import RELEASED_US, Clock, Readings
from geosched.workers.host.linux import open_clock_set_timer

DAY_US = 86_400 * 1_000_000


class Host:
    """Clocks that a test sets."""

    def __init__(self, wall_us: int, *, synchronised: bool = False) -> None:
        self.wall_us = wall_us
        self.boot_seconds = 100.0
        self.synchronised = synchronised

    def clock(self, **settings: Any) -> Clock:
        readings = Readings(
            lambda: self.wall_us,
            lambda: self.boot_seconds,
            lambda: self.boot_seconds,
            lambda: self.synchronised,
        )
        chosen: dict[str, Any] = {"mark_us": 0, "wait_seconds": 600.0} | settings
        return Clock(readings=readings, **chosen)

    def pass_seconds(self, seconds: float) -> None:
        self.boot_seconds += seconds
        self.wall_us += int(seconds * 1_000_000)


def test_setting_the_clock_wakes_whoever_waits():
    """By no time at all: what is looked at is that it was set."""
    timer = open_clock_set_timer()
    try:
        try:
            time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME))
        except PermissionError:
            pytest.skip("this user may not set the clock of this host")
        assert select.select([timer], [], [], 10.0)[0] == [timer]
        with pytest.raises(OSError, match="Operation canceled"):
            os.read(timer, 8)
        assert select.select([timer], [], [], 0)[0] == []
    finally:
        os.close(timer)


@pytest.mark.parametrize("step_seconds", [-3600.0, 3600.0, 0.6, -0.6])
def test_a_step_is_seen_at_the_next_look_and_only_then(step_seconds: float):
    host = Host(RELEASED_US + 10 * DAY_US, synchronised=True)
    clock = host.clock()
    seen = []
    for step in (0.0, step_seconds, 0.0):
        host.pass_seconds(1.0)
        host.wall_us += int(step * 1_000_000)
        clock.read()
        seen.append(clock.stepped)
    assert seen == [False, True, False]


def test_slewing_is_no_step():
    host = Host(RELEASED_US + DAY_US)
    clock = host.clock()
    for _ in range(100):
        host.pass_seconds(1.0)
        host.wall_us += 500  # 500 ppm, the most that a kernel slews by
        clock.read()
        assert not clock.stepped


def test_a_clock_that_reads_earlier_than_this_version_is_believed_only_after_the_wait():
    host = Host(RELEASED_US - DAY_US)
    clock = host.clock(wait_seconds=600.0)
    assert not clock.read().trusted
    assert "reads earlier" in clock.detail
    host.pass_seconds(599.0)
    assert not clock.read().trusted
    host.pass_seconds(1.0)
    assert clock.read().trusted
    assert not clock.trusted, "and it is still shown as what it is"
    host.wall_us = RELEASED_US + DAY_US
    assert clock.read().trusted
    assert clock.trusted


def test_a_clock_that_showed_2030_once_is_corrected_by_the_kernels_word():
    host = Host(RELEASED_US + 1500 * DAY_US)
    clock = host.clock()
    assert clock.read().trusted
    host.wall_us = RELEASED_US + DAY_US
    assert not clock.read().trusted
    host.synchronised = True
    assert clock.read().trusted
    assert clock.mark_us == RELEASED_US + DAY_US
    host.synchronised = False
    host.pass_seconds(1.0)
    assert clock.read().trusted


def test_where_only_the_kernels_word_counts_a_right_looking_clock_is_not_enough():
    host = Host(RELEASED_US + DAY_US)
    clock = host.clock(must_synchronise=True)
    assert not clock.read().trusted
    assert clock.detail == "was never synchronised since the daemon began"
    assert clock.mark_us == 0
    host.synchronised = True
    assert clock.read().trusted
    host.synchronised = False  # the network is gone: it was right, and goes on
    host.pass_seconds(3600.0)
    assert clock.read().trusted
