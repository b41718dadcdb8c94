"""What processes of another user cost the daemon, whatever they pretend to be.

Each has an environment and a command line of half a megabyte, with the marks of a script that an
earlier daemon left; for half of them the mark with the key in it, which no stranger knows.
"""

import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from figures import Figure, Line, Remark
from geosched.supervisor.startup.mark import instance_of, mark_of
from geosched.workers.host import procfs
from measuring import read_stamps, wall_seconds
from recovery import configure, start_seconds, wait_for_starts
from support.daemon import Daemon, daemon_installation, entry
from support.second_user import SECOND_USER, command_as
from support.wait import wait_for

#: One variable or argument may have 128 KiB (fact P12).
TEXT_BYTES = 120_000
TEXTS = 4
#: From the word of the backend to the first start.
AHEAD_SECONDS = 4.0
BETWEEN_SECONDS = 0.5
#: Before the first start the worker of another run is killed.
LOST_BEFORE_SECONDS = 0.1


def bench(quick: bool) -> Iterator[Line]:
    if os.geteuid() != 0:
        yield Remark("not measured: only root can become a second user")
        return
    count, rounds, each = (100, 2, 3) if quick else (1000, 3, 5)
    yield from _starts(count, rounds, each)
    yield from _at_work(count, rounds, each)
    yield Remark(f"{count} processes, each with {2 * TEXTS * TEXT_BYTES / 1e6:.1f} MB of its own")


def _starts(count: int, rounds: int, each: int) -> Iterator[Line]:
    """In turns: so many starts without them, so many among them."""
    without: list[float] = []
    among: list[float] = []
    with daemon_installation() as daemon:
        configure(daemon)
        daemon.start()
        daemon.terminate()
        for _ in range(rounds):
            without += _took(daemon, each)
            with _strangers(daemon, count):
                among += _took(daemon, each)
    yield from _compared("start to READY=1", without, among, 1.2)


def _took(daemon: Daemon, times: int) -> list[float]:
    took = []
    for _ in range(times):
        took.append(start_seconds(daemon))
        daemon.terminate()
    return took


def _at_work(count: int, rounds: int, each: int) -> Iterator[Line]:
    pings: tuple[list[float], list[float]] = ([], [])
    lates: tuple[list[float], list[float]] = ([], [])
    ends: tuple[list[float], list[float]] = ([], [])
    with daemon_installation() as daemon:
        stamps = configure(daemon)
        daemon.start()
        for number in range(rounds):
            _work(daemon, stamps, f"{number}-alone", each, (pings[0], lates[0], ends[0]))
            with _strangers(daemon, count):
                _work(daemon, stamps, f"{number}-among", each, (pings[1], lates[1], ends[1]))
    yield from _compared("geosched-ctl ping", *pings, 1.5)
    yield from _compared("late, while a lost run is ended", *lates, None)
    yield from _compared("worker killed, until its run is settled", *ends, None)


Found = tuple[list[float], list[float], list[float]]


def _work(daemon: Daemon, stamps: Path, name: str, each: int, found: Found) -> None:
    """Starts at known instants, and before the first of them a worker that is killed."""
    pings, lates, ends = found
    before = len(read_stamps(stamps))
    daemon.send([entry(f"{name}-lost", -1, 3600)])
    daemon.json("sync")
    wait_for_starts(stamps, before + 1)
    lost = daemon.wait_phase(f"{name}-lost", "running")
    plan = [
        entry(f"{name}-{number}", AHEAD_SECONDS + number * BETWEEN_SECONDS, 3600)
        for number in range(each)
    ]
    due = {one["id"]: datetime.fromisoformat(one["fromDate"]).timestamp() for one in plan}
    daemon.send([entry(f"{name}-lost", -1, 3600), *plan])
    daemon.json("sync")
    time.sleep(max(0.0, min(due.values()) - LOST_BEFORE_SECONDS - time.time()))
    killed = time.monotonic()
    os.kill(lost["run"]["workerPid"], signal.SIGKILL)
    daemon.wait_phase(f"{name}-lost", "done")
    ends.append(time.monotonic() - killed)
    pings += [wall_seconds(daemon, "ping") for _ in range(each)]
    wait_for_starts(stamps, before + 1 + each)
    lates += [at / 1e9 - due[one] for one, at in read_stamps(stamps) if one in due]
    daemon.send([])
    daemon.json("sync")
    wait_for(lambda: daemon.json("status")["running"] == 0, what="the end of all runs")


def _compared(
    what: str, without: list[float], among: list[float], ratio_max: float | None
) -> Iterator[Line]:
    alone, beside = statistics.median(without) * 1e3, statistics.median(among) * 1e3
    yield Figure(f"{what}, without them, median of {len(without)}", alone, "ms")
    yield Figure("  most", max(without) * 1e3, "ms")
    yield Figure(f"{what}, among them, median of {len(among)}", beside, "ms")
    yield Figure("  most", max(among) * 1e3, "ms")
    if ratio_max is not None:
        yield Figure("  among / without", beside / alone, "x", ratio_max)


@contextmanager
def _strangers(daemon: Daemon, count: int) -> Iterator[None]:
    state = daemon.root / "state"
    texts = {f"X{number}": "x" * TEXT_BYTES for number in range(TEXTS)}
    # `sleep` adds its arguments up, and takes any number of zeros for one.
    command = ("/bin/sleep", "86400", *["0" * TEXT_BYTES] * TEXTS)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(count):
            mark = mark_of(state).text if number % 2 else instance_of(state)
            marks = {procfs.INSTANCE_VARIABLE: mark, procfs.RUN_ID_VARIABLE: f"r{number}"}
            started.append(command_as(SECOND_USER, *command, env=marks | texts))
        yield
        assert all(one.poll() is None for one in started), "a stranger was ended"
    finally:
        for one in started:
            one.kill()
        for one in started:
            one.wait()
