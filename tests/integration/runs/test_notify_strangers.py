"""Notifications of a script among users who wish it ill, and among cleaners of directories."""

import os
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.paths import ENDPOINT_PATH_BYTES_MAX
from support.daemon import Daemon, entry, installation_for_everybody, lives
from support.processes import zygote
from support.second_user import SECOND_USER, as_user
from support.wait import wait_for

LONG = 3600
WATCHDOG_SECONDS = 1.5
#: Feeds its watchdog by a new socket each time, and waits for room in the queue.
FEEDS = """#!/usr/bin/env python3
import os, socket, time
fed = 0
while True:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.settimeout(0.1)
        try:
            told.sendto(f"WATCHDOG=1\\nSTATUS=fed {fed}".encode(), os.environ["NOTIFY_SOCKET"])
        except OSError as error:
            print(error, flush=True)
    fed += 1
    time.sleep(0.1)
"""
#: Keeps the queue of a socket full for a while, a hundred at a time; says what came of it.
FLOODS = """
import socket, sys, threading, time
become()
until = time.monotonic() + float(sys.argv[2])
said = set()
def flood():
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.settimeout(1)
    while time.monotonic() < until:
        try:
            sender.sendto(b"WATCHDOG=0", sys.argv[1])
            said.add("sent")
        except TimeoutError:
            pass
        except OSError as error:
            said.add(type(error).__name__)
            time.sleep(0.1)
floods = [threading.Thread(target=flood) for _ in range(100)]
for each in floods:
    each.start()
for each in floods:
    each.join()
print(*sorted(said), flush=True)
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with installation_for_everybody() as installed:
        yield installed


def feeding(daemon: Daemon, user: str, **settings: Any) -> None:
    """A daemon whose script feeds its watchdog, and has begun to."""
    program = daemon.root / "feeds"
    program.write_text(FEEDS)
    program.chmod(0o755)
    script = {"command": [str(program)], "user": user, "watchdog": f"{WATCHDOG_SECONDS}s"}
    script |= {"stop_grace": "100ms", "heartbeat_timeout": "1s"}
    daemon.configure(scripts={"default": script}, **settings)
    daemon.send([entry("a", -1, LONG)])
    daemon.start()
    wait_for(lambda: fed(daemon) > 0, what="notifications of the script")


def fed(daemon: Daemon) -> int:
    """How often the script has fed its watchdog, as it says by the same socket."""
    shown = daemon.action("a")
    text = shown["run"]["statusText"] if shown and shown["run"] else ""
    return int(text.removeprefix("fed ")) if text else 0


def goes_on(daemon: Daemon) -> None:
    """The run is fed for much longer than its watchdog, and is the first one."""
    before = fed(daemon)
    time.sleep(2 * WATCHDOG_SECONDS)  # the time in which it would be called silent
    wait_for(lambda: fed(daemon) > before + 10, what="more notifications")
    shown = daemon.action("a")
    assert shown is not None
    assert (shown["phase"], shown["attempt"]) == ("running", 1)


def sockets(daemon: Daemon) -> list[Path]:
    return sorted((daemon.root / "run" / "sd").iterdir())


@pytest.mark.parametrize("user", ["", "nobody"])
def test_a_stranger_cannot_starve_a_watchdog(daemon: Daemon, user: str):
    feeding(daemon, user)
    (path,) = sockets(daemon)
    with as_user(SECOND_USER, FLOODS, path, str(2 * WATCHDOG_SECONDS)) as stranger:
        goes_on(daemon)
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "PermissionError\n"
    assert daemon.ctl("logs", "a").stdout == ""


def test_nobody_else_opens_or_lists_anything_in_the_runtime_directory(daemon: Daemon):
    feeding(daemon, "nobody")
    run = daemon.root / "run"
    assert stat.S_IMODE(run.stat().st_mode) == 0o751  # a script of another user gets through
    (path,) = sockets(daemon)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    code = """
import os, socket, sys
become()
def opened():
    for place in sys.argv[1:]:
        for act in (os.listdir, lambda path: os.open(path, os.O_RDONLY), connected, told):
            try:
                act(place)
                yield place
            except OSError:
                pass
def connected(place):
    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect(place)
def told(place):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"", place)
print([*opened()], flush=True)
"""
    places = [run, *run.rglob("*")]
    assert {"control.sock", "daemondb.lock", "lock", "sd"} <= {place.name for place in places}
    with as_user(SECOND_USER, code, *places) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "[]\n"


def test_a_socket_goes_with_its_run_or_with_its_worker_or_at_the_next_start(daemon: Daemon):
    feeding(daemon, "nobody")
    assert daemon.ctl("stop", "a").returncode == 0
    wait_for(lambda: not sockets(daemon), what="no socket after the run")
    daemon.send([entry("b", -1, LONG)])
    worker = daemon.wait_phase("b", "running")["run"]["workerPid"]
    assert [path.name for path in sockets(daemon)] == [str(worker)]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not sockets(daemon), what="no socket of a worker that was killed")
    daemon.send([entry("c", -1, LONG)])
    worker = daemon.wait_phase("c", "running")["run"]["workerPid"]
    # None of those that could remove it is spared: only the next start is left.
    first = zygote(daemon)
    assert daemon.process is not None
    for pid in (daemon.process.pid, first):
        os.kill(pid, signal.SIGSTOP)
    for pid in (worker, first):
        os.kill(pid, signal.SIGKILL)
    daemon.kill()
    wait_for(lambda: not lives(worker))
    (daemon.root / "run" / "sd" / "4711").touch()  # of one whose identity was lost, too
    (daemon.root / "run" / "processes" / str(worker)).unlink()
    assert len(sockets(daemon)) == 2
    daemon.start()
    again = daemon.wait_phase("c", "running")["run"]["workerPid"]
    assert [path.name for path in sockets(daemon)] == [str(again)]


@pytest.mark.parametrize("removed", ["the file", "the folder", "the runtime directory"])
def test_a_socket_that_is_removed_is_made_anew_before_silence_counts(daemon: Daemon, removed: str):
    feeding(daemon, "nobody")
    (path,) = sockets(daemon)
    match removed:
        case "the file":
            path.unlink()
        case "the folder":
            shutil.rmtree(path.parent)
        case _:
            shutil.rmtree(path.parent.parent)
    wait_for(path.exists, what="another socket of that name")
    goes_on(daemon)
    wait_for(lambda: "removed by others" in daemon.log_text())


def test_what_is_in_the_place_of_a_socket_is_not_written_to(daemon: Daemon):
    """A folder of sockets that others can write is not used: they could have put a link there."""
    feeding(daemon, "nobody")
    folder = daemon.root / "run" / "sd"
    os.chown(folder, SECOND_USER, -1)
    daemon.send([entry("b", -1, LONG)])
    failed = daemon.wait_status("b", "FAILED")
    assert failed["reason"] == "cannot-start"
    assert f"others than its own user can write {folder}" in failed["detail"]


def test_the_longest_runtime_directory_has_room_for_the_socket(daemon: Daemon):
    room = ENDPOINT_PATH_BYTES_MAX - len("/control.sock") - len(f"{daemon.root}/")
    place = daemon.root / ("r" * room)
    assert len(os.fsencode(place)) == 94
    feeding(daemon, "nobody", runtime_dir=str(place))
    goes_on(daemon)


@pytest.fixture
def hidden(daemon: Daemon) -> Path:
    """A runtime directory that no other user can get to."""
    private = daemon.root / "private"
    private.mkdir(mode=0o700)
    return private / "run"


def test_a_script_that_cannot_notify_is_not_called_silent(daemon: Daemon, hidden: Path):
    command = {"command": [daemon.script("s", "note began; sleep 600")], "user": "nobody"}
    watched = command | {"watchdog": "1s"}
    daemon.configure(scripts={"default": command, "watched": watched}, runtime_dir=str(hidden))
    daemon.send([entry("a", -1, LONG), entry("b", -1, LONG, type="watched")])
    daemon.start()
    daemon.wait_phase("a", "running")
    failed = daemon.wait_status("b", "FAILED")
    assert failed["reason"] == "cannot-start"
    assert f"its user cannot enter {hidden / 'sd'}" in failed["detail"]
    assert not daemon.notes("began", "b")
    assert daemon.terminate() == 0
    daemon.stderr.write_text("")
    daemon.start("--check", wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(20) == 2
    assert "scripts.watched.watchdog: its user cannot enter" in daemon.log_text()
    assert "scripts.default" not in daemon.log_text()


def test_what_a_script_sends_faster_than_it_is_read_waits_and_is_not_lost(daemon: Daemon):
    flood = "#!/usr/bin/env python3\nimport os, socket\n"
    flood += "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    flood += "s.connect(os.environ['NOTIFY_SOCKET'])\n"
    flood += "for n in range(20_000): s.send(b'WATCHDOG=1\\nSTATUS=%d' % n)\n"
    path = daemon.root / "flood.py"
    path.write_text(flood)
    path.chmod(0o755)
    script = {"command": [str(path)], "user": "nobody", "watchdog": "2s"}
    daemon.configure(scripts={"default": script})
    daemon.send([entry("a", -1, LONG)])
    daemon.start()
    finished = daemon.wait_status("a", "FINISHED", seconds=40)
    assert finished["run"]["statusText"] == "19999"
