"""The action script `block-apps` against the very user whom it blocks, who shapes what it reads."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from support.daemon import lives
from support.held_back import HOLDS_BACK, holding_back, wait_until_held_back
from support.paths import DEPLOY
from support.second_user import SECOND_USER, command_as, needs_two_users
from support.wait import wait_for

BLOCK_APPS = str(DEPLOY / "scripts" / "block-apps")
#: What it needs besides is some 30 MB; command lines of 1.2 MB each must not come to that.
ADDRESS_SPACE_BYTES = 80_000_000
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


class Stage:
    """A directory of decoys that anybody may execute, and all that a test has started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"app-{uuid.uuid4().hex[:6]}"
        self.started: list[subprocess.Popen[bytes]] = []

    def decoy(self, *arguments: str, user: int, name: str = "") -> "subprocess.Popen[bytes]":
        path = self.directory / (name or self.name)
        if not path.exists():
            shutil.copy("/bin/sh", path)
        command = (str(path), "-c", "read _ || sleep 600", *arguments)
        return self.keep(command_as(user, *command, stdin=subprocess.DEVNULL))

    def keep(self, process: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
        self.started.append(process)
        return process

    def block(self, **environment: str) -> "subprocess.Popen[bytes]":
        names = {"GEOSCHED_APP_NAMES": json.dumps([self.name])}
        limited = f'ulimit -v {ADDRESS_SPACE_BYTES // 1024}; exec "$@"'
        command = ("/bin/sh", "-c", limited, "sh", sys.executable, BLOCK_APPS)
        return self.keep(
            command_as(
                os.getuid(),
                *command,
                env=os.environ | names | environment,
                stdout=subprocess.DEVNULL,
            )
        )

    def clean_up(self) -> None:
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        shutil.rmtree(self.directory)


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage(Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp")))
    made.directory.chmod(0o755)
    try:
        yield made
    finally:
        made.clean_up()


def loaded_block_apps() -> Any:
    loader = SourceFileLoader("block_apps", BLOCK_APPS)
    spec = spec_from_loader("block_apps", loader)
    assert spec is not None
    block_apps = module_from_spec(spec)
    loader.exec_module(block_apps)
    return block_apps


def test_so_many_bytes_of_a_command_line_are_read_and_no_more(stage: Stage) -> None:
    block_apps = loaded_block_apps()
    huge = stage.decoy(*["x" * 120_000] * 10, user=os.getuid())
    wait_for(lambda: Path(f"/proc/{huge.pid}/comm").read_text().strip() == stage.name)
    found = block_apps.beginning(f"/proc/{huge.pid}/cmdline")
    assert len(found) == block_apps.COMMAND_LINE_BYTES_MAX
    assert found.startswith(str(stage.directory / stage.name).encode() + b"\0")


@needs_two_users
def test_command_lines_without_end_keep_nobody_unblocked(stage: Stage) -> None:
    huge = ["x" * 120_000] * 10
    for number in range(30):
        stage.decoy(*huge, user=SECOND_USER, name=f"other-{number}")
    blocker = stage.block()
    blocked = stage.decoy(*huge, user=SECOND_USER)
    assert -blocked.wait(10) == signal.SIGTERM
    later = stage.decoy(user=SECOND_USER)
    assert -later.wait(5) == signal.SIGTERM
    assert blocker.poll() is None


def test_a_script_behind_thousands_of_options_is_found(stage: Stage) -> None:
    """As far as `COMMAND_LINE_BYTES_MAX`."""
    script = stage.directory / stage.name
    script.write_text("import time\ntime.sleep(600)\n")
    options = ["-W", "ignore"] * 2000
    game = stage.keep(command_as(os.getuid(), sys.executable, *options, str(script)))
    stage.block()
    assert -game.wait(10) == signal.SIGTERM


def test_a_command_line_that_hangs_costs_itself_and_no_other(stage: Stage, tmp_path: Path) -> None:
    """It goes by its other names: that of the script which the kernel executed."""
    script = stage.directory / stage.name
    script.write_text(f"#!{os.path.realpath(sys.executable)}\n{HOLDS_BACK}")
    script.chmod(0o755)
    with holding_back(tmp_path) as file:
        bad = stage.keep(command_as(os.getuid(), str(script), str(file), **PIPES))
        wait_until_held_back(bad)
        script.write_text("import time\ntime.sleep(600)\n")
        blocker = stage.block()
        for _ in range(2):
            game = stage.keep(command_as(os.getuid(), sys.executable, str(script)))
            assert -game.wait(5) == signal.SIGTERM
        assert blocker.poll() is None
    assert -bad.wait(10) in (signal.SIGTERM, signal.SIGKILL)


def test_a_reader_that_was_killed_is_replaced() -> None:
    lines = loaded_block_apps().CommandLines()
    own = f"/proc/{os.getpid()}"
    found = lines.of(own)
    assert found
    first = lines._reader
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert lines.of(own) == found
    assert lines._reader != first
    lines._give_up()


def test_command_lines_that_hang_hide_no_other_of_their_user(stage: Stage) -> None:
    """As those of all processes do here; beyond so many in a scan they go by their other names."""
    block_apps = loaded_block_apps()

    class Hanging:
        def of(self, place: str) -> bytes:
            raise block_apps.HangsError

    program = stage.directory / stage.name
    shutil.copy("/bin/sh", program)
    starts = f"{program} -c 'sleep 600; :' & echo $!; wait"
    above = stage.keep(command_as(os.getuid(), "/bin/sh", "-c", starts, stdout=subprocess.PIPE))
    assert above.stdout is not None
    game = int(above.stdout.readline())
    wait_for(lambda: Path(f"/proc/{game}/comm").read_text().strip() == stage.name)
    blocker = block_apps.Blocker([stage.name])
    blocker._command_lines = Hanging()
    blocker.scan(time.monotonic())
    above.wait(5)
    assert not lives(game)


#: A daemon with a zygote, a worker and a script below it, and a helper of its own beside the
#: zygote: each a shell of the same name. A script is in a session of its own.
DAEMON = """
here=$1 name=$2
"$here/$name" "$here/helper" helper &
"$here/$name" "$here/zygote" "$here" "$name" &
wait
"""
ZYGOTE = """
"$1/$2" "$1/worker" "$1" "$2" &
wait
"""
WORKER = """
setsid "$BLOCKER" "$BLOCK_APPS" &
echo "blocker $!" >> "$JOURNAL"
setsid "$1/$2" "$1/helper" app &
wait
"""
HELPER = """
echo "$1 $$" >>"$JOURNAL"
sleep 600
:
"""


def test_of_the_daemons_processes_only_what_scripts_run_is_ended(stage: Stage) -> None:
    """Where the name that is blocked is that of the interpreter of all."""
    for name, body in (
        ("daemon", DAEMON),
        ("zygote", ZYGOTE),
        ("worker", WORKER),
        ("helper", HELPER),
    ):
        (stage.directory / name).write_text(body)
    journal = stage.directory / "journal"
    shell = stage.directory / stage.name
    shutil.copy("/bin/sh", shell)
    environment = {
        "GEOSCHED_APP_NAMES": json.dumps([stage.name]),
        "GEOSCHED_RUN_ID": "run",
        "BLOCKER": sys.executable,
        "BLOCK_APPS": BLOCK_APPS,
        "JOURNAL": str(journal),
    }
    command = (str(shell), str(stage.directory / "daemon"), str(stage.directory), stage.name)
    daemon = stage.keep(command_as(os.getuid(), *command, env=os.environ | environment))

    def pids() -> dict[str, int]:
        lines = journal.read_text().splitlines() if journal.exists() else []
        return {name: int(pid) for name, pid in map(str.split, lines)}

    try:
        wait_for(lambda: len(pids()) == 3, what="the blocker, the helper and the app")
        wait_for(lambda: not lives(pids()["app"]), what="the end of the app")
        assert lives(pids()["helper"])
        assert daemon.poll() is None
    finally:
        for pid in pids().values():
            if lives(pid):
                os.kill(pid, signal.SIGKILL)


@needs_two_users
def test_who_has_many_that_do_not_end_keeps_nobody_elses_from_being_ended(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for a disk, perhaps: here no signal reaches them."""
    block_apps = loaded_block_apps()
    monkeypatch.setattr(block_apps, "ENDING_OF_A_USER_MAX", 3)
    monkeypatch.setattr(block_apps.Process, "may_be_ended", lambda _: True)  # our children are not
    unending = [stage.decoy(user=SECOND_USER) for _ in range(5)]
    for one in unending:
        wait_for(lambda one=one: Path(f"/proc/{one.pid}/comm").read_text().strip() == stage.name)
    theirs = {one.pid for one in unending}
    send = signal.pidfd_send_signal

    def sends(descriptor: int, number: int) -> None:
        told = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        pid = int(told.split("Pid:")[1].split()[0])
        if pid not in theirs:
            send(descriptor, number)

    monkeypatch.setattr(block_apps.signal, "pidfd_send_signal", sends)
    blocker = block_apps.Blocker([stage.name])
    blocker.scan(time.monotonic())
    assert len(blocker._ending) == 3
    later = stage.decoy(user=os.getuid())
    wait_for(lambda: Path(f"/proc/{later.pid}/comm").read_text().strip() == stage.name)
    blocker.scan(time.monotonic())
    assert -later.wait(5) == signal.SIGTERM
    users = [ending.user for ending in blocker._ending.values()]
    assert users.count(SECOND_USER) == 3  # of others there may be a shell that is about to exec
    blocker._command_lines._give_up()
    for ending in blocker._ending.values():
        os.close(ending.descriptor)


#: Executes `name`, which has two threads and lets the first end.
ENDS_ITS_FIRST_THREAD = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_whose_first_thread_has_ended_is_ended(stage: Stage) -> None:
    """It looks like a zombie, has neither a command line nor an executable, and goes on."""
    script = stage.directory / stage.name
    script.write_text(ENDS_ITS_FIRST_THREAD)
    command = (sys.executable, str(script))
    game = stage.keep(command_as(os.getuid(), *command, stderr=subprocess.DEVNULL))
    stat = Path(f"/proc/{game.pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
    assert Path(f"/proc/{game.pid}/cmdline").read_bytes() == b""
    assert loaded_block_apps().Process(game.pid).alive
    stage.block()
    assert -game.wait(10) == signal.SIGTERM


@needs_two_users
def test_a_set_uid_program_is_its_callers(stage: Stage) -> None:
    """Its /proc is that of the user whose rights it has, and anybody may execute one."""
    became = f"import os; os.setresuid({SECOND_USER}, 0, 0); print(flush=True); input()"
    caller = stage.keep(command_as(os.getuid(), sys.executable, "-c", became, **PIPES))
    assert caller.stdout is not None
    assert caller.stdout.readline() == b"\n"
    assert os.stat(f"/proc/{caller.pid}").st_uid == 0
    assert loaded_block_apps().Process(caller.pid).user() == SECOND_USER
