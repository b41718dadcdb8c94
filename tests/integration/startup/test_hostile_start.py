"""Starts among what pretends to be a script of an earlier daemon, and among such scripts."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc.paths import Runtime
from geosched.supervisor.startup import sweep
from geosched.supervisor.startup.mark import KEY_FILE, instance_of, mark_of
from geosched.supervisor.startup.sweep import Leftovers
from geosched.workers.host import procfs
from geosched.workers.host.cgroups import TREE, Containment
from geosched.workers.runfiles.processes import make_directories
from geosched.workers.runfiles.run_lock import (
    NotedScript,
    note_script,
    noted_scripts,
    take_run_lock,
)
from geosched.workers.zygote_client import Given, ZygoteClient
from support.daemon import Daemon, daemon_installation, entry, lives
from support.second_user import SECOND_USER, command_as, needs_two_users
from support.wait import wait_for

WAITS = {"default": {"command": ["/bin/sh", "-c", "sleep 600 & wait"], "stop_grace": "1s"}}
HUGE = {f"X{number:02}": "x" * 120_000 for number in range(12)}


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        installed.configure(scripts=WAITS)
        yield installed


@pytest.fixture
def pretenders() -> Iterator[list["subprocess.Popen[bytes]"]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def pretend(mark: str, user: int, more: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
    marks = {procfs.INSTANCE_VARIABLE: mark, procfs.RUN_ID_VARIABLE: "r"}
    return command_as(user, "/bin/sleep", "600", env=marks | (more or {}))


@needs_two_users
def test_strangers_that_look_like_scripts_hold_no_start_up_and_live_on(
    daemon: Daemon, pretenders: list["subprocess.Popen[bytes]"]
) -> None:
    state = daemon.root / "state"
    daemon.start()
    daemon.terminate()
    marks = (instance_of(state), mark_of(state).text) * 10
    pretenders += [pretend(mark, SECOND_USER, HUGE) for mark in marks]
    begun = time.monotonic()
    daemon.start()
    assert time.monotonic() - begun < sweep.SWEEP_SECONDS_MAX / 2
    assert all(lives(stranger.pid) for stranger in pretenders)
    assert "stuck" not in daemon.log_text()


def test_scripts_of_an_earlier_build_are_ended_by_the_first_start_of_this_one(
    daemon: Daemon, pretenders: list["subprocess.Popen[bytes]"]
) -> None:
    """They carry a mark without a key. Later that is none: anybody can compute it."""
    name = instance_of(daemon.root / "state")
    pretenders.append(pretend(name, os.getuid()))
    daemon.start()
    assert pretenders[0].wait(5) == -signal.SIGKILL
    daemon.terminate()
    pretenders.append(pretend(name, os.getuid()))
    daemon.start()
    assert lives(pretenders[1].pid)


def test_who_may_not_read_a_scripts_environment_does_not_see_its_mark(daemon: Daemon) -> None:
    daemon.send([entry("a", -1, 600)])
    daemon.start()
    shown = daemon.wait_phase("a", "running")
    wait_for(lambda: daemon.left_of("a"))
    environment = Path(f"/proc/{shown['run']['scriptPid']}/environ").read_bytes().split(b"\0")
    mark = mark_of(daemon.root / "state").text
    assert environment[:2] == [
        f"{procfs.INSTANCE_VARIABLE}={mark}".encode(),
        f"{procfs.RUN_ID_VARIABLE}={shown['run']['runId']}".encode(),
    ]
    secret = mark.rpartition("-")[2]
    seen = [Path(f"/proc/{pid}/cmdline") for pid in procfs.process_table()]
    assert not any(secret.encode() in path.read_bytes() for path in seen if path.exists())
    assert secret not in daemon.log_text()
    assert (daemon.root / "state" / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_the_mark_is_in_no_argument_of_the_zygote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even until it has a title: anybody may read arguments."""
    begun: list[object] = []

    def spawned(*given: object, **_: object) -> int:
        begun.extend(given)
        raise OSError("not today")

    monkeypatch.setattr(os, "posix_spawn", spawned)
    with pytest.raises(OSError, match="not today"):
        ZygoteClient(Given(0, str(tmp_path), instance="name", mark="the-secret"))
    assert begun
    assert "the-secret" not in repr(begun)


def test_the_script_of_a_run_is_noted_in_the_file_of_its_lock(daemon: Daemon) -> None:
    daemon.send([entry("a", -1, 600)])
    daemon.start()
    shown = daemon.wait_phase("a", "running")
    run, runtime = shown["run"], Runtime(daemon.root / "run")
    noted = noted_scripts(runtime)[run["runId"]]
    assert noted == NotedScript(procfs.identity(run["scriptPid"]), os.geteuid())
    daemon.ctl("stop", "a")
    daemon.wait_phase("a", "done")
    wait_for(lambda: not noted_scripts(runtime))


@needs_two_users
def test_what_a_run_of_another_user_left_is_found_by_the_note_of_that_user(
    tmp_path: Path,
    pretenders: list["subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The configuration may name that user no more, and no control group may hold it."""
    monkeypatch.setattr(sweep.Containment, "detect", lambda _: Containment(TREE))
    runtime, state = Runtime(tmp_path / "run"), tmp_path / "state"
    runtime.dir.mkdir()
    state.mkdir()
    make_directories(runtime)
    left = pretend(mark_of(state).text, SECOND_USER)
    script = pretend("none", SECOND_USER)
    pretenders += [left, script]

    def swept() -> None:
        leftovers = Leftovers(runtime, mark_of(state), tmp_path)
        leftovers.sweep()
        leftovers.close()
        assert leftovers.alive == frozenset()

    swept()
    assert lives(left.pid)
    assert lives(script.pid)
    known = procfs.identity(script.pid)
    assert known is not None
    lock = take_run_lock(runtime, "r")
    note_script(lock, NotedScript(known, SECOND_USER))
    os.close(lock)  # as when its worker is killed
    swept()
    assert left.wait(5) == script.wait(5) == -signal.SIGKILL
    assert list(runtime.runs.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 4096, b'{"process":1,"user":-1}'])
def test_a_lock_file_without_a_note_is_none(tmp_path: Path, content: bytes) -> None:
    runtime = Runtime(tmp_path)
    runtime.runs.mkdir()
    (runtime.runs / "r").write_bytes(content)
    assert noted_scripts(runtime) == {}


def test_a_note_of_an_earlier_boot_is_none(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path)
    runtime.runs.mkdir()
    lock = take_run_lock(runtime, "r")
    note_script(lock, NotedScript(procfs.Identity("another-boot", os.getpid(), 1), 0))
    os.close(lock)
    assert noted_scripts(runtime) == {}
