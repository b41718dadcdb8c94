"""The daemon on a disk that is full, read-only, failing, or smaller than its map.

What it must come to is a documented state each (docs/operations.md, "Failures"), and out of it
again: without a restart where that is safe, by one where it is not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon, daemon_installation, entry
from support.mounts import ext4, fill, mounted
from support.powercut import disk
from support.wait import wait_for

LONG = 600.0
MEBIBYTE = 1024 * 1024


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        script = installed.script("s", "trap 'exit 0' TERM\nnote began\nsleep 600 & wait $!")
        installed.configure(scripts={"default": {"command": [script], "stop_grace": "2s"}})
        yield installed


def store(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.json("status")["store"]
    return found


def in_state(daemon: Daemon, state: str) -> None:
    wait_for(lambda: store(daemon)["state"] == state, seconds=20, what=f"{state} {store(daemon)}")


def backings(place: Path) -> str:
    """The device that is mounted there."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return next(fields[fields.index("-") + 2] for fields in lines if fields[4] == str(place))


def start_one(daemon: Daemon, **settings: Any) -> list[dict[str, Any]]:
    known = [entry("a", -1, LONG)]
    daemon.send(known)
    daemon.start()
    daemon.wait_phase("a", "running")
    return known


def test_a_disk_that_fills_up_is_no_concern_of_a_store_that_has_its_blocks(daemon: Daemon):
    state = daemon.root / "state"
    with mounted(state, "-o", "loop", ext4(daemon.root / "disk", 120 * MEBIBYTE)):
        known = start_one(daemon)
        assert store(daemon)["preallocated"] is True
        fill(state / "ballast")
        daemon.send([*known, entry("b", -1, LONG)])
        daemon.wait_phase("b", "running")
        assert store(daemon)["state"] == "ok"
        daemon.json("stop", "a")
        assert daemon.terminate() == 0
        daemon.start()  # and it opens on the full disk, too
        daemon.wait_phase("b", "running")
        (state / "ballast").unlink()
        assert daemon.json("db", "check")["good"]
        assert daemon.terminate() == 0


def test_on_a_full_disk_nothing_starts_and_all_goes_on_when_there_is_room(daemon: Daemon):
    """Smaller than its map, so that the blocks could not be had."""
    state = daemon.root / "state"
    with mounted(state, "-o", "loop", ext4(daemon.root / "disk", 24 * MEBIBYTE)):
        known = start_one(daemon)
        assert store(daemon)["preallocated"] is False
        daemon.wait_log("Cannot keep")
        fill(state / "ballast")
        later = [entry(f"c{n}", LONG, 2 * LONG) for n in range(400)]  # more than free pages take
        daemon.send([*known, *(entry(f"b{n}", -1, LONG) for n in range(20)), *later])
        in_state(daemon, "full")
        assert daemon.json("status")["daemon"]["degraded"]
        assert daemon.ctl("sync").returncode == 1
        assert daemon.notes("began", "b0") == []
        assert daemon.action("a")["phase"] == "running"
        (state / "ballast").unlink()
        for number in range(20):
            daemon.wait_phase(f"b{number}", "running", seconds=30)
        in_state(daemon, "ok")
        assert daemon.json("status")["daemon"]["degraded"] is None
        assert daemon.json("db", "check")["good"]
        assert daemon.terminate() == 0


def test_a_stop_is_carried_out_on_a_full_disk_and_written_down_later(daemon: Daemon):
    state = daemon.root / "state"
    with mounted(state, "-o", "loop", ext4(daemon.root / "disk", 24 * MEBIBYTE)):
        known = start_one(daemon)
        pid = daemon.action("a")["run"]["scriptPid"]
        fill(state / "ballast")
        daemon.send([*known, *(entry(f"b{n}", 60, LONG) for n in range(200))])
        in_state(daemon, "full")
        daemon.ctl("--timeout", "3", "stop", "a")
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), what="the script to be stopped")
        (state / "ballast").unlink()
        assert daemon.wait_status("a", "WONT_FINISH")["reason"] == "operator"
        assert daemon.terminate() == 0


def test_a_file_system_that_turned_read_only_keeps_what_runs_and_starts_nothing(daemon: Daemon):
    """As ext4 does when it meets an error: what is open stays open, and cannot be written."""
    state = daemon.root / "state"
    image = ext4(daemon.root / "disk", 120 * MEBIBYTE)
    with mounted(state, "-o", "loop,errors=remount-ro", image):
        known = start_one(daemon)
        trigger = Path("/sys/fs/ext4") / Path(backings(state)).name / "trigger_fs_error"
        if not trigger.exists():
            pytest.skip(f"this kernel has no {trigger}")
        trigger.write_text("1")
        daemon.send([*known, entry("b", -1, LONG)])
        in_state(daemon, "read-only")
        assert daemon.notes("began", "b") == []
        assert daemon.action("a")["phase"] == "running"
        assert daemon.terminate() == 0
    with mounted(state, "-o", "loop", image):
        daemon.start()
        for action_id in "ab":
            daemon.wait_phase(action_id, "running")
        assert store(daemon)["state"] == "ok"
        assert daemon.terminate() == 0


def test_a_disk_that_fails_ends_the_daemon_with_4_and_the_next_start_goes_on(daemon: Daemon):
    with disk(daemon.root, 120 * MEBIBYTE) as failing:
        (daemon.root / "state").symlink_to(failing.place)
        known = start_one(daemon)
        pid = daemon.action("a")["run"]["scriptPid"]
        failing.cut()
        daemon.send([*known, entry("b", -1, LONG)])
        assert daemon.process is not None
        assert daemon.process.wait(20) == 4
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), what="its script to be stopped")
        assert daemon.notes("began", "b") == []
        failing.power_on()
        daemon.start()
        for action_id in "ab":
            daemon.wait_phase(action_id, "running")
        assert daemon.action("a")["attempt"] == 2
        assert store(daemon)["incidents"] == []
        assert daemon.terminate() == 0


def test_what_is_withdrawn_is_written_though_what_is_new_does_not_fit(daemon: Daemon):
    """As after a backend, or who had taken its place, that sent more than there is room for."""
    script = daemon.script("s", "trap 'exit 0' TERM\nnote began\nsleep 600 & wait $!")
    scripts = {"default": {"command": [script], "stop_grace": "2s"}}
    daemon.configure(scripts=scripts, map_size="1MiB", backend={"report": False})
    start_one(daemon)
    daemon.send([entry(f"w{n}", 300, LONG, appNames=["x" * 200, str(n)]) for n in range(4000)])
    in_state(daemon, "map-full")
    wait_for(
        lambda: daemon.action("a")["executionStatus"] == "WONT_FINISH",
        seconds=30,
        what="the withdrawal of a",
    )
    assert daemon.terminate() == 0


def test_a_full_map_degrades_and_a_larger_one_takes_it_all(daemon: Daemon):
    script = daemon.script("s", "trap 'exit 0' TERM\nnote began\nsleep 600 & wait $!")
    scripts = {"default": {"command": [script], "stop_grace": "2s"}}
    daemon.configure(scripts=scripts, map_size="1MiB")
    known = start_one(daemon)
    many = [entry(f"w{n}", 300, LONG, appNames=["x" * 200, str(n)]) for n in range(4000)]
    daemon.send([*known, *many])
    in_state(daemon, "map-full")
    assert daemon.action("a")["phase"] == "running"
    assert "map-full" in daemon.ctl("status").stdout
    assert daemon.json("status")["backend"]["lastPullOk"] is False
    assert daemon.terminate() == 0
    daemon.configure(scripts=scripts, map_size="64MiB")
    daemon.start()
    wait_for(
        lambda: daemon.json("status")["counts"]["NULL"] == len(many),
        seconds=20,
        what="all of them to be known",
    )
    daemon.wait_phase("a", "running")
    assert daemon.terminate() == 0
