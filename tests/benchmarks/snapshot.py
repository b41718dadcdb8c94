"""What a large snapshot costs: new, unchanged, and beside another scheduler's store."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import Figure, Line, Remark
from measuring import MEGABYTE, cpu_seconds
from peers import APSCHEDULER, PLACE, PYTHON, PeerError, install
from support.backend import BackendServer
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for

FULL, QUICK = (100_000, 60.0), (10_000, 6.0)
PULL_SECONDS = 120.0
UNCHANGED_PULLS = 3


@dataclass
class Pulling:
    """A daemon, and its backend over HTTP on loopback, in this process: what it costs to
    answer is not counted."""

    daemon: Daemon
    backend: BackendServer
    settings: dict[str, Any]

    def pull_every(self, interval: str) -> None:
        if self.daemon.process is not None:
            self.daemon.terminate()
        backend = {
            "kind": "http",
            "url": self.backend.url,
            "max_body": "64MiB",
            "max_actions": 200_000,
            "poll_interval": interval,
        }
        script = {"default": {"command": ["/bin/true"]}}
        self.daemon.configure(scripts=script, backend=backend, **self.settings)
        self.daemon.start()
        self.sync()

    def sync(self) -> None:
        done = self.daemon.ctl("sync", "--timeout", str(PULL_SECONDS), timeout=PULL_SECONDS + 10)
        assert done.returncode == 0, done.stderr

    def wait_stored(self, count: int) -> None:
        wait_for(
            lambda: self.daemon.json("status")["counts"]["NULL"] == count,
            seconds=PULL_SECONDS,
            what=f"{count} actions stored",
        )


@contextmanager
def pulling(state_dir: str = "state") -> Iterator[Pulling]:
    with daemon_installation() as daemon, BackendServer() as backend:
        found = Pulling(daemon, backend, {"map_size": "256MiB", "state_dir": state_dir})
        found.pull_every("1h")
        yield found


@contextmanager
def pulled(actions: list[dict[str, Any]]) -> Iterator[Pulling]:
    """With these stored."""
    with pulling() as found:
        found.backend.body = json.dumps(actions).encode()
        found.sync()
        found.wait_stored(len(actions))
        yield found


def waiting_actions(count: int) -> list[dict[str, Any]]:
    return [entry(f"6f1c{n:08}-action", 86_400 + n, 90_000 + n) for n in range(count)]


# --- the figures ------------------------------------------------------------------------


def bench(quick: bool) -> Iterator[Line]:
    count, seconds = QUICK if quick else FULL
    with ExitStack() as stack:
        place, why_not = _place(stack)
        if why_not:
            yield Remark(f"bytes written not measured: {why_not}")
        ours, ours_bytes = yield from _ours(count, place, quick)
    with ExitStack() as stack:
        place, _ = _place(stack)
        yield from _theirs(count, seconds, place, ours, ours_bytes)


@dataclass(frozen=True)
class _Place:
    """A directory; on a device of its own, what is written to it can be counted."""

    path: Path
    device: Any = None

    def written(self) -> int:
        return 0 if self.device is None else int(self.device.settled().bytes)


def _place(stack: ExitStack) -> tuple[_Place, str]:
    """And why nothing can be counted there, if so."""
    import bench_flash

    why_not = "" if os.geteuid() == 0 else "this is not root"
    absent = [tool for tool in bench_flash.TOOLS if shutil.which(tool) is None]
    if not why_not and not absent:
        try:
            device = stack.enter_context(bench_flash.device())
            return _Place(device.place, device), ""
        except (OSError, subprocess.CalledProcessError) as error:
            why_not = f"no file system can be made on a loop device ({error})"
    elif absent:
        why_not = f"this machine has no {absent[0]}"
    path = stack.enter_context(tempfile.TemporaryDirectory(prefix="gs-bench-", dir="/tmp"))
    return _Place(Path(path)), why_not


def _ours(count: int, place: _Place, quick: bool) -> Generator[Line, None, tuple[float, int]]:
    with pulling(str(place.path / "state")) as found:
        body = json.dumps(waiting_actions(count)).encode()
        yield Remark(f"the snapshot of {count} has {len(body) / MEGABYTE:.1f} MB of JSON")
        found.backend.body = body
        cpu, written = cpu_seconds(found.daemon), place.written()
        begun = time.monotonic()
        found.sync()
        found.wait_stored(count)
        wall = time.monotonic() - begun
        cpu, written = cpu_seconds(found.daemon) - cpu, place.written() - written
        goal = None if quick else 2
        yield Figure(f"{count} new: CPU of all processes, pull to scheduled", cpu, "s", goal)
        yield Figure(f"{count} new: wall clock", wall, "s")
        if place.device is not None:
            yield Figure(f"{count} new: written to the disk", written / MEGABYTE, "MB")
        for etags, how in ((False, "sent again whole"), (True, "304")):
            found.backend.etags = etags
            found.sync()  # the first may still write down another ETag
            yield from _unchanged(found, place, f"{count} unchanged, {how}")
    return cpu, written


def _unchanged(found: Pulling, place: _Place, what: str) -> Iterator[Line]:
    data = Path(place.path, "state", "daemondb", "data.mdb")
    cpu, written, changed = cpu_seconds(found.daemon), place.written(), data.stat().st_mtime_ns
    for _ in range(UNCHANGED_PULLS):
        found.sync()
    cpu = (cpu_seconds(found.daemon) - cpu) / UNCHANGED_PULLS
    yield Figure(f"{what}: CPU of all processes, one pull", cpu, "s")
    if place.device is None:
        changed = int(data.stat().st_mtime_ns != changed)
        yield Figure(f"{what}: pulls that wrote to daemonDB", changed, "", 0)
    else:
        each = (place.written() - written) / UNCHANGED_PULLS
        yield Figure(f"{what}: written to the disk, one pull", each / 1000, "kB")


def _theirs(
    count: int, seconds: float, place: _Place, ours: float, ours_bytes: int
) -> Iterator[Line]:
    name = "APScheduler's SQLite store"
    try:
        install(APSCHEDULER)
    except PeerError as error:
        yield Remark(f"{name}: {error}")
        return
    before = place.written()
    command = [PYTHON, PLACE / "sqlite_store.py", place.path / "jobs.sqlite", count, seconds]
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, timeout=seconds + 60, check=True
    )
    told = json.loads(done.stdout)
    scale = count / told["added"]
    cpu = told["cpu"] * scale
    yield Figure(f"{count} into {name}: CPU", cpu, "s")
    yield Figure(f"{count} into {name}: wall clock", told["wall"] * scale, "s")
    if place.device is not None:
        written = (place.written() - before) * scale
        yield Figure(f"{count} into {name}: written to the disk", written / MEGABYTE, "MB")
        yield Figure(f"{count} new: bytes written / {name}", ours_bytes / written, "x")
    yield Figure(f"{count} new: CPU / {name}", ours / cpu, "x", 0.1)
    yield Remark(
        f"{name}: {told['added']} were added in {told['wall']:.0f} s, and scaled to {count}; "
        "journal WAL, synchronous FULL, one commit a job, for it has no other way; it has no "
        "backend, so no HTTP and no JSON is in its figure, as it is in ours"
    )
