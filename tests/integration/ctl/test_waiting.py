"""`geosched-ctl sync`, `stop` and `shutdown`: verbs that wait for what they ask for."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest
from geosched.ipc.messages import control, views
from geosched.ipc.messages.control import Answer, Request
from support.ctl import CannedDaemon, action, answering, ctl_at, started
from support.wait import wait_for


def test_sync_waits_for_longer_than_a_silence_once_it_is_accepted(place, daemon) -> None:
    def slow(_: Request) -> list[Answer]:
        return [control.Accepted(20.0)]

    running = daemon(slow)
    asking = started(place, "-o", "json", "sync")
    wait_for(lambda: running.seen)
    with pytest.raises(subprocess.TimeoutExpired):
        asking.wait(6)
    asking.send_signal(signal.SIGINT)
    asking.communicate(timeout=10)
    assert asking.returncode == 130


def test_sync_prints_what_it_did(place, daemon) -> None:
    daemon(answering(control.Accepted(9.0), control.Synced(views.SyncView(added=3))))
    document = json.loads(ctl_at(place, "-o", "json", "sync").stdout)
    assert (document["schemaVersion"], document["added"], document["reported"]) == (1, 3, 0)


def test_a_sync_that_failed_prints_counts_and_the_reason_and_fails(place, daemon) -> None:
    daemon(answering(control.Synced(views.SyncView(reported=2), "cannot pull: refused")))
    result = ctl_at(place, "-o", "json", "sync")
    assert result.returncode == 1
    assert json.loads(result.stdout)["reported"] == 2
    assert result.stderr == "geosched-ctl: cannot pull: refused\n"


def test_sync_without_waiting_only_asks(place, daemon) -> None:
    asked = daemon(answering(control.Synced(views.SyncView())))
    assert "asked for" in ctl_at(place, "sync", "--no-wait").stdout
    assert json.loads(ctl_at(place, "-o", "json", "sync", "--no-wait").stdout)["added"] == 0
    assert set(asked.seen) == {control.Sync(wait=False)}


def test_what_was_accepted_and_is_not_done_in_its_bound_is_exit_8(place, daemon) -> None:
    daemon(answering(control.Accepted(0.3)))
    result = ctl_at(place, "stop", "a")
    assert (result.returncode, result.stdout) == (8, "")
    assert "not done within 0.3 s" in result.stderr


def test_a_timeout_replaces_the_bound_of_what_was_accepted(place, daemon) -> None:
    daemon(answering(control.Accepted(60.0)))
    assert ctl_at(place, "--timeout", "0.5", "stop", "a").returncode == 8


def on_a_terminal(place: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of the command where that is a terminal."""
    ours, theirs = pty.openpty()
    with started(place, *arguments, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # so a terminal ends whose other side was closed
                break
        os.close(ours)
        process.communicate(timeout=20)
    return process.returncode, seen.decode()


PROGRESS = [
    control.Accepted(9.0), control.Progress(200, 9000), control.Progress(9000, 9000),
    control.Synced(views.SyncView(added=9000)),
]  # fmt: skip


def test_a_terminal_sees_how_a_sync_goes_and_nothing_of_it_is_left(place, daemon) -> None:
    running = daemon(answering(*PROGRESS))
    code, seen = on_a_terminal(place, "sync")
    assert code == 0
    assert "200 of 9000" in seen
    assert seen.endswith("\r" + " " * len("9000 of 9000") + "\r")
    assert running.seen == [control.Sync(progress=True)]


def test_a_pipe_sees_nothing_of_how_a_sync_goes(place, daemon) -> None:
    running = daemon(answering(*PROGRESS))
    done = ctl_at(place, "-o", "json", "sync")
    assert (done.returncode, done.stderr) == (0, "")
    assert running.seen == [control.Sync()]


def test_stop_prints_the_action_as_it_is_then(place, daemon) -> None:
    daemon(answering(control.Accepted(9.0), control.Stopped(action("a"))))
    document = json.loads(ctl_at(place, "-o", "json", "stop", "a").stdout)
    assert document["action"]["id"] == "a"


def test_shutdown_returns_when_the_process_is_gone(place, daemon) -> None:
    leaving = subprocess.Popen(["sleep", "60"])
    try:
        asked = daemon(answering(control.ShuttingDown(leaving.pid, 30.0)))
        asking = started(place, "-o", "json", "shutdown")
        wait_for(lambda: asked.seen)
        with pytest.raises(subprocess.TimeoutExpired):
            asking.wait(0.5)
    finally:
        leaving.kill()
        leaving.wait(10)
    output, _ = asking.communicate(timeout=10)
    assert asking.returncode == 0
    assert json.loads(output) == {"schemaVersion": 1, "pid": leaving.pid, "gone": True}


@pytest.mark.parametrize(("arguments", "bound"), [((), 0.3), (("--timeout", "0.5"), 60.0)])
def test_a_daemon_that_does_not_leave_in_time_is_exit_8(place, daemon, arguments, bound) -> None:
    daemon(answering(control.ShuttingDown(os.getpid(), bound)))
    assert ctl_at(place, *arguments, "shutdown").returncode == 8


def test_shutdown_of_a_daemon_that_is_gone_at_once_is_done(place) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait(10)
    brief = CannedDaemon(place / "control.sock", answering(control.ShuttingDown(gone.pid, 20.0)))
    try:
        asking = started(place, "shutdown")
        wait_for(lambda: brief.seen)
    finally:
        brief.close()
    asking.communicate(timeout=10)
    assert asking.returncode == 0
