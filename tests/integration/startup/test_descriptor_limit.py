"""A daemon with few descriptors: it says what it can do, does that, and does not go beyond it."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from geosched.ipc.paths import Runtime
from geosched.supervisor.config.descriptors import OPEN_FILES_MIN, Descriptors
from support.daemon import Daemon, commands, daemon_installation, entry
from support.router import HELLO
from support.wait import wait_for

DUE_AT_ONCE = 30
CONNECTIONS = 100


@pytest.fixture
def installed() -> Iterator[Daemon]:
    with daemon_installation() as one:
        yield one


def limited(open_files: int, *command: str | Path) -> list[str]:
    return ["sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh", *map(str, command)]


def start(daemon: Daemon, open_files: int) -> None:
    command = limited(open_files, commands() / "geoschedd", "--config", daemon.config)
    with daemon.stderr.open("ab") as log:
        daemon.process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
    wait_for(daemon._answers, seconds=15, what=f"an answer ({daemon.log_text()})")


def descriptors(daemon: Daemon) -> int:
    assert daemon.process is not None
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def connections(daemon: Daemon, count: int, stack: ExitStack) -> None:
    """Half of them greet, half say nothing; none asks anything."""
    path = str(Runtime(daemon.root / "run").control_socket)
    for number in range(count):
        opened = stack.enter_context(socket.socket(socket.AF_UNIX))
        opened.connect(path)
        if number % 2:
            opened.sendall(HELLO)


@pytest.mark.parametrize("open_files", [OPEN_FILES_MIN, 100, 256])
def test_it_outlives_many_idle_connections_and_many_actions_due(installed: Daemon, open_files: int):
    shared = Descriptors.within(open_files)
    installed.configure(
        scripts={"default": {"command": [installed.script("short", "note run; sleep 0.2")]}},
        max_running=200,
        spare_workers=8,
    )
    start(installed, open_files)
    limits = installed.json("status")["limits"]
    assert limits["openFiles"] == open_files
    assert (limits["maxRunning"], limits["maxRunningAsked"]) == (shared.runs, 200)
    assert limits["connectionsMax"] == shared.connections
    installed.wait_log(f"max_running is {shared.runs}, not 200")
    assert f"max_running is {shared.runs}, not 200" in installed.ctl("status").stdout
    with ExitStack() as stack:
        connections(installed, CONNECTIONS, stack)
        ids = [f"a{number}" for number in range(DUE_AT_ONCE)]
        installed.send([entry(action_id, 1, 60) for action_id in ids])
        most = 0

        def all_over() -> bool:
            nonlocal most
            most = max(most, descriptors(installed))
            return len(installed.notes("run")) == DUE_AT_ONCE

        wait_for(all_over, seconds=55, what="a run of each", pause_seconds=0.005)
        assert most < open_files
        for action_id in ids:
            installed.wait_status(action_id, "FINISHED")
        assert installed.ctl("ping").returncode == 0
        found = installed.json("status")["limits"]
        assert found["connections"] <= shared.connections_of_user
        assert found["connectionsRefused"] >= CONNECTIONS - shared.connections
    assert installed.terminate() == 0
    assert "Traceback" not in installed.log_text()


def test_a_reload_is_cut_to_what_fits_too(installed: Daemon):
    script = {"default": {"command": ["/bin/true"]}}
    installed.configure(scripts=script, max_running=1)
    start(installed, 100)
    assert installed.json("status")["limits"]["maxRunningAsked"] is None
    assert "max_running is" not in installed.ctl("status").stdout
    installed.configure(scripts=script, max_running=5000)
    assert installed.process is not None
    installed.process.send_signal(1)
    fits = Descriptors.within(100).runs
    installed.wait_log(f"max_running is {fits}, not 5000")
    assert installed.json("status")["limits"]["maxRunning"] == fits


@pytest.mark.parametrize("open_files", [16, 32, OPEN_FILES_MIN - 1])
@pytest.mark.parametrize("arguments", [(), ("--check",)], ids=("start", "check"))
def test_a_limit_that_serves_no_run_is_one_sentence_and_exit_2(
    installed: Daemon, open_files: int, arguments: tuple[str, ...]
):
    installed.configure(scripts={"default": {"command": ["/bin/true"]}})
    command = limited(
        open_files, commands() / "geoschedd", "--config", installed.config, *arguments
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"one run needs a limit of {OPEN_FILES_MIN}" in done.stderr


def test_a_client_needs_few_descriptors(installed: Daemon):
    installed.configure(scripts={"default": {"command": ["/bin/true"]}})
    installed.start()
    for open_files in (6, 8, 10):
        # By Python itself: in a path with a blank the command is a shell's first, which needs more.
        ctl = (commands() / "python", commands() / "geosched-ctl")
        command = limited(open_files, *ctl, "--config", installed.config, "ping")
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stderr) == (0, "")
