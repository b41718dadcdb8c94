"""What scripts say, and when their silence is too long."""

import pytest
from geosched.workers.runs.notify import STATUS_CHARS_MAX, Notice, parse
from geosched.workers.runs.watchdog import Watchdog
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        (b"READY=1", Notice()),
        (b"READY=1\nSTATUS=up and running\n", Notice(status="up and running")),
        (b"WATCHDOG=1", Notice(watchdog=True)),
        (b"STOPPING=1", Notice()),
        (b"STATUS=", Notice(status="")),
        (b"STATUS=a=b", Notice(status="a=b")),
        (b"STATUS=\x1b[2Jred\ttab\x07", Notice(status="[2Jred tab")),
        (b"STATUS=\xff\xfe", Notice(status="��")),
        (b"STATUS=" + b"x" * 4000, Notice(status="x" * STATUS_CHARS_MAX)),
        (b"BARRIER=1", Notice()),
        (b"READY=0\nX_OTHER=2\nnonsense\n\n", Notice()),
        (b"", Notice()),
        (b"\0\0\0", Notice()),
    ],
)
def test_a_message_is_read_as_the_protocol_says(text: bytes, notice: Notice):
    assert parse(text) == notice


def test_silence_is_late_only_after_the_timeout():
    watchdog = Watchdog(2.0, 100.0)
    assert [watchdog.turn(100.0 + n / 2) for n in range(1, 5)] == [False, False, False, True]


def test_a_fed_watchdog_counts_anew():
    watchdog = Watchdog(2.0, 100.0)
    assert not watchdog.turn(100.5)
    watchdog.fed()
    assert [watchdog.turn(100.5 + n / 2) for n in range(1, 5)] == [False, False, False, True]


def test_a_gap_in_which_nobody_judged_counts_next_to_nothing():
    watchdog = Watchdog(2.0, 100.0)
    assert not watchdog.turn(3700.0)
    assert [watchdog.turn(3700.0 + n / 2) for n in range(1, 5)] == [False, False, False, True]


@given(st.floats(0.1, 30.0), st.floats(0.0, 1e6))
def test_no_pause_makes_a_script_late_that_speaks_twice_in_its_timeout(
    timeout_seconds: float, pause: float
):
    """It was about to say so when the host was suspended."""
    watchdog = Watchdog(timeout_seconds, 100.0)
    now = 100.0
    while (due := watchdog.next_deadline()) is not None and due < 100.0 + timeout_seconds / 2:
        now = due
        assert not watchdog.turn(now)
    assert not watchdog.turn(now + pause)


def test_no_watchdog_is_never_late_and_wakes_nobody():
    watchdog = Watchdog(0.0, 100.0)
    assert not watchdog.turn(101.0)
    assert watchdog.next_deadline() is None


def test_the_judge_wakes_often_enough_for_every_gap_to_count():
    watchdog = Watchdog(30.0, 100.0)
    assert watchdog.next_deadline() == 101.0
    for second in range(101, 130):
        assert not watchdog.turn(second)
    watchdog.turn(129.75)
    assert watchdog.next_deadline() == 130.0
