"""Standard error that nobody reads: messages are lost and counted, and nothing waits for it."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

import pytest
from geosched.ipc.client import Client, RefusedError
from geosched.ipc.messages.control import Ping, Pong, StopAction, Stopped
from geosched.ipc.paths import control_socket
from geosched.workers.host import procfs
from support.daemon import Daemon, commands, daemon_installation, entry, lives
from support.mounts import ext4, frozen, mounted
from support.wait import wait_for

#: A daemon leaves within this time, whoever reads its log.
LEAVES_SECONDS_MAX = 10.0
Pipe: TypeAlias = tuple[IO[bytes], IO[bytes]]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        installed.configure(scripts={"default": {"command": ["sh", "-c", "sleep 60"]}})
        yield installed


def start(daemon: Daemon, stderr: int | IO[bytes], *arguments: str) -> subprocess.Popen[bytes]:
    daemon.process = subprocess.Popen(
        [commands() / "geoschedd", "--config", daemon.config, *arguments],
        stderr=stderr,
        stdin=subprocess.DEVNULL,
    )
    return daemon.process


def answers(daemon: Daemon) -> bool:
    return daemon.asked(Ping(), Pong) is not None


def fill(pipe: int) -> None:
    """Until nothing more fits."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 512)
    os.set_blocking(pipe, True)


@pytest.fixture
def full_pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    fill(writer)
    with open(reader, "rb", buffering=0) as read, open(writer, "wb", buffering=0) as written:
        yield read, written


def keeps_its_windows(daemon: Daemon) -> None:
    """Two actions begin, one ends at its instant, and with it its script."""
    daemon.send([entry("short", 0.5, 2.5), entry("long", 0.5, 60)])
    daemon.wait_phase("short", "running")
    run = daemon.action("short")
    assert run is not None
    daemon.wait_status("short", "FINISHED", seconds=10)
    assert not lives(run["run"]["scriptPid"])
    daemon.wait_phase("long", "running")


def test_a_daemon_starts_and_keeps_its_windows_though_nobody_reads_its_full_pipe(
    daemon: Daemon, full_pipe: Pipe
):
    process = start(daemon, full_pipe[1])
    wait_for(lambda: answers(daemon), seconds=15)
    keeps_its_windows(daemon)
    assert os.get_blocking(
        full_pipe[1].fileno()
    )  # the description is shared with whoever gave it to us
    began = time.monotonic()
    assert daemon.terminate() == 0
    assert time.monotonic() - began < LEAVES_SECONDS_MAX
    assert process.returncode == 0


def test_a_terminal_that_is_held_by_ctrl_s_holds_up_nothing(daemon: Daemon):
    master, slave = pty.openpty()
    start(daemon, slave)
    wait_for(lambda: answers(daemon), seconds=15)
    termios.tcflow(slave, termios.TCOOFF)
    keeps_its_windows(daemon)
    termios.tcflow(slave, termios.TCOON)
    heard: list[bytes] = []
    wait_for(lambda: heard.append(os.read(master, 65536)) or b"Action short" in b"".join(heard))
    assert daemon.terminate() == 0
    os.close(slave)
    os.close(master)


def test_a_log_file_on_a_disk_that_hangs_holds_up_nothing_not_even_the_end(
    daemon: Daemon, tmp_path: Path
):
    """poll(2) calls such a file ready, and no signal ends the write. The next daemon can start."""
    disk = tmp_path / "disk"
    with mounted(disk, "-o", "loop", ext4(tmp_path / "image", 16 * 1024**2)):
        log = os.open(disk / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        start(daemon, log)
        wait_for(lambda: answers(daemon), seconds=15)
        with frozen(disk):
            keeps_its_windows(daemon)
            began = time.monotonic()
            assert daemon.terminate() == 0
            assert time.monotonic() - began < LEAVES_SECONDS_MAX
            start(daemon, subprocess.DEVNULL)
            wait_for(lambda: answers(daemon), seconds=15)
            assert daemon.terminate() == 0
        os.close(log)


def test_what_was_lost_is_counted_and_told_once_somebody_reads(daemon: Daemon, full_pipe: Pipe):
    """Though the daemon has nothing else to say then."""
    reader, writer = full_pipe
    start(daemon, writer, "--log-format", "json")
    writer.close()
    wait_for(lambda: answers(daemon), seconds=15)
    cause_records(daemon, 800)
    with reading(reader) as heard:
        told = wait_for(lambda: [each for each in records(heard) if "records" in each])
        assert told[0]["event"] == "log-records-lost"
        said = [each for each in records(heard) if each.get("event") == "asked"]
        others = len(said) + told[0]["records"] - 800
        assert 0 <= others <= 5  # of the start, and of pulls
        assert daemon.terminate() == 0
        wait_for(lambda: records(heard)[-1].get("event") == "stopped")


def cause_records(daemon: Daemon, count: int) -> None:
    """Each request of somebody who may act is a record."""
    with Client(control_socket(daemon.config)) as client:
        for _ in range(count):
            with contextlib.suppress(RefusedError):
                client.ask(StopAction("nobody"), Stopped)


@contextmanager
def reading(reader: IO[bytes]) -> Iterator[list[bytes]]:
    heard: list[bytes] = []

    def read() -> None:
        while data := reader.read(65536):
            heard.append(data)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    yield heard
    thread.join(10)
    assert not thread.is_alive(), "somebody still holds standard error"


def records(heard: list[bytes]) -> list[dict[str, Any]]:
    text = b"".join(heard).decode()
    text = text[text.find("{") :]
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.parametrize("read", [True, False])
def test_the_exit_code_of_a_failed_start_survives_and_its_words_where_they_are_read(
    daemon: Daemon, full_pipe: Pipe, read: bool
):
    reader, writer = full_pipe
    daemon.config.write_text("[daemon]\nno_such_key = 1\n")
    process = start(daemon, writer)
    writer.close()
    if not read:
        assert process.wait(LEAVES_SECONDS_MAX) == 2
        return
    with reading(reader) as heard:
        assert process.wait(LEAVES_SECONDS_MAX) == 2
    assert b"no_such_key" in b"".join(heard)


def test_a_relay_that_was_killed_is_forked_again_and_costs_no_record(daemon: Daemon):
    daemon.start("--log-format", "json")
    for number in range(3):
        os.kill(relay_of(daemon), signal.SIGKILL)
        cause_records(daemon, 100)
        wait_for(lambda n=number: daemon.stderr.read_text().count('"asked"') == 100 * (n + 1))
    assert daemon.terminate() == 0


def relay_of(daemon: Daemon) -> int:
    assert daemon.process is not None
    return wait_for(lambda: relays_below(daemon.process.pid))[0]


def relays_below(pid: int) -> list[int]:
    titles = {below: Path(f"/proc/{below}/cmdline").read_bytes() for below in procfs.below(pid)}
    return [pid for pid, title in titles.items() if title.startswith(b"geosched: log")]


def test_nothing_stays_of_a_daemon_that_was_killed_while_nobody_read(
    daemon: Daemon, full_pipe: Pipe
):
    process = start(daemon, full_pipe[1])
    wait_for(lambda: answers(daemon), seconds=15)
    relay = relay_of(daemon)
    process.kill()
    process.wait(10)
    wait_for(lambda: not lives(relay), seconds=20)


def test_the_last_words_of_a_daemon_that_dies_are_kept(daemon: Daemon):
    """Of its libraries, too, which write to standard error themselves and abort."""
    daemon.start()
    relay = relay_of(daemon)
    os.kill(relay, signal.SIGSTOP)
    cause_records(daemon, 20)
    daemon.kill()
    os.kill(relay, signal.SIGCONT)
    wait_for(lambda: daemon.stderr.read_text().count("Asked by uid") == 20)
