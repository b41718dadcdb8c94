"""Crowds: many actions due at once, how late they begin, and whether their statuses are true.

A status is held against what really happened: `begunAt`, and the time of the first instruction
of a program that tells it. How late a crowd is depends on the machine; that no status is
false does not, with all of it or with a quarter of a core.
"""

import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from figures import Figure, Line, Remark
from lateness import p99
from measuring import build_stamp, read_stamps
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for

#: From the sending until the first instant: the crowd has to be known by then.
KNOWN_SECONDS = 12.0
KNOWN_SECONDS_EACH = 0.004
LATE_SECONDS_MAX = 240.0
#: Short actions: so many at each instant, one crowd so long after the other.
WAVE = 500
WAVE_SECONDS = 6.0
WINDOW_SECONDS = 2.0
QUOTA = 0.25
QUOTA_PERIOD_US = 100_000
CGROUPS = Path("/sys/fs/cgroup")


def bench(quick: bool) -> Iterator[Line]:
    for count in (100, 500) if quick else (500, 2000, 5000):
        yield from _due_at_once(count)
    short = 1000 if quick else 10_000
    yield from _short_actions(short, None)
    yield from _short_actions(short, QUOTA)


def _due_at_once(count: int) -> Iterator[Line]:
    """Scripts that end at once, in windows that are long enough for all of them."""
    with _daemon(life_seconds=0) as (daemon, stamps):
        first = KNOWN_SECONDS + count * KNOWN_SECONDS_EACH
        due = time.time() + first
        daemon.send([entry(f"due-{n:05}", first, first + 900) for n in range(count)])
        _wait_until_known(daemon, count)
        settled = wait_for(
            lambda: daemon.json("status")["counts"]["FINISHED"] == count and time.time(),
            seconds=first + LATE_SECONDS_MAX,
            pause_seconds=0.1,
        )
        late = [at / 1e9 - due for _, at in read_stamps(stamps)]
    assert len(late) == count
    yield Figure(f"late, {count} due at once, median", statistics.median(late) * 1e3, "ms")
    yield Figure(f"late, {count} due at once, p99", p99([one * 1e3 for one in late]), "ms")
    yield Figure(f"late, {count} due at once, the last", max(late) * 1e3, "ms")
    yield Figure(f"{count} due at once, until all are settled", settled - due, "s")


def _short_actions(count: int, quota: float | None) -> Iterator[Line]:
    """Crowd after crowd, of more than the host begins within their windows."""
    where = "two cores" if quota is None else f"{quota:g} of a core"
    with _daemon(life_seconds=600) as (daemon, stamps), _slowed(daemon, quota) as slowed:
        if quota is not None and not slowed:
            yield Remark("statuses on a slow host: no cpu controller can be had here")
            return
        actions = []
        for n in range(count):
            begins = KNOWN_SECONDS + count * KNOWN_SECONDS_EACH + n // WAVE * WAVE_SECONDS
            actions.append(entry(f"short-{n:05}", begins, begins + WINDOW_SECONDS))
        daemon.send(actions)
        _wait_until_known(daemon, count)
        seconds = begins + LATE_SECONDS_MAX
        wait_for(lambda: _open(daemon) == 0, seconds=seconds, pause_seconds=1.0)
        began = {name: at / 1e9 for name, at in read_stamps(stamps)}
        shown = json.loads(daemon.ctl("-o", "json", "--timeout", "60", "list", timeout=70).stdout)[
            "actions"
        ]
    statuses = Counter(one["executionStatus"] for one in shown)
    false = [one for one in shown if _is_false(one, began.get(one["id"]))]
    yield Figure(f"false statuses of {count} short actions, {where}", len(false), "", 0)
    yield Remark(f"{where}: {len(began)} began; {dict(statuses)}")


def _is_false(action: dict[str, Any], stamped: float | None) -> bool:
    ends = datetime.fromisoformat(action["toDate"]).timestamp()
    begun_at = (action["run"] or {}).get("begunAt")
    told = begun_at is not None and datetime.fromisoformat(begun_at).timestamp() < ends
    ran = stamped is not None and stamped < ends
    match action["executionStatus"]:
        case "FINISHED":
            return not (ran or told)
        case "WONT_START" | "WONT_FINISH":
            return ran
        case _:
            return True


@contextmanager
def _daemon(life_seconds: int) -> Iterator[tuple[Daemon, Path]]:
    with daemon_installation() as daemon:
        stamps = daemon.root / "stamps"
        command = [str(build_stamp(daemon.root)), str(stamps), str(life_seconds), "{id}"]
        daemon.configure(
            scripts={"default": {"command": command, "stop_grace": "1s"}},
            backend={"poll_interval": "1h", "max_actions": 20_000, "timeout": "60s"},
            max_running=10_000,
        )
        daemon.start()
        yield daemon, stamps


def _wait_until_known(daemon: Daemon, count: int) -> None:
    daemon.ctl("--timeout", "60", "sync", timeout=130)
    wait_for(lambda: daemon.json("status")["counts"]["NULL"] == count, seconds=120)


def _open(daemon: Daemon) -> int:
    done = daemon.ctl("-o", "json", "--timeout", "30", "status")
    if done.returncode != 0:
        return -1  # it is slow
    counts = json.loads(done.stdout)["counts"]
    return int(counts["NULL"] + counts["STARTED"])


@contextmanager
def _slowed(daemon: Daemon, quota: float | None) -> Iterator[bool]:
    """Give the daemon and its children so much of a core; false where that cannot be done."""
    assert daemon.process is not None
    group = _cpu_group(quota) if quota is not None else None
    if group is None:
        yield False
        return
    try:
        for pid in _family(daemon.process.pid):
            (group / "cgroup.procs").write_text(str(pid))
        yield True
    finally:
        daemon.kill()
        wait_for(lambda: not (group / "cgroup.procs").read_text(), seconds=60)
        group.rmdir()


def _cpu_group(quota: float) -> Path | None:
    """Make a cgroup of either version with this quota."""
    version_1 = CGROUPS / "cpu"
    parent = version_1 if version_1.is_dir() else CGROUPS
    group = parent / f"geosched-bench-{time.monotonic_ns()}"
    share = round(quota * QUOTA_PERIOD_US)
    try:
        group.mkdir()
        if parent is version_1:
            (group / "cpu.cfs_period_us").write_text(str(QUOTA_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(share))
        else:
            (group / "cpu.max").write_text(f"{share} {QUOTA_PERIOD_US}")
    except OSError:
        if group.is_dir():
            group.rmdir()
        return None
    return group


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    below = children.read_text().split() if children.exists() else []
    return [pid, *(one for child in below for one in _family(int(child)))]
