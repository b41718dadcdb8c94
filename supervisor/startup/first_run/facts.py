"""Facts about a host, gathered for `geosched-ctl doctor`; `diagnosis.py` judges them.

They are asked of the kernel with the rights of this process, and nothing is left behind.
"""

import contextlib
import os
import pwd
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ....ipc.instants import SECOND_US
from ....ipc.paths import Runtime
from ....workers.host import cgroups, linux
from ....workers.host.cgroups import Containment
from ....workers.host.mounts import Mount, mount_of
from ....workers.host.trust import ROOT
from ...config.descriptors import Descriptors, shortage
from ...config.sections import DaemonSettings
from ...host.clock import RELEASED_US, Readings
from ...store.files import FREE_BYTES_MIN, PREALLOCATING_FILE_SYSTEMS, StorePaths, free_bytes
from .. import storage_probe
from .diagnosis import CAPABILITIES, OUTPUT_BYTES_MIN, Cgroups, Clock, Limits, Place, Rights, Rtc

DIRECTORIES = ("state_dir", "runtime_dir", "log_dir")
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_CLOCKS = Path("/sys/class/rtc")
_ADJTIME = Path("/etc/adjtime")
_DEVICES = Path("/sys/dev/block")
#: File systems on flash without a controller between.
_RAW_FLASH = frozenset({"ubifs", "jffs2", "yaffs2"})


def rights_of(daemon: DaemonSettings) -> Rights:
    """Return the rights of this process, beside those of the daemon that has worked there."""
    root = os.geteuid() == ROOT
    status = Path("/proc/self/status").read_text()
    held = int(_field(status, "CapEff") or "0", 16)
    missing = tuple(name for name, (bit, _) in CAPABILITIES.items() if not held & 1 << bit)
    owner = _owner(daemon.state_dir)
    other = owner is not None and owner != os.geteuid()
    return Rights(
        _name_of(os.geteuid()),
        root,
        missing if root else (),
        _name_of(owner) if other and owner is not None else "",
    )


def _field(status: str, name: str) -> str:
    lines = (line.split(":", 1) for line in status.splitlines() if ":" in line)
    return next((text.strip() for key, text in lines if key == name), "")


def _owner(directory: Path) -> int | None:
    try:
        return directory.stat().st_uid
    except OSError:
        return None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def containment() -> Cgroups:
    """Return the containment that this process may have, by making a group and removing it."""
    tried = Containment.detect(f"doctor-{os.getpid()}")
    tried.remove()
    return Cgroups(tried.kind, cgroups.hierarchies(), os.geteuid() == ROOT)


def ptrace_refused() -> str:
    """Return the reason why a child cannot be traced, "" where it can: it is tried."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        linux.hold_at_exec(child)
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return ""


def yama_scope() -> int | None:
    """Return the kernel's `ptrace_scope`; None where it has no Yama."""
    with contextlib.suppress(OSError, ValueError):
        return int(_YAMA.read_text())
    return None


def clock_of(daemon: DaemonSettings, readings: Readings | None = None) -> Clock:
    readings = readings or Readings()
    return Clock(
        readings.wall_us(),
        RELEASED_US,
        readings.synchronised(),
        daemon.clock_must_sync,
        daemon.clock_wait_seconds,
    )


def rtc(clocks: Path = _CLOCKS, adjtime: Path = _ADJTIME) -> Rtc | None:
    """Return the hardware's clock, the one by which the kernel sets its own at boot where it has
    several; None where there is none."""
    try:
        names = sorted(entry.name for entry in clocks.iterdir())
    except OSError:
        return None
    if not names:
        return None
    name = next((name for name in names if _text(clocks / name / "hctosys") == "1"), names[0])
    seconds = _text(clocks / name / "since_epoch")
    rtc_us = int(seconds) * SECOND_US if seconds.isdecimal() else None
    return Rtc(name, rtc_us, "LOCAL" in _text(adjtime).splitlines())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def limits_of(daemon: DaemonSettings) -> Limits:
    open_files = linux.open_files_max(hard=True)
    return Limits(
        open_files,
        0 if shortage(open_files) else Descriptors.within(open_files).runs,
        daemon.max_running,
        daemon.map_size_bytes,
        storage_probe.no_address_space(daemon.map_size_bytes),
        _limit(resource.RLIMIT_FSIZE),
        None if os.geteuid() == ROOT else _limit(resource.RLIMIT_NPROC),
    )


def _limit(kind: int) -> int | None:
    soft = resource.getrlimit(kind)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the memory that can be had without swapping; None where the kernel does not tell."""
    words = _field(_text(meminfo), "MemAvailable").split()
    return int(words[0]) * 1024 if words and words[0].isdecimal() else None


def places_of(daemon: DaemonSettings) -> Iterator[Place]:
    """Yield the daemon's directories, or those in which they will be made; those that cannot be
    looked at are left out."""
    for key in DIRECTORIES:
        wanted: Path = getattr(daemon, key)
        there = next((each for each in (wanted, *wanted.parents) if os.path.isdir(each)), None)
        if there is None:
            continue
        with contextlib.suppress(OSError):
            yield _place(key, there, daemon)


def _place(key: str, path: Path, daemon: DaemonSettings) -> Place:
    mount = mount_of(path)
    kind = mount.kind if mount else ""
    counted = os.statvfs(path)
    return Place(
        key,
        str(path),
        kind,
        mount.options if mount else frozenset(),
        medium_of(mount) if mount else "",
        free_bytes(path),
        not counted.f_files or counted.f_favail > 0,
        _bytes_min(key, kind, daemon),
    )


def _bytes_min(key: str, kind: str, daemon: DaemonSettings) -> int:
    """Return what a directory needs room for: daemonDB, unless its file has its blocks already."""
    if key == "log_dir":
        return OUTPUT_BYTES_MIN
    made = (StorePaths(daemon.state_dir).store / "data.mdb").exists()
    if key == "runtime_dir" or (made and kind in PREALLOCATING_FILE_SYSTEMS):
        return FREE_BYTES_MIN
    return daemon.map_size_bytes


def medium_of(mount: Mount, devices: Path = _DEVICES) -> str:
    """Return what a file system is written to, as `Place` has it."""
    if mount.kind in _RAW_FLASH:
        return "raw flash"
    device = devices / mount.device
    if not device.exists():  # btrfs has a number of its own
        with contextlib.suppress(OSError):
            number = os.stat(mount.source).st_rdev
            device = devices / f"{os.major(number)}:{os.minor(number)}"
    try:
        disk = device.resolve(strict=True)
    except OSError:
        return ""
    if (disk / "partition").exists():
        disk = disk.parent
    if disk.name.startswith("mmcblk"):
        return "sd" if _text(disk / "device/type") == "SD" else "emmc"
    return {"0": "ssd", "1": "disk"}.get(_text(disk / "queue/rotational"), "")


def daemon_runs(runtime: Runtime) -> bool | None:
    """Whether a daemon listens on its control socket; None where this user may not know."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
            asking.connect(os.fsencode(runtime.control_socket))
    except BlockingIOError:
        return True  # its queue is full
    except PermissionError:
        return None
    except OSError:
        return False
    return True


def now_us() -> int:
    return time.time_ns() // 1000
