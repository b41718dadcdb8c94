"""The user of exchanges, as `geoschedd --check` and `status` tell it."""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.workers.host.privileges import UNNAMED_UID
from support.daemon import Daemon, commands, daemon_installation
from support.second_user import SECOND_USER
from support.wait import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


@pytest.fixture
def installed() -> Iterator[Daemon]:
    with daemon_installation() as daemon:
        yield daemon


def configure(daemon: Daemon, **backend: str | int) -> None:
    daemon.configure(scripts={"default": {"command": ["sleep", "60"]}}, backend=backend)


def checked(daemon: Daemon, *by: str) -> tuple[int, str]:
    command = [*by, commands() / "geoschedd", "--config", daemon.config, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("user", ["", UNNAMED_UID, str(SECOND_USER)])
def test_a_user_that_can_be_become_is_well(user: str | int, installed: Daemon) -> None:
    configure(installed, user=user)
    code, said = checked(installed)
    assert (code, "backend.user" in said) == (0, False), said


def test_a_user_that_is_not_there_is_named(installed: Daemon) -> None:
    configure(installed, user="nobody-of-that-name")
    code, said = checked(installed)
    assert code == 2
    assert "backend.user: there is no user 'nobody-of-that-name'" in said


@pytest.mark.parametrize("lacking", ["setuid", "setgid", "kill"])
def test_a_daemon_that_may_not_change_its_user_is_told_so(lacking: str, installed: Daemon) -> None:
    configure(installed)
    code, said = checked(installed, "setpriv", f"--bounding-set=-{lacking}")
    assert code == 2
    assert "backend.user: " in said
    configure(installed, user="root")
    code, said = checked(installed, "setpriv", f"--bounding-set=-{lacking}")
    assert code == 0
    assert "warning: backend.user: what reads the network's answers keeps" in said


def test_a_daemon_that_lacks_setpcap_is_well_and_its_synchroniser_without_rights(
    installed: Daemon,
) -> None:
    """Nothing that it executes could gain from the bounding set."""
    configure(installed)
    without = ("setpriv", "--bounding-set=-setpcap")
    assert checked(installed, *without)[0] == 0
    installed.start(by=without)
    wait_for(lambda: installed.json("status")["backend"]["lastPullOk"], what="a pull")


def test_status_shows_the_user_and_a_reload_changes_it(installed: Daemon) -> None:
    configure(installed)
    installed.start()
    assert installed.json("status")["backend"]["user"] == str(UNNAMED_UID)
    wait_for(lambda: users_of_synchronisers(installed) == {UNNAMED_UID}, what="a synchroniser")
    configure(installed, user=SECOND_USER)
    assert installed.process is not None
    installed.process.send_signal(1)
    wait_for(lambda: users_of_synchronisers(installed) == {SECOND_USER}, what="another")
    assert installed.json("status")["backend"]["user"] == str(SECOND_USER)
    assert installed.json("status")["backend"]["lastPullOk"]
    assert installed.terminate() == 0
    assert list(installed.root.glob("run/processes/*")) == []


def users_of_synchronisers(installed: Daemon) -> set[int]:
    found = set()
    for path in installed.root.glob("run/processes/[0-9]*"):
        process = Path("/proc") / path.name
        with contextlib.suppress(FileNotFoundError):  # it has left
            if (process / "cmdline").read_bytes().startswith(b"geosched: synchroniser"):
                (uids,) = re.findall(r"^Uid:\t(\d+)", (process / "status").read_text(), re.M)
                found.add(int(uids))
    return found
