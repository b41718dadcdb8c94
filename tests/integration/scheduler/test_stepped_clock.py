"""The real daemon while its wall clock is stepped: S9 to S13 and S19."""

from collections.abc import Iterator

import pytest
from geosched.workers.host.linux import clock_synchronised
from support.daemon import Daemon, daemon_installation, entry
from support.stepped import SteppedClock
from support.wait import wait_for

HOUR, YEAR = 3600, 365 * 86_400


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        script = installed.script("s", "trap 'exit 0' TERM\nnote began\nsleep 600 & wait $!")
        scripts = {"default": {"command": [script], "stop_grace": "2s"}}
        installed.configure(scripts=scripts, clock_wait="1h")
        yield installed


@pytest.fixture
def clock(daemon: Daemon) -> SteppedClock:
    stepped = SteppedClock(daemon.root)
    daemon.start(env=stepped.environment)
    return stepped


def began(daemon: Daemon, action_id: str) -> int:
    return len(daemon.notes("began", action_id))


def steps_seen(daemon: Daemon) -> int:
    return daemon.log_text().count("The wall clock was stepped")


def test_s11_a_step_into_a_window_starts_its_action_and_one_beyond_it_ends_it(
    daemon: Daemon, clock: SteppedClock
):
    daemon.send([entry("a", HOUR, 2 * HOUR), entry("b", 3 * HOUR, 4 * HOUR)])
    daemon.wait_phase("b", "scheduled")
    clock.step(HOUR + 60)
    daemon.wait_phase("a", "running")
    clock.step(HOUR)
    assert daemon.wait_status("a", "FINISHED")["reason"] == "window-over"
    assert daemon.action("b")["phase"] == "scheduled"
    clock.step(5 * HOUR)
    assert daemon.wait_status("b", "WONT_START")["reason"] == "window-missed"
    assert (began(daemon, "a"), began(daemon, "b")) == (1, 0)


def test_s19_a_step_back_ends_nothing_and_starts_nothing_twice(daemon: Daemon, clock: SteppedClock):
    daemon.send([entry("a", -1, HOUR), entry("later", 2 * HOUR, 3 * HOUR)])
    running = daemon.wait_phase("a", "running")["run"]
    clock.step(-2 * HOUR)
    wait_for(lambda: steps_seen(daemon) == 1, what=daemon.log_text())
    clock.step(2 * HOUR)
    wait_for(lambda: steps_seen(daemon) == 2, what=daemon.log_text())
    shown = daemon.action("a")
    assert (shown["phase"], shown["attempt"]) == ("running", 1)
    assert shown["run"]["scriptPid"] == running["scriptPid"]
    assert (began(daemon, "a"), began(daemon, "later")) == (1, 0)


def test_s19_a_clock_that_fell_back_for_years_decides_nothing_until_it_is_right_again(
    daemon: Daemon, clock: SteppedClock
):
    if clock_synchronised():
        pytest.skip("the kernel calls this host's clock synchronised, whatever it reads")
    daemon.send([entry("a", -1, HOUR)])
    daemon.wait_phase("a", "running")
    clock.step(-10 * YEAR)
    wait_for(lambda: not daemon.json("status")["clock"]["trusted"], what="no trust")
    daemon.send([entry("a", -1, HOUR), entry("new", -10 * YEAR - 60, HOUR - 10 * YEAR)])
    assert daemon.wait_phase("new", "scheduled")["executionStatus"] is None
    daemon.json("sync")
    assert daemon.action("a")["phase"] == "running"
    assert began(daemon, "new") == 0, "its window is open by a clock that cannot be right"
    daemon.json("stop", "a")  # S5, S13a: what people and the backend want still counts
    assert daemon.wait_status("a", "WONT_FINISH")["reason"] == "operator"
    clock.step(10 * YEAR)
    assert daemon.wait_status("new", "WONT_START")["reason"] == "window-missed"


def test_no_job_sleeps_for_as_long_as_the_clock_was_set_back(daemon: Daemon, clock: SteppedClock):
    clock.step(-HOUR)
    wait_for(lambda: steps_seen(daemon) == 1, what=daemon.log_text())
    daemon.send([entry("a", 2 * HOUR, 3 * HOUR)])
    daemon.wait_phase("a", "scheduled", seconds=10)  # by a pull, which is a periodic job
