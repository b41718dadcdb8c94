"""Power cuts of a file system under a working daemon, and what must be true after each.

State, logs, the backend's file and the journal of the scripts are on it. A cut of ext4 and xfs is
their own shutdown, which leaves what the kernel still holds; of btrfs, which has none, a copy of
the device at that moment. Then the file system is checked and mounted, and a daemon starts on what
is left.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.wait import wait_for

from . import trees
from .commands import ask, need
from .commands import run as call
from .host import instant
from .report import Trial

CUTS = 20
DISK_BYTES = 400 * 2**20
START_SECONDS_MAX = 60
#: FS_IOC_SHUTDOWN of ext4 and xfs, and of its flags the one that writes no journal out first.
_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
_CLONE_NEWNS = 0x00020000
_MS_REC_PRIVATE = 0x44000
KINDS = {
    "ext4": ("e2fsck", "-fn"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly"),
}
#: A script notes its begin and its end on the disk whose power is cut, and waits until they are.
SCRIPT = """#!/bin/sh
say() {{ echo "$1 $GEOSCHED_ACTION_ID $GEOSCHED_ATTEMPT" >>{journal}; sync {journal}; }}
say begin
trap 'say end; exit 0' TERM
case $GEOSCHED_ACTION_ID in
    quick*) sleep 0.2; say end; exit 0 ;;
    fail*) say end; exit 7 ;;
esac
while :; do sleep 0.1; done
"""
SETTINGS = """[daemon]
state_dir = "{disk}/state"
runtime_dir = "{run}"
log_dir = "{disk}/log"
map_size = "16MiB"
max_running = 100
[backend]
kind = "file"
path = "{disk}/actions.json"
poll_interval = "300ms"
[scripts.default]
command = ["{disk}/script"]
stop_grace = "2s"
"""
OPEN = ("NULL", "STARTED", None)


@dataclass
class Stage:
    """A disk in a file, and what somebody outside of it knows."""

    kind: str
    place: Path
    random: random.Random
    number: int = 0
    entries: list[dict[str, object]] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)

    @property
    def image(self) -> Path:
        return self.place / "disk"

    @property
    def disk(self) -> Path:
        return self.place / "mounted"

    @property
    def run(self) -> Path:
        return self.place / "run"

    @property
    def config(self) -> Path:
        return self.disk / "geosched.toml"

    def ctl(self, *words: str) -> dict[str, Any] | None:
        """None where there is no answer."""
        geosched_ctl = Path(sys.executable).with_name("geosched-ctl")
        options = ("--config", self.config, "--timeout", "20", "-o", "json")
        done = ask(geosched_ctl, *options, *words)
        answer: dict[str, Any] | None = json.loads(done.stdout) if done.returncode == 0 else None
        return answer

    def actions(self) -> dict[str, dict[str, Any]]:
        answer = self.ctl("list", "--limit", "10000")
        assert answer is not None, "no answer to list"
        return {row["id"]: row for row in answer["actions"]}


def run(trial: Trial, kind: str) -> None:
    """Raises `UntriedError`."""
    need(f"mkfs.{kind}", KINDS[kind][0], "unshare", "mount")
    _isolate_mounts()
    place = trees.PLACE / f"powercut-{kind}"
    shutil.rmtree(place, ignore_errors=True)
    stage = Stage(kind, place, random.Random(1))
    stage.disk.mkdir(parents=True)
    _make_disk(stage)
    trial.versions.append(call("uname", "-r").strip().split("-")[0])
    ready: list[float] = []
    try:
        for cut in range(CUTS + 1):
            with trial.step(f"cut {cut}" if cut else "before the first cut"), _daemon(stage, ready):
                _compare(stage)
                if cut < CUTS:
                    _work(stage)
                    _cut(stage)
            if cut < CUTS:
                with trial.step(f"the file system after cut {cut + 1}"):
                    _power_on(stage)
    finally:
        ask("umount", "--lazy", stage.disk)
        shutil.rmtree(place)
    trial.notes += [
        f"{stage.number} actions, {len(stage.ended)} seen to end before a cut",
        f"ready after {min(ready):.2f} to {max(ready):.2f} s",
    ]


def _isolate_mounts() -> None:
    """Have a mount namespace of our own from here on: nothing that is mounted outlives us."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, _MS_REC_PRIVATE, None):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot make a mount namespace: {os.strerror(number)}")


def _make_disk(stage: Stage) -> None:
    with stage.image.open("wb") as file:
        file.truncate(DISK_BYTES)
    call(f"mkfs.{stage.kind}", "-q", stage.image)
    call("mount", "-o", "loop", stage.image, stage.disk)
    script = stage.disk / "script"
    script.write_text(SCRIPT.format(journal=stage.disk / "journal"))
    script.chmod(0o755)
    stage.config.write_text(SETTINGS.format(disk=stage.disk, run=stage.run))
    _send(stage)
    call("sync", "-f", stage.disk)


@contextlib.contextmanager
def _daemon(stage: Stage, ready: list[float]) -> Iterator[None]:
    """A daemon in a PID namespace of its own, so that a cut leaves nobody."""
    shutil.rmtree(stage.run, ignore_errors=True)
    stage.run.mkdir(mode=0o750)
    command = Path(sys.executable).with_name("geoschedd")
    namespace = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    log = stage.place / "stderr"
    began_monotonic = time.monotonic()
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*namespace, command, "--config", stage.config],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )

    def answers() -> bool:
        assert process.poll() is None, f"it left: {log.read_text(errors='replace')[-800:]}"
        return stage.ctl("status") is not None

    try:
        wait_for(answers, seconds=START_SECONDS_MAX, what="an answer", pause_seconds=0.05)
        ready.append(time.monotonic() - began_monotonic)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def _work(stage: Stage) -> None:
    until_monotonic = time.monotonic() + stage.random.uniform(2.5, 6)
    while time.monotonic() < until_monotonic:
        for _ in range(stage.random.randint(1, 4)):
            stage.number += 1
            name = stage.random.choice(("quick", "quick", "fail", "long", "long", "long"))
            stage.entries.append(_entry(stage, f"{name}{stage.number}"))
        del stage.entries[:-60]
        _send(stage)
        for id_, row in stage.actions().items():
            if row["executionStatus"] not in OPEN:
                stage.ended[id_] = row["executionStatus"]
        time.sleep(stage.random.uniform(0, 0.3))


def _entry(stage: Stage, name: str) -> dict[str, object]:
    return {
        "id": name,
        "fromDate": instant(stage.random.randint(-1, 2)),
        "toDate": instant(stage.random.randint(3, 8)),
        "shouldBeExecuted": True,
        "appNames": ["x"],
    }


def _send(stage: Stage) -> None:
    new = stage.disk / "actions.new"
    with new.open("w") as file:
        json.dump(stage.entries, file)
        file.flush()
        os.fsync(file.fileno())
    new.rename(stage.disk / "actions.json")


def _cut(stage: Stage) -> None:
    if stage.kind == "btrfs":
        call("cp", "--sparse=always", stage.image, f"{stage.image}.cut")
        return
    descriptor = os.open(stage.disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
    finally:
        os.close(descriptor)


def _power_on(stage: Stage) -> None:
    """Mount what is left once, so that its journal is used, then check it, then mount it."""

    def unmounted() -> bool:
        return ask("umount", stage.disk).returncode == 0

    wait_for(unmounted, seconds=20, what="nobody to have a file open", pause_seconds=0.1)
    _wait_until_let_go(stage)
    if stage.kind == "btrfs":
        Path(f"{stage.image}.cut").rename(stage.image)
    call("mount", "-o", "loop", stage.image, stage.disk)
    call("umount", stage.disk)
    _wait_until_let_go(stage)
    try:
        call(*KINDS[stage.kind], stage.image, seconds=120)
    finally:
        call("mount", "-o", "loop", stage.image, stage.disk)


def _wait_until_let_go(stage: Stage) -> None:
    """A mount of the same device, before it is let go of, would find the dead file system: the
    mount namespace of the daemon that was killed has it a moment longer."""

    def attached() -> bool:
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                if backing.read_text().strip() == str(stage.image):
                    return True
            except OSError:
                continue  # it was let go of meanwhile
        return False

    wait_for(lambda: not attached(), seconds=30, what="the device to be let go of")


def _compare(stage: Stage) -> None:
    """What was seen before the cut is so; no attempt began twice; no script is unknown."""
    status = stage.ctl("status")
    assert status is not None
    assert status["store"]["state"] == "ok", status["store"]
    rows = stage.actions()
    changed = {
        id_: (was, rows.get(id_, {}).get("executionStatus"))
        for id_, was in stage.ended.items()
        if rows.get(id_, {}).get("executionStatus") != was
    }
    assert not changed, f"seen before the cut, and otherwise after it: {changed}"
    journal = stage.disk / "journal"
    text = journal.read_text(errors="replace") if journal.exists() else ""
    lines = [tuple(line.split()) for line in text.splitlines()]
    begun = [line[1:] for line in lines if line[:1] == ("begin",) and len(line) == 3]
    assert len(begun) == len(set(begun)), "an attempt began twice"
    ended = {line[1] for line in lines if line[:1] == ("end",) and len(line) == 3}
    for id_, attempt in begun:
        assert id_ in rows, f"the script of {id_} ran, and the daemon does not know it"
        assert rows[id_]["attempt"] >= int(attempt), f"{id_} ran {attempt} times: {rows[id_]}"
        assert rows[id_]["executionStatus"] != "WONT_START", f"{id_} ran: {rows[id_]}"
    for id_, row in rows.items():
        if row["executionStatus"] == "FINISHED":
            assert not id_.startswith("quick") or id_ in ended, f"{id_} did not end: {row}"
            over = row["reason"] == "window-over"
            assert over or not id_.startswith("fail"), f"{id_} left with 7: {row}"
