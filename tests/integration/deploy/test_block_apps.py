"""The action script `block-apps` against real processes, found by what they are called.

Every name here is new with each test: others on this host must not be hit by a mistake.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.paths import DEPLOY
from support.wait import wait_for

BLOCK_APPS = DEPLOY / "scripts" / "block-apps"
Started = subprocess.Popen[str]


class Stage:
    """A directory of decoys, and every process that a test has started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mark = uuid.uuid4().hex[:6]
        self.started: list[Started] = []

    def program(self, name: str) -> str:
        """A copy of `sleep` that is called `name`."""
        path = self.directory / name
        shutil.copy("/bin/sleep", path)
        return str(path)

    def start(self, *command: str, **how: Any) -> Started:
        process: Started = subprocess.Popen(command, text=True, start_new_session=True, **how)
        self.started.append(process)
        return process

    def decoy(self, name: str) -> Started:
        return self.start(self.program(name), "60")

    def block(self, *names: str, env: dict[str, str] | None = None, **how: Any) -> Started:
        """`block-apps` with these names; its output is a pipe."""
        environment = os.environ | {"GEOSCHED_APP_NAMES": json.dumps(names)} | (env or {})
        return self.start(
            sys.executable, str(BLOCK_APPS), env=environment, stdout=subprocess.PIPE, **how
        )

    def clean_up(self) -> None:
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()
        shutil.rmtree(self.directory)


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage(Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp")))
    made.directory.chmod(0o755)
    try:
        yield made
    finally:
        made.clean_up()


def ended(process: Started, *, seconds: float = 1.5) -> int:
    """The signal that ended it. The promise is 1 s; the rest is for a busy host."""
    wait_for(lambda: process.poll() is not None, seconds=seconds, what=f"the end of {process.args}")
    return -process.returncode


def running(processes: Sequence[Started]) -> bool:
    return all(process.poll() is None for process in processes)


def said(blocker: Started) -> str:
    """The next line of its output."""
    assert blocker.stdout is not None
    return blocker.stdout.readline().rstrip("\n")


def stopped(blocker: Started) -> list[str]:
    """What else it printed, once it is asked to stop."""
    blocker.send_signal(signal.SIGTERM)
    output, _ = blocker.communicate(timeout=10)
    assert blocker.returncode == 0
    return output.splitlines()


def test_apps_that_run_and_apps_that_start_later_are_ended(stage: Stage) -> None:
    name = f"app-{stage.mark}"
    there = stage.decoy(name)
    blocker = stage.block(name)
    assert ended(there, seconds=5) == signal.SIGTERM
    assert said(blocker) == f"ended {name} (pid {there.pid})"
    for _ in range(2):
        later = stage.decoy(name)
        assert ended(later) == signal.SIGTERM
        assert said(blocker) == f"ended {name} (pid {later.pid})"
    assert stopped(blocker) == []


def test_names_that_only_look_alike_are_spared(stage: Stage) -> None:
    name = f"app-{stage.mark}"
    spared = [
        stage.decoy(name + "x"),
        stage.decoy("x" + name),
        stage.decoy(name.upper()),
        stage.start(stage.program("other"), "60", env={"NAME": name}),
        stage.start("/bin/sh", "-c", f"sleep 60; : /{name}"),
        stage.start("/bin/sh", "-c", "sleep 60; : $0", name),
    ]
    blocker = stage.block(name)
    assert ended(stage.decoy(name), seconds=5) == signal.SIGTERM
    assert ended(stage.decoy(name)) == signal.SIGTERM
    assert running(spared)
    stopped(blocker)


def test_a_name_longer_than_the_kernel_keeps_is_compared_whole(stage: Stage) -> None:
    cut = f"application-{stage.mark}"[:15]
    spared = [stage.decoy(cut + "-one"), stage.decoy(cut + "-two")]
    blocker = stage.block(cut, cut + "-three")
    assert ended(stage.decoy(cut + "-three"), seconds=5) == signal.SIGTERM
    assert ended(stage.decoy(cut)) == signal.SIGTERM
    assert running(spared)
    stopped(blocker)


@pytest.mark.parametrize("options", [(), ("-u", "-W", "ignore")])
def test_a_script_goes_by_its_own_name(stage: Stage, options: tuple[str, ...]) -> None:
    name = f"long-named-game-{stage.mark}.py"
    script = stage.directory / name
    script.write_text("import time\ntime.sleep(60)\n")
    (stage.directory / "other.py").write_text("import time\ntime.sleep(60)\n")
    spared = [
        stage.start(sys.executable, str(stage.directory / "other.py"), name),
        stage.start(sys.executable, "-c", "import time\ntime.sleep(60)", name),
    ]
    game = stage.start(sys.executable, *options, str(script), "--level=1")
    blocker = stage.block(name)
    assert ended(game, seconds=5) == signal.SIGTERM
    assert ended(stage.start(sys.executable, *options, str(script))) == signal.SIGTERM
    assert running(spared)
    stopped(blocker)


def test_a_process_that_becomes_a_blocked_app_later_is_ended(stage: Stage) -> None:
    name = f"app-{stage.mark}"
    gate = stage.directory / "gate"
    os.mkfifo(gate)
    launcher = stage.start("/bin/sh", "-c", f"read line < {gate}; exec {stage.program(name)} 60")
    blocker = stage.block(name)
    assert ended(stage.decoy(name), seconds=5) == signal.SIGTERM  # so the launcher was seen
    assert running([launcher])
    gate.write_text("go\n")
    assert ended(launcher) == signal.SIGTERM
    stopped(blocker)


def test_an_app_that_ignores_sigterm_is_killed_after_two_seconds(stage: Stage) -> None:
    name = f"stubborn-{stage.mark}"
    script = stage.directory / name
    script.write_text("#!/bin/sh\ntrap '' TERM\necho ready\nwhile :; do sleep 0.1; done\n")
    script.chmod(0o755)
    stubborn = stage.start(str(script), stdout=subprocess.PIPE)
    assert said(stubborn) == "ready"
    blocker = stage.block(name)
    assert ended(stubborn, seconds=6) == signal.SIGKILL
    assert said(blocker) == f"ended {name} (pid {stubborn.pid})"
    stopped(blocker)


def test_it_spares_itself_and_what_is_above_it(stage: Stage) -> None:
    own, parent = f"block-{stage.mark}", f"parent-{stage.mark}"
    shutil.copy(BLOCK_APPS, stage.directory / own)
    script = stage.directory / parent
    script.write_text(f"#!/bin/sh\n'{sys.executable}' '{stage.directory / own}' & echo $!; wait\n")
    script.chmod(0o755)
    names = {"GEOSCHED_APP_NAMES": json.dumps([own, parent, f"app-{stage.mark}"])}
    above = stage.start(str(script), env=os.environ | names, stdout=subprocess.PIPE)
    pid = int(said(above))
    assert ended(stage.decoy(f"app-{stage.mark}"), seconds=5) == signal.SIGTERM
    assert ended(stage.decoy(f"app-{stage.mark}")) == signal.SIGTERM
    assert running([above])
    os.kill(pid, 0)
    another = stage.start(str(script), env=os.environ | {"GEOSCHED_APP_NAMES": "[]"})
    assert ended(another) == signal.SIGTERM  # the same name, but not above it


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_without_root_it_leaves_other_users_alone(stage: Stage) -> None:
    name = f"app-{stage.mark}"
    ours = stage.decoy(name)
    script = shutil.copy(BLOCK_APPS, stage.directory)
    names = {"GEOSCHED_APP_NAMES": json.dumps([name]), "PATH": "/usr/bin:/bin"}
    blocker = stage.start(
        "/usr/bin/python3", str(script), env=names, user=65534, stdout=subprocess.PIPE
    )
    theirs = stage.start(stage.program(name + "-2"), "60", user=65534)
    assert theirs.poll() is None
    mine = stage.start(str(stage.directory / name), "60", user=65534)
    assert ended(mine, seconds=5) == signal.SIGTERM
    assert said(blocker) == f"ended {name} (pid {mine.pid})"
    assert running([ours, theirs])
    assert stopped(blocker) == []


def test_the_daemons_own_workers_are_spared_when_a_name_fits_them(stage: Stage) -> None:
    """A zygote, below it two workers of one name, below one of them the script."""
    name = f"worker-{stage.mark}"
    worker = shutil.copy("/bin/sh", stage.directory / name)
    script = stage.directory / "script"
    script.write_text(f"'{sys.executable}' '{BLOCK_APPS}'\n:\n")
    idle = stage.directory / "idle"
    idle.write_text("sleep 60\n:\n")
    names = {"GEOSCHED_APP_NAMES": json.dumps([name]), "GEOSCHED_RUN_ID": "run"}
    zygote = stage.start(
        *("/bin/sh", "-c", f"{worker} {script} & {worker} {idle} & echo $!; wait"),
        env=os.environ | names,
        stdout=subprocess.PIPE,
    )
    sibling = int(said(zygote))
    assert ended(stage.start(str(worker), str(idle)), seconds=5) == signal.SIGTERM
    assert Path(f"/proc/{sibling}/comm").read_text().strip() == name


class Listener:
    """The far end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)
        self.environment = {"NOTIFY_SOCKET": str(path)}
        self.lines: list[str] = []

    def hear(self, line: str) -> None:
        while line not in self.lines:
            self.lines += self.socket.recv(4096).decode().split("\n")


@pytest.fixture
def listener(stage: Stage) -> Iterator[Listener]:
    made = Listener(stage.directory / "notify")
    yield made
    made.socket.close()


def test_it_says_what_it_did(stage: Stage, listener: Listener) -> None:
    one, two = f"one-{stage.mark}", f"two-{stage.mark}"
    blocker = stage.block(one, two, env=listener.environment)
    listener.hear("READY=1")
    listener.hear(f"STATUS=blocking {one}, {two}")
    for name in (two, one, two):
        ended(stage.decoy(name))
    listener.hear(f"STATUS=ended 3: {two} (2), {one} (1)")
    assert "WATCHDOG=1" not in listener.lines
    stopped(blocker)


def test_it_feeds_a_watchdog_where_there_is_one(stage: Stage, listener: Listener) -> None:
    blocker = stage.block("x" + stage.mark, env=listener.environment | {"WATCHDOG_USEC": "300000"})
    for _ in range(3):
        listener.lines.clear()
        listener.hear("WATCHDOG=1")
    stopped(blocker)


@pytest.mark.parametrize("names", [[], [""]])
def test_an_action_without_apps_stays_idle_for_its_window(
    stage: Stage, listener: Listener, names: list[str]
) -> None:
    blocker = stage.block(*names, env=listener.environment)
    listener.hear("STATUS=nothing to block")
    assert stopped(blocker) == []


def test_names_come_from_the_command_line_where_the_environment_has_none(stage: Stage) -> None:
    one, two = f"one-{stage.mark}", f"two-{stage.mark}"
    decoys = [stage.decoy(one), stage.decoy(two)]
    blocker = stage.start(
        sys.executable, str(BLOCK_APPS), f"--apps={one},{two},", stdout=subprocess.PIPE
    )
    assert [ended(decoy, seconds=5) for decoy in decoys] == [signal.SIGTERM] * 2
    stopped(blocker)


def test_a_name_with_a_comma_survives_in_the_environment(stage: Stage) -> None:
    name, part = f"one,two-{stage.mark}", f"two-{stage.mark}"
    spared = stage.decoy(part)
    decoy = stage.decoy(name)
    blocker = stage.start(
        sys.executable,
        str(BLOCK_APPS),
        f"--apps={name}",
        env=os.environ | {"GEOSCHED_APP_NAMES": json.dumps([name])},
        stdout=subprocess.PIPE,
    )
    assert ended(decoy, seconds=5) == signal.SIGTERM
    assert running([spared])
    stopped(blocker)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "cannot block anything: no --apps, and GEOSCHED_APP_NAMES is not set"),
        ({"GEOSCHED_APP_NAMES": "chrome"}, "cannot read GEOSCHED_APP_NAMES"),
        ({"GEOSCHED_APP_NAMES": '{"a": 1}'}, "cannot read GEOSCHED_APP_NAMES"),
        ({"GEOSCHED_APP_NAMES": "[1]"}, "cannot read GEOSCHED_APP_NAMES"),
    ],
)
def test_without_readable_names_it_leaves_with_2(environment: dict[str, str], message: str) -> None:
    done = subprocess.run(
        [BLOCK_APPS],
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
