"""Figures of a real daemon on this machine, each beside its goal: `make bench`.

Measures from outside, through the commands and `/proc`; a goal that is missed is said and
fails nothing, because the machine has its share in it. Needs a C compiler: what is started
tells the time by its first instruction, not when an interpreter is ready.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for

#: Between two starts, so that each is alone and falls on another part of a second.
SPREAD_SECONDS = 0.73
FIRST_START_SECONDS = 4.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
MEGABYTE = 1_000_000

STAMP = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Writes the time of its first instruction, in nanoseconds, to argv[1]/<action id>. */
int main(int argc, char **argv) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const char *id = getenv("GEOSCHED_ACTION_ID");
    char new[4096], path[4096];
    if (argc != 2 || id == NULL) return 2;
    snprintf(path, sizeof path, "%s/%s", argv[1], id);
    snprintf(new, sizeof new, "%s.new", path);
    FILE *file = fopen(new, "w");
    if (file == NULL) return 1;
    fprintf(file, "%lld%09ld", (long long)now.tv_sec, now.tv_nsec);
    return fclose(file) || rename(new, path);
}
"""


@dataclass(frozen=True)
class Figure:
    """One line of the table; without a goal it only informs. Less is better."""

    name: str
    value: float
    unit: str
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.value <= self.goal

    def __str__(self) -> str:
        goal = "" if self.goal is None else f"{self.goal:g} {self.unit}"
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        value = f"{self.value:.3f}" if self.value < 10 else f"{self.value:.1f}"
        return f"{self.name:<58} {value:>9} {self.unit:<5} {goal:>9}  {verdict}"


# --- what a daemon costs ----------------------------------------------------------------


def processes(daemon: Daemon) -> list[int]:
    """The daemon and all its descendants but the scripts."""
    assert daemon.process is not None
    children: dict[int, list[int]] = {}
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        fields = stat_fields(pid)
        if fields:
            children.setdefault(int(fields[1]), []).append(pid)
    found = [daemon.process.pid]
    for pid in found:  # grows while it is walked through
        found += children.get(pid, [])
    interpreter = executable(daemon.process.pid)
    return [pid for pid in found if executable(pid) == interpreter]


def stat_fields(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` from the state on; [] where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def executable(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def cpu_seconds(daemon: Daemon) -> float:
    """All that was ever used: by living processes, and by ended ones they have reaped."""
    ticks = 0
    for pid in processes(daemon):
        ticks += sum(int(field) for field in stat_fields(pid)[11:15])
    return ticks / TICKS_PER_SECOND


def pss_bytes(daemon: Daemon) -> int:
    """Memory in use, shared pages counted by their share."""
    kilobytes = 0
    for pid in processes(daemon):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kilobytes += int(line.split()[1])
    return kilobytes * 1024


# --- what is measured -------------------------------------------------------------------


def bench_starts(count: int) -> Iterator[Figure]:
    """How late the script of one action begins, the host doing nothing else."""
    with daemon_installation() as daemon:
        stamps = with_stamp(daemon)
        first = datetime.now(UTC) + timedelta(seconds=FIRST_START_SECONDS)
        first = first.replace(microsecond=first.microsecond // 1000 * 1000)
        due = {
            f"start-{n}": first + timedelta(milliseconds=round(1000 * SPREAD_SECONDS) * n)
            for n in range(count)
        }
        daemon.send([entry(each, 0, 3600, fromDate=at.isoformat()) for each, at in due.items()])
        daemon.start()
        seconds = FIRST_START_SECONDS + SPREAD_SECONDS * count + 10
        wait_for(lambda: len(stamped(stamps)) == count, seconds=seconds, what="all starts")
        late = [
            at_ns / 1e6 - due[each].timestamp() * 1e3 for each, at_ns in stamped(stamps).items()
        ]
    yield Figure(f"start lateness, median of {count}", statistics.median(late), "ms", 20)
    yield Figure(f"start lateness, max of {count}", max(late), "ms", 50)


def bench_at_once(count: int) -> Iterator[Figure]:
    """An action that is due when it arrives: from the backend's change to its script."""
    took = []
    with daemon_installation() as daemon:
        stamps = with_stamp(daemon)
        daemon.start()
        sent = []
        for n in range(count):
            sent.append(entry(f"now-{n}", 0, 3600))
            begun_ns = time.time_ns()
            daemon.send(sent)
            daemon.json("sync")
            wait_for(lambda each=f"now-{n}": each in stamped(stamps), what="a start at once")
            took.append((stamped(stamps)[f"now-{n}"] - begun_ns) / 1e6)
        own = statistics.median(wall_seconds(daemon, "ping") for _ in range(5)) * 1e3
    yield Figure(
        f"due on arrival: change, sync, script; median of {count}", statistics.median(took), "ms"
    )
    yield Figure("  of that geosched-ctl itself (a ping)", own, "ms")


def bench_many(count: int, idle_seconds: float) -> Iterator[Figure]:
    """Actions that wait for a day far off."""
    with daemon_installation() as daemon:
        with_stamp(daemon)
        daemon.start()
        daemon.json("sync")
        before = cpu_seconds(daemon)
        daemon.send([entry(f"waits-{n:05}", 86_400 + n, 90_000 + n) for n in range(count)])
        told = daemon.json("sync")
        wait_for(lambda: daemon.json("status")["counts"]["NULL"] == count, seconds=30)
        assert told["added"] == count, told
        used = cpu_seconds(daemon) - before
        yield Figure(f"CPU to pull, store and schedule {count} actions", used, "s", 1)
        yield from bench_unchanged(daemon, count)
        walls = [wall_seconds(daemon, "status") for _ in range(5)]
        yield Figure(f"geosched-ctl status, {count} waiting", statistics.median(walls), "s", 0.5)
        yield Figure(f"idle CPU, {count} waiting", idle_percent(daemon, idle_seconds), "%", 1)
        yield Figure(f"memory (PSS), {count} waiting", pss_bytes(daemon) / MEGABYTE, "MB", 70)


def bench_unchanged(daemon: Daemon, count: int) -> Iterator[Figure]:
    data = daemon.root / "state" / "daemondb" / "data.mdb"
    daemon.json("sync")  # what was still to be written is
    written, used = data.stat().st_mtime_ns, cpu_seconds(daemon)
    pulls = 5
    for _ in range(pulls):
        assert daemon.json("sync")["unchanged"] in (0, count)
    used = (cpu_seconds(daemon) - used) / pulls
    changed = data.stat().st_mtime_ns != written
    yield Figure(f"unchanged pulls that wrote to daemonDB, of {pulls}", float(changed), "", 0)
    yield Figure(f"CPU of an unchanged pull of {count} actions", used, "s")


def bench_queued(count: int, idle_seconds: float) -> Iterator[Figure]:
    """Actions that are due, all but one behind `max_running = 1`."""
    with daemon_installation() as daemon:
        sleeper = {"default": {"command": ["/bin/sleep", "3600"], "stop_grace": "1s"}}
        daemon.configure(scripts=sleeper, max_running=1, backend={"poll_interval": "60s"})
        daemon.start()
        daemon.send([entry(f"queued-{n:05}", -60, 3600) for n in range(count)])
        daemon.json("sync")
        wait_for(lambda: daemon.json("status")["queued"] == count - 1, seconds=60)
        yield Figure(f"idle CPU, {count} queued", idle_percent(daemon, idle_seconds), "%", 1)
        yield Figure(f"memory (PSS), {count} queued", pss_bytes(daemon) / MEGABYTE, "MB", 70)


# --- helpers ----------------------------------------------------------------------------


def with_stamp(daemon: Daemon) -> Path:
    """Configure the stamp as the script; the directory it writes to."""
    stamps = daemon.root / "stamps"
    stamps.mkdir()
    program = daemon.root / "stamp"
    compiled = subprocess.run(
        ["cc", "-O2", "-x", "c", "-", "-o", program], input=STAMP.encode(), check=False
    )
    if compiled.returncode != 0:
        raise SystemExit("cannot compile the action script of the benchmark")
    daemon.configure(
        scripts={"default": {"command": [str(program), str(stamps)]}},
        backend={"poll_interval": "60s"},
    )
    return stamps


def stamped(stamps: Path) -> dict[str, int]:
    """When each action's script began, in nanoseconds since 1970."""
    return {path.name: int(path.read_text()) for path in stamps.iterdir() if path.suffix != ".new"}


def wall_seconds(daemon: Daemon, verb: str) -> float:
    begun = time.monotonic()
    daemon.json(verb)
    return time.monotonic() - begun


def idle_percent(daemon: Daemon, seconds: float) -> float:
    """Of one core, over so long a time, which is the figure itself and no wait for anything."""
    time.sleep(2)
    used, begun = cpu_seconds(daemon), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu_seconds(daemon) - used) / (time.monotonic() - begun)


def machine() -> dict[str, str | int | None]:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "Model"))
    ]
    return {
        "machine": platform.node(),
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--actions", type=int, default=10_000, help="how many wait or queue")
    parser.add_argument("--starts", type=int, default=30, help="how many starts are timed")
    parser.add_argument("--idle-seconds", type=float, default=20.0)
    chosen = parser.parse_args()
    if shutil.which("cc") is None:
        raise SystemExit("cannot measure: there is no C compiler (cc)")

    host = machine()
    print(", ".join(f"{key} {value}" for key, value in host.items()), flush=True)
    print(f"\n{'figure':<58} {'value':>9} {'':<5} {'goal':>9}")
    figures: list[Figure] = []
    for bench in (
        bench_starts(chosen.starts),
        bench_at_once(min(10, chosen.starts)),
        bench_many(chosen.actions, chosen.idle_seconds),
        bench_queued(chosen.actions, chosen.idle_seconds),
    ):
        for figure in bench:
            figures.append(figure)
            print(figure, flush=True)
    if chosen.json is not None:
        rows = [asdict(figure) | {"met": figure.met} for figure in figures]
        document = {"schemaVersion": 1, "host": host, "figures": rows}
        chosen.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
