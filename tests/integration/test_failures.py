"""What becomes of actions when processes of the daemon die, stop or fall silent."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon, daemon_installation, entry, lives
from support.wait import wait_for

LONG = 3600


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        notify = installed.root / "notify.py"
        notify.write_text(
            "import os, socket, sys\n"
            "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "s.sendto(sys.argv[1].encode(), '\\0' + os.environ['NOTIFY_SOCKET'][1:])\n"
        )
        says = f"python3 {notify} 'READY=1\nSTATUS=three of four'\nsleep 600"
        installed.configure(
            scripts={
                "default": {
                    "command": [installed.script("s", "note began\nsleep 600 & wait $!")],
                    "stop_grace": "1s",
                    "heartbeat_timeout": "1s",
                },
                "watched": {
                    "command": [installed.script("w", "note began\nsleep 600 & wait $!")],
                    "stop_grace": "1s",
                    "watchdog": "500ms",
                },
                "says": {"command": [installed.script("says", says)]},
                "loud": {
                    "command": [installed.script("loud", "seq 1 100000; echo the end")],
                    "output_max": "8KiB",
                },
            }
        )
        yield installed


def running(daemon: Daemon, action_id: str = "a", **changes: str) -> dict:
    daemon.send([entry(action_id, -1, LONG, **changes)])
    daemon.start()
    return daemon.wait_phase(action_id, "running")["run"]


def zygote(daemon: Daemon) -> int:
    assert daemon.process is not None
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text()
    names = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children.split()}
    return next(pid for pid, name in names.items() if b"zygote" in name)


def test_a_killed_worker_takes_its_script_along_and_the_action_has_failed(daemon: Daemon):
    run = running(daemon)
    os.kill(run["workerPid"], signal.SIGKILL)
    assert daemon.wait_status("a", "FAILED")["reason"] == "worker-lost"
    assert not lives(run["scriptPid"])
    assert not daemon.left_of("a")


def test_a_silent_worker_is_ended_with_its_tree_and_the_action_has_failed(daemon: Daemon):
    run = running(daemon)
    os.kill(run["workerPid"], signal.SIGSTOP)
    assert daemon.wait_status("a", "FAILED")["reason"] == "worker-silent"
    assert not lives(run["workerPid"])
    assert not daemon.left_of("a")


def test_a_killed_script_has_failed_by_its_signal(daemon: Daemon):
    run = running(daemon)
    os.kill(run["scriptPid"], signal.SIGKILL)
    failed = daemon.wait_status("a", "FAILED")
    assert (failed["reason"], failed["run"]["signal"]) == ("signal", "SIGKILL")


def test_a_script_that_stops_feeding_its_watchdog_is_ended_and_has_failed(daemon: Daemon):
    running(daemon, type="watched")
    assert daemon.wait_status("a", "FAILED")["reason"] == "watchdog"
    assert not daemon.left_of("a")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_without_its_zygote_the_daemon_goes_on_with_another(daemon: Daemon, how: signal.Signals):
    run = running(daemon)
    old = zygote(daemon)
    os.kill(old, how)
    daemon.send([entry("a", -1, LONG), *(entry(f"b{n}", -1, LONG) for n in range(3))])
    for n in range(3):
        daemon.wait_phase(f"b{n}", "running", seconds=20)
    wait_for(lambda: not lives(old))
    assert daemon.action("a")["run"]["scriptPid"] == run["scriptPid"]
    assert lives(run["scriptPid"])
    assert daemon.ctl("stop", "a").returncode == 0


def test_a_stopped_synchroniser_is_replaced_when_its_time_is_over(daemon: Daemon):
    text = daemon.config.read_text().replace("[backend]", '[backend]\ntimeout = "300ms"')
    daemon.config.write_text(text)
    running(daemon)
    children = Path(f"/proc/{zygote(daemon)}/task/{zygote(daemon)}/children")

    def synchronisers() -> list[int]:
        pids = [int(pid) for pid in children.read_text().split()]
        return [p for p in pids if b"synchroniser" in Path(f"/proc/{p}/cmdline").read_bytes()]

    (old,) = wait_for(synchronisers)
    os.kill(old, signal.SIGSTOP)
    # One look: the next pull succeeds a moment later, and its error is gone.
    failed = wait_for(
        lambda: (told := daemon.json("status")["backend"])["lastPullOk"] is False and told
    )
    assert "timeout" in failed["lastError"]
    wait_for(lambda: daemon.json("status")["backend"]["lastPullOk"] is True)
    assert not lives(old)


def test_a_host_that_was_suspended_loses_no_healthy_run(daemon: Daemon):
    """Everything is stopped for longer than any limit, and continued (law 16)."""
    run = running(daemon)
    assert daemon.process is not None
    everybody = [daemon.process.pid, zygote(daemon), run["workerPid"], run["scriptPid"]]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    begun = os.times().elapsed
    wait_for(lambda: os.times().elapsed > begun + 3.0, what="three seconds of suspension")
    for pid in everybody:
        os.kill(pid, signal.SIGCONT)
    before = daemon.action("a")["run"]["lastHeartbeatAt"]
    wait_for(
        lambda: daemon.action("a")["run"]["lastHeartbeatAt"] != before,
        what=f"another beat: {daemon.action('a')} {daemon.log_text()}",
    )
    assert daemon.action("a")["phase"] == "running"
    assert daemon.action("a")["run"]["scriptPid"] == run["scriptPid"]


def test_what_a_script_says_of_itself_is_shown(daemon: Daemon):
    running(daemon, type="says")
    wait_for(lambda: daemon.action("a")["run"]["statusText"] == "three of four")


def test_of_long_output_the_head_and_the_tail_are_kept_and_the_cut_is_marked(daemon: Daemon):
    daemon.send([entry("a", -1, LONG, type="loud")])
    daemon.start()
    daemon.wait_status("a", "FINISHED")
    lines = daemon.ctl("logs", "a").stdout.splitlines()
    assert lines[0] == "1"
    assert lines[-1] == "the end"
    assert any(line.startswith("[geosched: ") and "bytes cut" in line for line in lines)
    assert sum(len(line) + 1 for line in lines) <= 8 * 1024
    assert daemon.ctl("logs", "a", "-n", "2").stdout.splitlines() == ["100000", "the end"]
