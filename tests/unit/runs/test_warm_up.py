"""The warm-up of a zygote: it does what a worker does, and leaves nothing of it behind."""

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import ClassVar

import pytest
from geosched.ipc.messages.runs import RunResult
from geosched.ipc.paths import ENDPOINT_PATH_BYTES_MAX, Runtime
from geosched.workers.host.cgroups import Containment
from geosched.workers.runs import run, warm_up
from geosched.workers.runs.run import World
from geosched.workers.runs.warm_up import WarmUp
from msgspec.structs import replace


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(
        runtime=Runtime(tmp_path), mark="a-mark", containment=Containment("tree"), lifeline=-1
    )


def state_of_process() -> dict[str, object]:
    umask = os.umask(0o022)
    os.umask(umask)
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "threads": threading.enumerate(),
        "tasks": os.listdir("/proc/self/task"),
        "children": Path("/proc/thread-self/children").read_text(),
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "umask": umask,
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    }


def run_all(steps: WarmUp) -> int:
    count = 1
    while not steps.step():
        count += 1
    return count


def test_it_leaves_nothing_behind(world):
    before = state_of_process()
    assert run_all(WarmUp(world)) > warm_up.ROUNDS
    assert state_of_process() == before
    assert list(world.runtime.dir.iterdir()) == []


def test_it_gets_through_in_the_longest_directory_that_a_daemon_may_have(tmp_path, world, seen):
    room = ENDPOINT_PATH_BYTES_MAX - len("/workers.sock")
    longest = tmp_path / ("d" * (room - len(os.fsencode(tmp_path)) - 1))
    longest.mkdir()
    run_all(WarmUp(replace(world, runtime=Runtime(longest))))
    assert len(seen) == warm_up.ROUNDS
    assert list(longest.iterdir()) == []


class SeenRun(run.ActiveRun):
    results: ClassVar[list[object]] = []

    def turn(self, now: float) -> RunResult | None:
        result = super().turn(now)
        self.results += [] if result is None else [result]
        return result


@pytest.fixture
def seen(monkeypatch) -> list[object]:
    monkeypatch.setattr(warm_up, "ActiveRun", SeenRun)
    monkeypatch.setattr(SeenRun, "results", [])
    return SeenRun.results


def test_it_carries_out_runs_to_their_end(world, seen):
    run_all(WarmUp(world))
    assert [(each.cause, each.exit_code) for each in seen] == [("exited", 0)] * warm_up.ROUNDS


def test_a_program_that_does_not_end_is_stopped(world, seen, monkeypatch, tmp_path):
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(warm_up, "PROGRAM", str(hangs))
    monkeypatch.setattr(warm_up, "RUN_SECONDS_MAX", 0.2)
    monkeypatch.setattr(warm_up, "ROUNDS", 1)
    monkeypatch.setattr(warm_up, "find_program", lambda *_: str(hangs))
    before = state_of_process()
    run_all(WarmUp(world))
    assert [each.cause for each in seen] == ["stopped"]
    assert state_of_process() == before


def test_it_begins_no_run_while_there_are_children_for_a_run_ends_all_below_it(world, seen):
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        try:
            run_all(WarmUp(world))
            assert child.poll() is None
        finally:
            child.kill()
    assert seen == []


def test_without_the_program_it_does_the_rest(world, monkeypatch):
    monkeypatch.setattr(warm_up, "PROGRAM", "no-such-program")
    run_all(WarmUp(world))
    assert list(world.runtime.dir.iterdir()) == []


def test_what_a_killed_zygote_left_is_removed(world):
    steps = WarmUp(world)
    steps.step()
    steps.step()
    assert list(world.runtime.dir.iterdir()) != []
    run_all(WarmUp(world))
    assert list(world.runtime.dir.iterdir()) == []


def test_a_directory_that_takes_no_files_ends_it_and_nothing_is_left(world, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(warm_up.results, "keep", full)
    steps = WarmUp(world)
    with pytest.raises(OSError, match="full"):
        run_all(steps)
    assert list(world.runtime.dir.iterdir()) == []
