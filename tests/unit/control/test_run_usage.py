"""The memory and the processor time of a run, from its live state to what a person reads."""

import pytest
from geosched.ipc.ctl.table import plain_lines
from geosched.ipc.ctl.words import action_block
from geosched.ipc.instants import parse_instant
from geosched.ipc.messages.runs import EndCause
from geosched.ipc.messages.views import ActionView, RunView
from geosched.supervisor.control.views import run_view
from geosched.supervisor.core.model import Instant, RunRow
from geosched.supervisor.runs.live_run import LiveRun

NOW = parse_instant("2026-11-23T08:00:00.000Z")
ROW = RunRow("r", 1, NOW)


def live() -> LiveRun:
    return LiveRun("r", "a", 1, rss_bytes=3 * 2**20, cpu_seconds=75.5)


def used(run: RunView) -> tuple[int | None, float | None]:
    return run.rss_bytes, run.cpu_seconds


def test_a_run_that_lives_has_what_its_last_heartbeat_told():
    assert used(run_view(ROW, Instant(NOW), live())) == (3 * 2**20, 75.5)


def test_a_run_that_is_over_or_of_an_earlier_daemon_uses_nothing():
    ended = live()
    ended.end(EndCause.EXITED, "", Instant(NOW))
    assert used(run_view(ROW, Instant(NOW), ended)) == (None, None)
    assert used(run_view(ROW, Instant(NOW))) == (None, None)


@pytest.mark.parametrize(
    ("run", "shown"),
    [
        (run_view(ROW, Instant(NOW), live()), ["script uses  3.0 MiB of memory, 1 m 16 s of CPU"]),
        (run_view(ROW, Instant(NOW)), []),
        (None, []),
    ],
)
def test_show_tells_what_a_script_uses_while_that_is_known(run: RunView | None, shown: list[str]):
    instant = "2026-11-23T08:00:00.000Z"
    action = ActionView(
        "a", instant, instant, True, True, (), "default", "STARTED", "running", None, "", 1, run
    )
    lines = plain_lines([action_block(action, NOW)])
    assert [line for line in lines if line.startswith("script uses")] == shown
