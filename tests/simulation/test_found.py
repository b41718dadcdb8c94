"""Faults that simulated years have found, each as the shortest way to it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.instants import SECOND_US, format_instant
from geosched.supervisor.config.sections import BackendSettings, DaemonSettings
from msgspec.structs import replace

from .stage import DAY, HOUR, Stage, simulated
from .world import BEGIN_US, KilledError, World

TURNS_MAX = 2_000


@pytest.fixture
def stage(directory: Path) -> Iterator[Stage]:
    world = World(1)
    daemon = DaemonSettings(
        state_dir=directory / "state",
        runtime_dir=directory,
        log_dir=directory / "log",
        retention_seconds=10 * DAY,
        backup_interval_seconds=0.0,
    )
    backend = BackendSettings(url="http://simulated", poll_interval_seconds=DAY)
    with simulated(world), Stage(world, directory, daemon, backend) as made:
        made.backend.etags = made.host.plain_scripts = True
        yield made


def send(stage: Stage, action_id: str, begins: float = 30 * DAY, ends: float = 31 * DAY) -> None:
    """The backend sends an action; its window in seconds from now."""
    now_us = BEGIN_US + stage.world.now_us
    entry: dict[str, Any] = {
        "id": action_id,
        "fromDate": format_instant(now_us + round(begins * SECOND_US)),
        "toDate": format_instant(now_us + round(ends * SECOND_US)),
        "shouldBeExecuted": True,
        "appNames": [],
        "type": "once",
    }
    stage.backend.entries[action_id] = entry


def turn_until(stage: Stage, holds: Callable[[], bool]) -> None:
    assert stage.daemon is not None
    for _ in range(TURNS_MAX):
        if holds():
            return
        stage.daemon.turn()
    notes = "\n".join(stage.world.told()[-20:])
    raise AssertionError(f"not within {TURNS_MAX} turns; the last that happened:\n{notes}")


def live(stage: Stage, seconds: float) -> None:
    until_us = stage.world.now_us + round(seconds * SECOND_US)
    stage.world.at(until_us, lambda: setattr(stage.world, "awake", True))
    turn_until(stage, lambda: stage.world.now_us >= until_us)


def pull(stage: Stage) -> None:
    assert stage.daemon is not None
    asked = stage.daemon.loop.parts.sync.ask()
    turn_until(stage, lambda: asked.done)


def statuses(stage: Stage) -> dict[str, str]:
    assert stage.daemon is not None
    found = {action_id: stage.daemon.db.read(action_id) for action_id in stage.oracle.known}
    return {action_id: record.status.value for action_id, record in found.items() if record}


def test_a_snapshot_that_cannot_be_stored_is_pulled_less_and_less_often(stage: Stage):
    stage.start_daemon()
    send(stage, "a")
    stage.host.disk_full = True
    live(stage, 60)
    assert len(stage.backend.asked) < 10


def test_reports_whose_answer_cannot_be_stored_are_told_less_and_less_often(stage: Stage):
    stage.start_daemon()
    send(stage, "a", begins=-2 * HOUR, ends=-HOUR)
    turn_until(stage, lambda: "a" in stage.oracle.known)
    stage.host.disk_full = True
    live(stage, 60)
    assert len(stage.backend.asked) < 12


def test_a_store_is_well_again_also_when_nothing_is_left_to_write(stage: Stage):
    daemon = stage.start_daemon()
    send(stage, "a")
    pull(stage)
    stage.host.disk_full = True
    send(stage, "b")
    pull(stage)
    assert daemon.loop.degraded is not None
    del stage.backend.entries["b"]
    stage.host.disk_full = False
    pull(stage)
    live(stage, 3)
    assert daemon.loop.degraded is None


def test_s06_nothing_is_forgotten_while_a_snapshot_that_may_hold_it_is_applied(stage: Stage):
    daemon = stage.start_daemon()
    send(stage, "old", begins=-2 * HOUR, ends=-HOUR)
    pull(stage)
    sent = stage.backend.entries.pop("old")
    pull(stage)
    live(stage, 9 * DAY)
    live(stage, DAY + HOUR - 60)  # it may be forgotten from now on, and nobody has looked yet
    stage.backend.entries["old"] = sent
    for number in range(9):
        send(stage, f"new-{number}")
    backend = daemon.loop.parts.sync
    asked = backend.ask()
    turn_until(stage, lambda: backend.applying)
    daemon.loop.parts.retention.look_for_old()
    turn_until(stage, lambda: asked.done)
    assert statuses(stage)["old"] == "WONT_START"


def test_an_exchange_that_follows_a_stalled_commit_has_all_of_its_time(stage: Stage):
    impatient = replace(stage.settings.backend, timeout_seconds=2.5)
    stage.settings = replace(stage.settings, backend=impatient)
    daemon = stage.start_daemon()
    pull(stage)
    send(stage, "a", begins=-2 * HOUR, ends=-HOUR)
    stage.host.slow_commits = 1  # of the snapshot; the report begins right after it
    asked = daemon.loop.parts.sync.ask()
    turn_until(stage, lambda: asked.done)
    assert stage.host.stalled_us > 0
    assert (asked.error, asked.counts.reported) == (None, 1)


def test_an_exchange_that_follows_stalled_reports_has_all_of_its_time(stage: Stage):
    impatient = replace(stage.settings.backend, timeout_seconds=2.5)
    stage.settings = replace(stage.settings, backend=impatient)
    daemon = stage.start_daemon()
    send(stage, "a", begins=-2 * HOUR, ends=-HOUR)
    asked = daemon.loop.parts.sync.ask()
    turn_until(stage, lambda: daemon.db.outbox_depth > 0)
    stage.host.slow_commits = 1  # that settles the report; the pull begins right after it
    daemon.loop.parts.sync.want_pull()
    turn_until(stage, lambda: asked.done)
    assert stage.host.stalled_us > 0
    assert asked.error is None


def test_s13_a_stop_that_follows_a_stalled_commit_leaves_the_script_its_grace(stage: Stage):
    """The disk stalls for longer than that grace and all that is granted beyond it."""
    daemon = stage.start_daemon()
    send(stage, "a", begins=0, ends=HOUR)
    stage.backend.entries["a"]["type"] = "again"
    pull(stage)
    runs = daemon.loop.parts.pool.runs
    turn_until(stage, lambda: any(run.script_pid for run in runs.values()))
    (run,) = runs.values()
    stage.host.slow_commits = 1
    stage.oracle.stop_is_asked("a")
    daemon.loop.ask_stop("a")
    turn_until(stage, lambda: run.stop is not None)
    assert stage.host.stalled_us > 0
    asked = daemon.loop.parts.clock.monotonic_seconds()
    assert run.stuck_at_monotonic is not None
    assert run.stuck_at_monotonic - asked >= run.order.stop_grace_seconds


def test_workers_that_are_asked_for_after_a_stalled_commit_are_waited_for(stage: Stage):
    """As long as ever: none is asked for besides, and none is killed as one that hangs."""
    none_spare = replace(stage.settings.daemon, spare_workers=0)
    stage.settings = replace(stage.settings, daemon=none_spare)
    daemon = stage.start_daemon()
    send(stage, "a", begins=0, ends=HOUR)
    stage.host.slow_commits = 1
    daemon.loop.parts.sync.ask()
    turn_until(stage, lambda: stage.host.scripts != {})
    assert stage.host.stalled_us > 0
    assert len(stage.host.workers) == 1


def test_s08_half_of_a_snapshot_is_not_left_when_the_backend_is_as_it_was_before(stage: Stage):
    stage.start_daemon()
    send(stage, "a")
    pull(stage)
    before = dict(stage.backend.entries)
    for number in range(9):
        send(stage, f"new-{number}")
    assert stage.daemon is not None
    stage.daemon.loop.parts.sync.ask()
    turn_until(stage, lambda: len(stage.oracle.known) > 1)  # its first share is on disk
    half = stage.oracle.known.keys() - {"a"}
    assert len(half) < 9
    stage.host.doom(0, KilledError)
    with pytest.raises(KilledError):
        live(stage, HOUR)
    stage.end_daemon()
    stage.backend.entries = before
    stage.start_daemon()
    pull(stage)
    assert {statuses(stage)[one] for one in half} == {"WONT_START"}
    assert statuses(stage)["a"] == "NULL"


def test_s12a_a_back_off_from_a_boot_in_1970_is_not_over_when_the_clock_is_set(stage: Stage):
    daemon = stage.start_daemon()
    send(stage, "a", begins=0, ends=DAY)
    pull(stage)
    seen = stage.oracle.known["a"]
    for attempt in range(2, 6):
        turn_until(stage, lambda: stage.host.scripts != {})
        stage.end_daemon()
        stage.host.power_is_cut(keeps_results=False)
        stage.world.reboot(1.0)
        if attempt == 5:
            stage.world.set_wall_to_1970()
            stage.world.after(1.0, lambda: stage.world.set_wall(0))
        daemon = stage.start_daemon()
    began_us = stage.world.now_us
    turn_until(stage, lambda: seen.record.attempt == 5)
    assert daemon.loop.now.trusted
    assert stage.world.now_us - began_us > 6 * SECOND_US
