"""Facts about a host are read as the kernel shows them."""

import os
import resource
from pathlib import Path

import msgspec
import pytest
from geosched.ipc.instants import SECOND_US
from geosched.ipc.paths import Runtime
from geosched.supervisor.config.sections import DaemonSettings
from geosched.supervisor.host.clock import RELEASED_US, Readings
from geosched.supervisor.startup.first_run import facts
from geosched.supervisor.startup.first_run.diagnosis import Rtc
from geosched.workers.host.mounts import Mount

MOUNT = Mount("/", "ext4", "179:2", "/dev/root", frozenset())


def clocks(root: Path, **seconds: str) -> Path:
    for name, text in seconds.items():
        (root / name).mkdir(parents=True)
        (root / name / "since_epoch").write_text(f"{text}\n")
        (root / name / "hctosys").write_text("0\n")
    return root


def test_a_host_without_a_clock_of_the_hardware_has_none(tmp_path: Path) -> None:
    assert facts.rtc(tmp_path / "rtc") is None
    (tmp_path / "rtc").mkdir()
    assert facts.rtc(tmp_path / "rtc") is None


def test_the_clock_is_the_one_by_which_the_kernel_sets_its_own(tmp_path: Path) -> None:
    found = clocks(tmp_path / "rtc", rtc0="1", rtc1="946684800")
    assert facts.rtc(found, tmp_path / "none") == Rtc("rtc0", SECOND_US)
    (found / "rtc1/hctosys").write_text("1\n")
    assert facts.rtc(found, tmp_path / "none") == Rtc("rtc1", 946_684_800 * SECOND_US)


def test_a_clock_may_keep_local_time_or_not_be_readable(tmp_path: Path) -> None:
    adjtime = tmp_path / "adjtime"
    adjtime.write_text("0.0 0 0.0\n0\nLOCAL\n")
    found = facts.rtc(clocks(tmp_path / "rtc", rtc0="not now"), adjtime)
    assert found == Rtc("rtc0", None, local=True)


def test_the_wall_clock_is_that_of_the_readings() -> None:
    readings = msgspec.structs.replace(
        Readings(), wall_us=lambda: 946_684_800 * SECOND_US, synchronised=lambda: False
    )
    clock = facts.clock_of(DaemonSettings(clock_must_sync=True), readings)
    assert clock.wall_us == 946_684_800 * SECOND_US < clock.released_us == RELEASED_US
    assert clock.must_synchronise
    assert not clock.synchronised


def disk(root: Path, number: str, name: str, *, partition: bool = False, **files: str) -> Path:
    """A tree as /sys/dev/block; the last part of each path is a file with this text."""
    devices = root / "dev/block"
    devices.mkdir(parents=True, exist_ok=True)
    place = root / "block" / name
    place.mkdir(parents=True)
    for path, text in files.items():
        file = place / path.replace("__", "/")
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{text}\n")
    if partition:
        place = place / f"{name}p2"
        place.mkdir()
        (place / "partition").write_text("2\n")
    (devices / number).symlink_to(place)
    return devices


@pytest.mark.parametrize(
    ("name", "partition", "files", "medium"),
    [
        ("mmcblk0", True, {"device__type": "SD", "queue__rotational": "0"}, "sd"),
        ("mmcblk1", True, {"device__type": "MMC"}, "emmc"),
        ("sda", False, {"queue__rotational": "1"}, "disk"),
        ("vda", False, {"queue__rotational": "0"}, "ssd"),
        ("loop0", False, {}, ""),
    ],
)
def test_what_a_file_system_is_written_to_is_told_by_its_disk(
    tmp_path: Path, name: str, partition: bool, files: dict[str, str], medium: str
) -> None:
    devices = disk(tmp_path, "179:2", name, partition=partition, **files)
    assert facts.medium_of(MOUNT, devices) == medium


def test_raw_flash_and_no_device_at_all_are_told(tmp_path: Path) -> None:
    assert facts.medium_of(MOUNT._replace(kind="ubifs"), tmp_path) == "raw flash"
    assert facts.medium_of(MOUNT._replace(device="0:42", source="none"), tmp_path) == ""


def test_memory_is_what_can_be_had_without_swapping(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert facts.available_bytes(meminfo) is None
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:      42 kB\n")
    assert facts.available_bytes(meminfo) == 42 * 1024


def test_a_directory_that_is_missing_is_looked_at_where_it_will_be_made(tmp_path: Path) -> None:
    daemon = DaemonSettings(
        state_dir=tmp_path / "a/b/state", runtime_dir=tmp_path, log_dir=tmp_path / "log"
    )
    places = {place.key: place for place in facts.places_of(daemon)}
    assert {place.path for place in places.values()} == {str(tmp_path)}
    assert places["state_dir"].bytes_min == daemon.map_size_bytes
    assert places["runtime_dir"].bytes_min < places["log_dir"].bytes_min


def test_nobody_listens_where_there_is_no_daemon(tmp_path: Path) -> None:
    assert facts.daemon_runs(Runtime(tmp_path)) is False
    assert facts.daemon_runs(Runtime(tmp_path / ("x" * 120))) is False


def test_limits_are_those_of_this_process() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024**3, before[1]))
    try:
        found = facts.limits_of(DaemonSettings(map_size_bytes=1024**2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.file_bytes == 1024**3
    assert found.open_files >= resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_rights_name_the_user_of_the_daemon_where_that_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = DaemonSettings(state_dir=tmp_path)
    assert facts.rights_of(daemon).daemon_user == ""
    monkeypatch.setattr(os, "geteuid", lambda: 61_234)
    found = facts.rights_of(daemon)
    assert (found.user, found.root) == ("user 61234", False)
    assert found.daemon_user == facts._name_of(tmp_path.stat().st_uid)
