"""What a run costs: memory, processor time, commits and flash, beside the build before.

    PYTHONS="python3.11 python3.13" BEFORE=/path/to/a/checkout bench.py --only j

Each build is installed anew for each Python; the builds take turns, so that a drift of the machine
hits them alike. `BEFORE` may also name a directory of commands that are there already.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb
from block_device import Device, Written, device, why_not
from figures import Figure, Line, Remark, Table, number
from geosched.ipc.messages.control import GetStatus, StatusIs
from geosched.ipc.messages.views import StatusView
from measuring import (
    MEGABYTE,
    build_stamp,
    cpu_seconds,
    kill_all,
    merging,
    processes,
    pss_bytes_at_rest,
)
from recovery import start_seconds
from support.daemon import Daemon, daemon_installation, entry
from support.installed import install
from support.wait import wait_for

NOW, BEFORE = "this build", "the build before"
ARM_AHEAD_SECONDS = 60
#: From the sending of actions to the first that is due: they have to be known by then.
KNOWN_SECONDS = 8.0
SETTLED_SECONDS_MAX = 240.0

#: Figures by their names, each with what was measured in all rounds.
Found = dict[str, list[float]]


@dataclass(frozen=True)
class Size:
    rounds: int
    waiting: int
    running: int
    armed: int
    short: int
    short_a_second: int
    at_once: int
    slots: int
    starts: int


FULL = Size(2, 10_000, 100, 50, 200, 20, 600, 32, 5)
QUICK = Size(1, 1_000, 20, 10, 40, 20, 100, 32, 2)


@dataclass(frozen=True)
class Goal:
    """What this build is to reach: so much of a figure, or so many times that of the build
    before. `minor` is the version of Python that it holds for; None for all."""

    name: str
    value: float
    of_before: bool = False
    minor: int | None = None


RUNNING = "PSS a running action"
ARMED = "PSS of an armed worker, with the process forked ahead"
CPU = "CPU of a whole short run, all processes"
COMMITS = "durable commits a run"
BYTES = "bytes to the disk a run"
FLUSHES = "flushes a run"
AT_REST = "PSS of all processes at rest"
TOGETHER = "short actions due at once, until all are settled"
READY = "start to READY=1"
UNITS = {RUNNING: "MB", ARMED: "MB", AT_REST: "MB", CPU: "ms", BYTES: "kB", TOGETHER: "s"}
UNITS |= {READY: "ms", COMMITS: "", FLUSHES: ""}
GOALS = (
    Goal(RUNNING, 2.7, minor=11),
    Goal(RUNNING, 1.35, minor=12),
    Goal(RUNNING, 1.45, minor=13),
    Goal(ARMED, 2.1, minor=12),
    Goal(ARMED, 2.6, minor=13),
    Goal(CPU, 0.65, of_before=True),
    Goal(COMMITS, 1.2),
    Goal(AT_REST, 0.85, of_before=True),
    Goal(TOGETHER, 1 / 1.5, of_before=True),
    Goal(READY, 1.0, of_before=True),
)


@dataclass
class Build:
    """Commands to measure, and what came of it."""

    name: str
    commands: Path
    found: Found = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.found.setdefault(name, []).append(value)

    def median(self, name: str) -> float | None:
        return statistics.median(self.found[name]) if self.found.get(name) else None


def bench(quick: bool) -> Iterator[Line]:
    size = QUICK if quick else FULL
    yield Remark(f"the kernel's merging of alike pages is {merging()}; builds take turns")
    yield Remark(f"{size.waiting} waiting, {size.running} running, {size.armed} armed")
    yield Remark(
        f"short runs: {size.short} at {size.short_a_second} a second, of a C program that ends at "
        "once, less what the same daemon takes in the same time without any"
    )
    yield Remark(f"due at once: {size.at_once} with max_running = {size.slots}")
    if reason := why_not():
        yield Remark(f"bytes and flushes: {reason}")
    for python in os.environ.get("PYTHONS", "").split() or [sys.executable]:
        if shutil.which(python) is None:
            yield Remark(f"{python}: it is not on this host")
            continue
        with tempfile.TemporaryDirectory(prefix="geosched-bench-") as place:
            yield from _bench_python(python, Path(place), size)


def _bench_python(python: str, place: Path, size: Size) -> Iterator[Line]:
    builds = [Build(NOW, install(_made(place / "now"), python=python))]
    before = os.environ.get("BEFORE", "")
    if (Path(before) / "pyproject.toml").is_file():
        commands = install(_made(place / "before"), python=python, root=Path(before))
        builds.append(Build(BEFORE, commands))
    elif before:
        builds.append(Build(BEFORE, Path(before)))
    minor = _minor(builds[0].commands)
    with _kept_environment():
        for number_ in range(size.rounds):
            for session in (_memory, _short_runs, _together, _starts):
                for build in builds[:: 1 if number_ % 2 else -1]:
                    print(f"  round {number_ + 1}: {session.__name__}, {build.name}", flush=True)
                    os.environ["GEOSCHED_TEST_BIN"] = str(build.commands)
                    session(build, size)
    yield from _lines(f"Python 3.{minor}", minor, builds)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _minor(commands: Path) -> int:
    text = subprocess.run(
        [commands / "python", "-c", "import sys; print(sys.version_info.minor)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return int(text)


@contextmanager
def _kept_environment() -> Iterator[None]:
    before = os.environ.get("GEOSCHED_TEST_BIN")
    try:
        yield
    finally:
        os.environ.pop("GEOSCHED_TEST_BIN", None)
        if before is not None:
            os.environ["GEOSCHED_TEST_BIN"] = before


# --- sessions: each a daemon or two of one build ----------------------------------------


def _memory(build: Build, size: Size) -> None:
    waiting = [entry(f"waits-{n:05}", 86_400 + n, 90_000 + n) for n in range(size.waiting)]
    with daemon_installation() as daemon:
        _configured(daemon, life_seconds=3600, max_running=size.running)
        daemon.start()
        _sent(daemon, waiting)
        _wait_for_counts(daemon, "NULL", size.waiting)
        at_rest = pss_bytes_at_rest(daemon)
        build.add(AT_REST, at_rest / MEGABYTE)
        _sent(daemon, waiting + [entry(f"runs-{n:03}", -1, 3600) for n in range(size.running)])
        _wait_for_counts(daemon, "STARTED", size.running)
        used = pss_bytes_at_rest(daemon) - at_rest
        build.add(RUNNING, used / size.running / MEGABYTE)
        kill_all(daemon)
    _armed(build, size)


def _armed(build: Build, size: Size) -> None:
    with daemon_installation() as daemon:
        _configured(
            daemon,
            life_seconds=3600,
            max_running=2 * size.armed,
            arm_ahead=f"{ARM_AHEAD_SECONDS}s",
            spare_workers=0,
        )
        daemon.start()
        at_rest = pss_bytes_at_rest(daemon)
        known = len(processes(daemon))
        due = ARM_AHEAD_SECONDS - 2
        _sent(daemon, [entry(f"near-{n:03}", due, 3600) for n in range(size.armed)])
        wait_for(
            lambda: len(processes(daemon)) >= known + 2 * size.armed, seconds=20, what="all armed"
        )
        used = pss_bytes_at_rest(daemon) - at_rest
        assert len(processes(daemon)) == known + 2 * size.armed
        build.add(ARMED, used / size.armed / MEGABYTE)
        kill_all(daemon)


def _short_runs(build: Build, size: Size) -> None:
    with ExitStack() as stack:
        disk = None if why_not() else stack.enter_context(device())
        daemon = stack.enter_context(daemon_installation())
        state = daemon.root / "state" if disk is None else disk.place / "state"
        _configured(daemon, life_seconds=0, state_dir=str(state), max_running=size.slots)
        daemon.start()
        lasts = size.short / size.short_a_second
        first = time.time() + KNOWN_SECONDS
        _sent(
            daemon,
            [
                entry(f"short-{n:04}", KNOWN_SECONDS + n / size.short_a_second, 3600)
                for n in range(size.short)
            ],
        )
        _wait_for_counts(daemon, "NULL", size.short)
        written, commits = _written(disk), _commits(state)
        time.sleep(max(0.0, first - 0.5 - time.time()))
        used, begun = cpu_seconds(daemon), time.monotonic()
        time.sleep(lasts)
        _wait_for_counts(daemon, "FINISHED", size.short)
        wait_for(lambda: _status(daemon).outbox.depth == 0, seconds=20, pause_seconds=0.5)
        used, took = cpu_seconds(daemon) - used, time.monotonic() - begun
        build.add(COMMITS, (_commits(state) - commits) / size.short)
        if disk is not None:
            written = _written(disk) - written
            build.add(BYTES, written.bytes / size.short / 1000)
            build.add(FLUSHES, written.flushes / size.short)
        without = cpu_seconds(daemon)
        time.sleep(took)
        without = cpu_seconds(daemon) - without
        build.add(CPU, (used - without) / size.short * 1e3)
        daemon.terminate()


def _written(disk: Device | None) -> Written:
    return Written(0, 0) if disk is None else disk.settled()


def _commits(state: Path) -> int:
    """How many write transactions daemonDB has seen."""
    with lmdb.open(str(state / "daemondb"), readonly=True, lock=False, create=False) as found:
        return int(found.info()["last_txnid"])


def _together(build: Build, size: Size) -> None:
    with daemon_installation() as daemon:
        _configured(daemon, life_seconds=0, max_running=size.slots)
        daemon.start()
        due = time.time() + KNOWN_SECONDS
        _sent(daemon, [entry(f"due-{n:04}", KNOWN_SECONDS, 3600) for n in range(size.at_once)])
        _wait_for_counts(daemon, "NULL", size.at_once)
        _wait_for_counts(daemon, "FINISHED", size.at_once)
        build.add(TOGETHER, time.time() - due)
        daemon.terminate()


def _starts(build: Build, size: Size) -> None:
    with daemon_installation() as daemon:
        _configured(daemon, life_seconds=0)
        daemon.start()
        _sent(daemon, [entry(f"waits-{n:05}", 86_400, 90_000) for n in range(size.waiting)])
        _wait_for_counts(daemon, "NULL", size.waiting)
        for _ in range(size.starts):
            daemon.terminate()
            build.add(READY, start_seconds(daemon) * 1e3)
        daemon.terminate()


def _configured(daemon: Daemon, *, life_seconds: int, **settings: Any) -> None:
    command = [str(build_stamp(daemon.root)), str(daemon.root / "stamps"), str(life_seconds)]
    daemon.configure(
        scripts={"default": {"command": [*command, "{id}"], "stop_grace": "1s"}},
        backend={"poll_interval": "1h", "max_actions": 20_000},
        **settings,
    )


def _sent(daemon: Daemon, actions: list[dict[str, Any]]) -> None:
    daemon.send(actions)
    daemon.json("sync")


def _status(daemon: Daemon) -> StatusView:
    found = daemon.asked(GetStatus(), StatusIs)
    assert found is not None, daemon.log_text()
    return found.status


def _wait_for_counts(daemon: Daemon, status: str, count: int) -> None:
    wait_for(
        lambda: _status(daemon).counts[status] == count,
        seconds=SETTLED_SECONDS_MAX,
        pause_seconds=0.05,
        what=f"{count} {status}",
    )


# --- what comes of it -------------------------------------------------------------------


def _lines(python: str, minor: int, builds: list[Build]) -> Iterator[Line]:
    before = builds[1] if len(builds) > 1 else None
    rows = []
    for name, unit in UNITS.items():
        values = [build.median(name) for build in builds]
        cells = ["" if value is None else f"{number(value)} {unit}" for value in values]
        if before is not None:
            cells.append(_ratio(values[0], values[1]))
        rows.append((name, *cells))
    head = (python, *(build.name for build in builds), *["ratio"] * (before is not None))
    yield Table(f"What a run costs, {python}, medians", head, tuple(rows))
    for goal in GOALS:
        value = builds[0].median(goal.name)
        if value is None or goal.minor not in (None, minor):
            continue
        name = f"{goal.name}, {python}"
        if not goal.of_before:
            yield Figure(name, value, UNITS[goal.name], goal.value)
        elif before is not None and (other := before.median(goal.name)):
            yield Figure(f"{name} / that of the build before", value / other, "x", goal.value)


def _ratio(value: float | None, other: float | None) -> str:
    return f"{value / other:.2f} x" if value is not None and other else ""
