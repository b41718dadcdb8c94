"""A `log_dir` that others can write: a daemon of root neither writes nor reads output there, from
its start on or from the moment on at which it becomes theirs; and runs go on."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon, entry, installation_for_everybody
from support.second_user import SECOND_USER
from support.wait import wait_for

SECRET = "root only\n"
LONG = 3600


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with installation_for_everybody() as installed:
        (installed.root / "log").mkdir()
        talk = installed.script("talk", "while :; do echo said; sleep 0.05; done")
        installed.configure(scripts={"default": {"command": [talk], "stop_grace": "100ms"}})
        installed.send([entry("a", -1, LONG)])
        yield installed


@pytest.fixture
def secret(daemon: Daemon) -> Path:
    path = daemon.root / "secret"
    path.write_text(SECRET)
    path.chmod(0o600)
    return path


def given_away(path: Path) -> None:
    os.chown(path, SECOND_USER, SECOND_USER)


def for_everybody(path: Path) -> None:
    path.chmod(0o777)


def a_link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def a_hard_link(path: Path, secret: Path) -> None:
    path.hardlink_to(secret)


def a_fifo(path: Path, _secret: Path) -> None:
    os.mkfifo(path)


def a_file(path: Path, _secret: Path) -> None:
    """One of root's with one name: it was a second name of another a moment ago."""
    path.write_text(SECRET)


def lost_bytes(daemon: Daemon) -> int:
    found: int = daemon.json("status")["outputLostBytes"]
    return found


def assert_lost(daemon: Daemon, reason: str) -> None:
    """Output is lost, and `logs` says why."""
    lost = lost_bytes(daemon)
    wait_for(lambda: lost_bytes(daemon) > lost, what="output that is lost", seconds=20)
    shown = daemon.ctl("logs", "a")
    assert shown.returncode == 1
    assert reason in shown.stderr
    assert SECRET.strip() not in shown.stdout


@pytest.mark.parametrize(
    ("share", "reason"),
    [
        (given_away, f"log belongs to user {SECOND_USER}"),
        (for_everybody, "log is writable by everybody (mode 0777)"),
    ],
)
def test_a_log_directory_of_others_gets_no_output_and_the_run_goes_on(
    daemon: Daemon, share: Callable[[Path], None], reason: str
):
    share(daemon.root / "log")
    daemon.start()
    daemon.wait_phase("a", "running")
    assert_lost(daemon, reason)
    assert list((daemon.root / "log").iterdir()) == []


@pytest.mark.parametrize("plant", [a_link, a_hard_link, a_fifo, a_file])
def test_a_log_directory_that_others_get_later_is_not_used_from_then_on(
    daemon: Daemon, secret: Path, plant: Callable[[Path, Path], None]
):
    daemon.start()
    run = daemon.wait_phase("a", "running")["run"]
    log_dir = daemon.root / "log"
    output = log_dir / f"{run['runId']}.log"
    wait_for(lambda: "said" in daemon.ctl("logs", "a").stdout, what="output")
    given_away(log_dir)
    output.unlink()
    plant(output, secret)
    daemon.wait_log("Somebody has removed")
    assert_lost(daemon, f"log belongs to user {SECOND_USER}")
    assert secret.read_text() == SECRET
    assert plant is not a_file or output.read_text() == SECRET
    assert (secret.stat().st_uid, secret.stat().st_mode & 0o777) == (0, 0o600)
    output.unlink()
    os.chown(log_dir, 0, 0)
    wait_for(lambda: "said" in daemon.ctl("logs", "a").stdout, what="output, once it is root's")
    assert daemon.wait_phase("a", "running")["run"]["runId"] == run["runId"]
