"""A daemon at work whose runtime directory a cleaner of old files visits."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.supervisor.host.runtime_dir import LOOK_SECONDS
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as made:
        script = made.script("s", "note began\nsleep 600 & wait $!")
        settings = {"command": [script], "stop_grace": "1s", "stop_signal": "KILL"}
        made.configure(scripts={"default": settings})
        made.start()
        made.send([entry("a", -1, 600)])
        made.wait_phase("a", "running")
        yield made


def run_dir(daemon: Daemon) -> Path:
    return daemon.root / "run"


def mended(daemon: Daemon, *names: str) -> None:
    def told() -> bool:
        lines = [line for line in daemon.log_text().splitlines() if "Made anew" in line]
        return all(any(name in line for line in lines) for name in names)

    wait_for(told, what=f"{names} made anew")


def works_as_before(daemon: Daemon) -> None:
    assert daemon.ctl("ping").returncode == 0
    assert daemon.json("sync")  # by a synchroniser, which may have to be had first
    began = len(daemon.notes("began"))
    actions = [entry("a", -1, 600), *(entry(f"b{n}", -1, 600) for n in range(began))]
    daemon.send(actions)
    daemon.wait_phase(f"b{began - 1}", "running")
    assert daemon.action("a")["phase"] == "running"
    assert len(daemon.notes("began", "a")) == 1


def other_daemon(daemon: Daemon) -> int:
    """The exit of another daemon with the same runtime directory."""
    with daemon_installation() as other:
        other.configure(scripts={}, runtime_dir=str(run_dir(daemon)))
        other.start(wait=False)
        assert other.process is not None
        return other.process.wait(15)


@pytest.mark.parametrize("name", ["control.sock", "workers.sock"])
def test_a_socket_that_is_removed_is_made_anew(daemon: Daemon, name: str):
    for _ in range(2):
        (run_dir(daemon) / name).unlink()
        wait_for((run_dir(daemon) / name).exists)
    mended(daemon, name)
    works_as_before(daemon)


def test_a_folder_that_is_removed_is_made_anew(daemon: Daemon):
    for name in ("runs", "results", "processes"):
        shutil.rmtree(run_dir(daemon) / name)
        mended(daemon, name)
    works_as_before(daemon)


@pytest.mark.parametrize("moved", [False, True])
def test_a_whole_runtime_directory_is_made_anew_with_its_mode(daemon: Daemon, moved: bool):
    run_dir(daemon).chmod(0o710)
    daemon.terminate()
    daemon.start()
    daemon.wait_phase("a", "running")
    if moved:
        run_dir(daemon).rename(daemon.root / "old")
    else:
        shutil.rmtree(run_dir(daemon))
    mended(daemon, "the directory", "lock", "control.sock", "workers.sock", "runs")
    assert run_dir(daemon).stat().st_mode & 0o766 == 0o700  # a run may let others search it
    assert daemon.ctl("ping").returncode == 0
    assert other_daemon(daemon) == 3
    daemon.wait_log("geosched-ctl db")  # its lock file cannot be made anew
    assert daemon.terminate() == 0


def test_the_lock_of_the_runtime_directory_is_made_anew(daemon: Daemon):
    (run_dir(daemon) / "lock").unlink()
    mended(daemon, "lock")
    assert other_daemon(daemon) == 3
    works_as_before(daemon)


def test_what_cannot_be_made_anew_is_told_once_and_tried_again(daemon: Daemon):
    shutil.rmtree(run_dir(daemon))
    run_dir(daemon).write_text("somebody's file")
    daemon.wait_log("Cannot make anew")
    daemon.send([entry("a", -1, 600), entry("c", 12, 600)])  # keeps the loop turning
    time.sleep(LOOK_SECONDS + 1)  # the time in which it might be told again
    assert daemon.log_text().count("Cannot make anew") == 1
    run_dir(daemon).unlink()
    wait_for((run_dir(daemon) / "control.sock").exists, seconds=40)
    assert daemon.ctl("ping").returncode == 0


def test_a_socket_of_others_in_a_directory_that_they_could_make_is_not_used(daemon: Daemon):
    if os.geteuid() != 0:
        pytest.skip("only a daemon that is root distrusts directories")
    away = daemon.root / "away"
    away.mkdir()
    os.chown(away, 65534, 65534)
    run_dir(daemon).rename(daemon.root / "old")
    away.rename(run_dir(daemon))
    daemon.wait_log("belongs to user 65534")
    assert not (run_dir(daemon) / "control.sock").exists()
