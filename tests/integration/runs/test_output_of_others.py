"""A `log_dir` of another user: what they put in the place of a run's output is neither read nor
written, and the run goes on."""

import os
import shutil
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
        log_dir = installed.root / "log"
        log_dir.mkdir()
        os.chown(log_dir, SECOND_USER, SECOND_USER)
        talk = installed.script("talk", "while :; do echo said; sleep 0.05; done")
        installed.configure(scripts={"default": {"command": [talk], "stop_grace": "100ms"}})
        installed.send([entry("a", -1, LONG)])
        installed.start()
        yield installed


@pytest.fixture
def secret(daemon: Daemon) -> Path:
    path = daemon.root / "secret"
    path.write_text(SECRET)
    path.chmod(0o600)
    return path


def a_link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def a_hard_link(path: Path, secret: Path) -> None:
    path.hardlink_to(secret)


def a_fifo(path: Path, _secret: Path) -> None:
    os.mkfifo(path)


def a_directory(path: Path, _secret: Path) -> None:
    path.mkdir()


def a_forged_file(path: Path, _secret: Path) -> None:
    path.write_text("forged\n")


def lost_bytes(daemon: Daemon) -> int:
    found: int = daemon.json("status")["outputLostBytes"]
    return found


@pytest.mark.parametrize("plant", [a_link, a_hard_link, a_fifo, a_directory, a_forged_file])
def test_what_others_put_in_the_place_of_output_is_not_used(
    daemon: Daemon, secret: Path, plant: Callable[[Path, Path], None]
):
    run = daemon.wait_phase("a", "running")["run"]
    output = daemon.root / "log" / f"{run['runId']}.log"
    wait_for(lambda: "said" in daemon.ctl("logs", "a").stdout, what="output")
    output.unlink()
    plant(output, secret)
    if plant is not a_hard_link:
        os.chown(output, SECOND_USER, SECOND_USER, follow_symlinks=False)
    daemon.wait_log("Somebody has removed")
    lost = lost_bytes(daemon)
    wait_for(lambda: lost_bytes(daemon) > lost, what="output that is lost", seconds=20)
    shown = daemon.ctl("logs", "a")
    assert shown.returncode == 1
    assert SECRET.strip() not in shown.stdout + shown.stderr
    assert "forged" not in shown.stdout
    assert secret.read_text() == SECRET
    assert (secret.stat().st_uid, secret.stat().st_mode & 0o777) == (0, 0o600)
    if output.is_dir() and not output.is_symlink():
        shutil.rmtree(output)
    else:
        output.unlink()
    wait_for(lambda: "said" in daemon.ctl("logs", "a").stdout, what="output, once they let it be")
    assert daemon.wait_phase("a", "running")["run"]["runId"] == run["runId"]
