"""What a daemon costs, read from outside in `/proc`; and the script that tells the time."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from support.daemon import Daemon

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
MEGABYTE = 1_000_000
#: Longer than the daemon keeps a synchroniser that has nothing to do.
REST_SECONDS = 12.0
RESTS_MAX = 5
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
    return [(name, int(at)) for at, _, name in (line.split() for line in whole.splitlines())]


def end_stamps(file: Path) -> None:
    """All that still live, at once."""
    for line in file.read_text().splitlines() if file.exists() else []:
        pid = int(line.split()[1])
        if executable(pid) == str(file.parent / "stamp"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


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
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        exact = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    except (OSError, IndexError):  # it has just ended, or the kernel has no such file
        return ticks
    return max(exact / 1e9, ticks)


def pss_bytes(daemon: Daemon) -> int:
    """Memory in use, shared pages counted by their share."""
    kilobytes = 0
    for pid in processes(daemon):
        with suppress(OSError):  # it has just ended
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes * 1024


def merging() -> str:
    """Whether the kernel merges pages that are alike, which changes every figure of memory."""
    try:
        return "on" if Path("/sys/kernel/mm/ksm/run").read_text().strip() == "1" else "off"
    except OSError:
        return "not there"


@dataclass(frozen=True)
class Spent:
    """By one thread so far."""

    cpu_ns: int
    wakes: int  # how often it went to sleep by itself, and so was woken


def _spent(daemon: Daemon) -> dict[str, Spent]:
    found = {}
    for pid in processes(daemon):
        for task in Path(f"/proc/{pid}/task").glob("*"):
            with suppress(OSError):
                cpu = int((task / "schedstat").read_text().split()[0])
                lines = (task / "status").read_text().splitlines()
                line = next(line for line in lines if line.startswith("voluntary_ctxt"))
                found[str(task)] = Spent(cpu, int(line.split()[1]))
    return found


# --- over time --------------------------------------------------------------------------


@dataclass(frozen=True)
class Idle:
    cpu_percent: float  # of one core
    wakes_per_second: float


def pss_bytes_at_rest(daemon: Daemon, seconds: float = REST_SECONDS) -> int:
    """Memory in use between pulls: none begins while it is looked at."""
    for _ in range(RESTS_MAX):
        known = rest(daemon, seconds)
        used = pss_bytes(daemon)
        if set(processes(daemon)) == known:
            return used
    raise RuntimeError(f"processes came or went after each of {RESTS_MAX} rests")


def rest(daemon: Daemon, seconds: float = REST_SECONDS) -> set[int]:
    """Until no process came or went for so long: a synchroniser, for one, outlasts its pull.
    The pids of those that are there."""
    limit = time.monotonic() + 4 * seconds
    known, since = set(processes(daemon)), time.monotonic()
    while time.monotonic() < min(since + seconds, limit):
        time.sleep(0.5)
        if (now := set(processes(daemon))) != known:
            known, since = now, time.monotonic()
    return known


def idle(daemon: Daemon, seconds: float) -> Idle:
    """Over so long a time, which is the figure itself and no wait for anything. Looked at
    every second, because a process that ends takes its counts with it."""
    begun, cpu_ns, woken, before = time.monotonic(), 0, 0, _spent(daemon)
    while (now := time.monotonic()) < begun + seconds:
        time.sleep(min(1, begun + seconds - now))
        after = _spent(daemon)
        for task, spent in after.items():
            was = before.get(task, Spent(0, 0))
            cpu_ns += spent.cpu_ns - was.cpu_ns
            woken += spent.wakes - was.wakes
        before = after
    lasted = time.monotonic() - begun
    return Idle(cpu_ns / 1e7 / lasted, woken / lasted)


def kill_all(daemon: Daemon) -> None:
    """The supervisor and its children, before hundreds of them begin to end by themselves."""
    for pid in processes(daemon):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wall_seconds(daemon: Daemon, verb: str) -> float:
    begun = time.monotonic()
    daemon.json(verb)
    return time.monotonic() - begun
