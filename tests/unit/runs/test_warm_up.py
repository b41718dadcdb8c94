"""The warm-up of a zygote: it does what a worker does, and leaves nothing of it behind."""

import os
import signal
import threading
from pathlib import Path

import pytest
from geosched.ipc.paths import Runtime
from geosched.workers.host.cgroups import Containment
from geosched.workers.runs import launch, warm_up
from geosched.workers.runs.run import World
from geosched.workers.runs.warm_up import WarmUp


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


def test_it_starts_a_program_and_takes_its_end(world, monkeypatch):
    seen = []
    started = launch.start

    def seen_start(*arguments, **named):
        script = started(*arguments, **named)
        seen.append(script)
        return script

    monkeypatch.setattr(warm_up, "start", seen_start)
    run_all(WarmUp(world))
    assert len(seen) == warm_up.ROUNDS


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
