"""What a daemon costs, read from outside in `/proc`; and the script that tells the time."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from support.daemon import Daemon

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
MEGABYTE = 1_000_000
SOURCE = Path(__file__).parent / "stamp.c"


# --- the script -------------------------------------------------------------------------


def build_stamp(directory: Path) -> Path:
    """Linked statically where that can be done: then nothing comes before its `main`."""
    program = directory / "stamp"
    for linking in (["-static"], []):
        command = ["cc", "-O2", *linking, "-o", str(program), str(SOURCE)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return program
    raise SystemExit("cannot compile the action script of the benchmark")


def read_stamps(file: Path) -> list[tuple[str, int]]:
    """Names, and when each one's script began, in nanoseconds since 1970."""
    if not file.exists():
        return []
    whole = file.read_text().rpartition("\n")[0]
    return [(name, int(at)) for at, name in (line.split() for line in whole.splitlines())]


# --- processes --------------------------------------------------------------------------


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
    seconds = 0.0
    for pid in processes(daemon):
        own, reaped = _own_cpu_seconds(pid), stat_fields(pid)[13:15]
        seconds += own + sum(int(field) for field in reaped) / TICKS_PER_SECOND
    return seconds


def _own_cpu_seconds(pid: int) -> float:
    """To the nanosecond where the kernel counts so; else in ticks. Ended threads of a
    process that lives are in its ticks only, so the larger of both is the truth."""
    ticks = sum(int(field) for field in stat_fields(pid)[11:13]) / TICKS_PER_SECOND
    exact = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            exact += int((task / "schedstat").read_text().split()[0])
        except (OSError, IndexError):
            return ticks
    return max(exact / 1e9, ticks)


def pss_bytes(daemon: Daemon) -> int:
    """Memory in use, shared pages counted by their share."""
    kilobytes = 0
    for pid in processes(daemon):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kilobytes += int(line.split()[1])
    return kilobytes * 1024


def wakes(daemon: Daemon) -> int:
    """How often a thread of any of them went to sleep by itself, and so was woken."""
    return sum(
        int(line.split()[1])
        for pid in processes(daemon)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )


# --- over time --------------------------------------------------------------------------


@dataclass(frozen=True)
class Idle:
    cpu_percent: float  # of one core
    wakes_per_second: float


def idle(daemon: Daemon, seconds: float) -> Idle:
    """Over so long a time, which is the figure itself and no wait for anything."""
    time.sleep(2)
    used, woken, begun = cpu_seconds(daemon), wakes(daemon), time.monotonic()
    time.sleep(seconds)
    lasted = time.monotonic() - begun
    used, woken = cpu_seconds(daemon) - used, wakes(daemon) - woken
    return Idle(100 * used / lasted, woken / lasted)


def wall_seconds(daemon: Daemon, verb: str) -> float:
    begun = time.monotonic()
    daemon.json(verb)
    return time.monotonic() - begun
