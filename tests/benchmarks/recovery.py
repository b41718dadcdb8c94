"""How soon a daemon is there: after a start, after `kill -9`, and for what is due at once."""

import json
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from figures import Figure, Line, Remark
from measuring import build_stamp, cpu_seconds, end_stamps, read_stamps, wall_seconds
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for

READY_SECONDS = 20.0
RUNNING = 20
#: From the fifth attempt on an action waits before it starts again (S12a).
KILLS = 3


def bench(quick: bool) -> Iterator[Line]:
    stored, starts, arrivals = (2_000, 3, 3) if quick else (10_000, 9, 10)
    yield from _ready(stored, starts, quick)
    yield from _running_again(1 if quick else KILLS)
    yield from _due_on_arrival(arrivals)
    for together in (10, 20) if quick else (50, 100):
        yield from _ends(together)


def _ready(stored: int, starts: int, quick: bool) -> Iterator[Line]:
    took = []
    with daemon_installation() as daemon:
        configure(daemon)
        daemon.start()
        daemon.send([entry(f"waits-{n:05}", 86_400 + n, 90_000 + n) for n in range(stored)])
        daemon.json("sync")
        wait_for(lambda: daemon.json("status")["counts"]["NULL"] == stored, seconds=30)
        for _ in range(starts):
            daemon.terminate()
            took.append(start_seconds(daemon))
    goal = None if quick else 400
    median = statistics.median(took) * 1e3
    yield Figure(f"start to READY=1, {stored} stored, median of {starts}", median, "ms", goal)
    yield Figure("  most", max(took) * 1e3, "ms")


def start_seconds(daemon: Daemon) -> float:
    """From just before the fork to the word that a service manager waits for."""
    address = daemon.root / "notify"
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(READY_SECONDS)
        begun = time.monotonic()
        daemon.start(wait=False, env={"NOTIFY_SOCKET": str(address)})
        while b"READY=1" not in listener.recv(4096):
            pass
        return time.monotonic() - begun


def _running_again(kills: int) -> Iterator[Line]:
    took = []
    with daemon_installation() as daemon:
        stamps = configure(daemon)
        daemon.send([entry(f"runs-{n:02}", -1, 3600) for n in range(RUNNING)])
        daemon.start()
        for before in range(RUNNING, RUNNING * (kills + 1), RUNNING):
            wait_for_starts(stamps, before)
            wait_for(lambda: _all_running(daemon), what="all to run")
            killed = time.time_ns()
            daemon.kill()
            daemon.start(wait=False)
            wait_for_starts(stamps, before + RUNNING)
            took.append((max(at for _, at in read_stamps(stamps)) - killed) / 1e6)
    what = f"kill -9 and start to all {RUNNING} running again"
    yield Figure(f"{what}, median of {kills}", statistics.median(took), "ms")
    yield Remark("a script that ends on SIGTERM at once; at no instant two runs of one action")


def wait_for_starts(stamps: Path, count: int) -> None:
    wait_for(lambda: len(read_stamps(stamps)) == count, seconds=30, what=f"{count} starts")


def _all_running(daemon: Daemon) -> bool:
    """Asked without a demand: it may not answer yet."""
    done = daemon.ctl("-o", "json", "list")
    if done.returncode != 0:
        return False
    return all(each["phase"] == "running" for each in json.loads(done.stdout)["actions"])


def _due_on_arrival(count: int) -> Iterator[Line]:
    """From the backend's change to the first instruction of the script."""
    took, sent = [], []
    with daemon_installation() as daemon:
        stamps = configure(daemon)
        daemon.start()
        for n in range(count):
            sent.append(entry(f"now-{n}", 0, 3600))
            begun = time.time_ns()
            daemon.send(sent)
            daemon.json("sync")
            wait_for_starts(stamps, n + 1)
            took.append((read_stamps(stamps)[-1][1] - begun) / 1e6)
        own = statistics.median(wall_seconds(daemon, "ping") for _ in range(5)) * 1e3
    what = f"due on arrival: change, sync, script; median of {count}"
    yield Figure(what, statistics.median(took), "ms")
    yield Figure("  of that geosched-ctl itself (a ping)", own, "ms")


def _ends(count: int) -> Iterator[Line]:
    """Scripts that end by themselves, all at one instant."""
    with daemon_installation() as daemon:
        stamps = configure(daemon, max_running=count)
        daemon.send([entry(f"ends-{n:03}", -1, 3600) for n in range(count)])
        daemon.start()
        wait_for_starts(stamps, count)
        wait_for(lambda: _all_running(daemon), seconds=30, what="all to run")
        used, begun = cpu_seconds(daemon), time.monotonic()
        end_stamps(stamps)
        wait_for(
            lambda: daemon.stderr.read_text().count(" -> FAILED") == count,
            seconds=60,
            what="all ends",
        )
        wall, used = time.monotonic() - begun, cpu_seconds(daemon) - used
    yield Figure(f"{count} scripts end at once: until all are written down", wall * 1e3, "ms")
    yield Figure("  CPU for each of them", used / count * 1e3, "ms")


def configure(daemon: Daemon, **settings: int) -> Path:
    stamps = daemon.root / "stamps"
    command = [str(build_stamp(daemon.root)), str(stamps), "3600", "{id}"]
    daemon.configure(
        scripts={"default": {"command": command, "stop_grace": "1s"}},
        backend={"poll_interval": "60s"},
        **settings,
    )
    return stamps
