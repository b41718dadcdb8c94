"""Disks that hang: of log_dir, of the configuration. Output is lost, and nothing else waits."""

import signal
import time
from collections.abc import Iterator

import pytest
from geosched.ipc.client import Client, RefusedError
from geosched.ipc.messages.control import LogChunk, Ping, Pong, ReadLog
from geosched.ipc.paths import Runtime, control_socket
from support.daemon import Daemon, daemon_installation, entry, lives
from support.hanging_disk import hanging
from support.wait import wait_for


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        script = installed.script("talks", "while :; do echo word; sleep 0.2; done")
        installed.configure(scripts={"default": {"command": [script], "stop_grace": "1s"}})
        yield installed


def log_dir(daemon: Daemon):
    return daemon.root / "log"


def quick(daemon: Daemon) -> bool:
    """It answers others meanwhile."""
    began = time.monotonic()
    return daemon.asked(Ping(), Pong) is not None and time.monotonic() - began < 1.0


def test_logs_is_refused_with_the_reason_and_everybody_else_is_served(daemon: Daemon):
    daemon.start()
    daemon.send([entry("a", 0, 60)])
    daemon.wait_phase("a", "running")
    with hanging(log_dir(daemon)), Client(control_socket(daemon.config)) as client:
        for _ in range(5):  # more than there are helpers
            began = time.monotonic()
            daemon.send([entry("a", 0, 60), entry("b", 0.5, 2)])
            with pytest.raises(RefusedError, match="log_dir"):
                client.ask(ReadLog("a"), LogChunk)
            assert time.monotonic() - began < 5.0
            assert quick(daemon)
        assert daemon.wait_status("b", "FINISHED")
    wait_for(lambda: daemon.ctl("logs", "a").returncode == 0)
    assert daemon.terminate() == 0


def test_a_run_ends_in_time_though_its_output_cannot_be_written(daemon: Daemon):
    """Its worker can be held by the disk even after its end; the daemon leaves all the same."""
    daemon.start()
    with hanging(log_dir(daemon)):
        daemon.send([entry("a", 0.5, 3)])
        shown = daemon.wait_phase("a", "running")
        daemon.wait_status("a", "FINISHED", seconds=3 + 1 + 2 + 4)
        assert not lives(shown["run"]["scriptPid"])
        assert quick(daemon)
        began = time.monotonic()
        assert daemon.terminate() == 0
        assert time.monotonic() - began < 8.0


def test_a_daemon_starts_on_a_log_dir_that_hangs(daemon: Daemon):
    log_dir(daemon).mkdir()
    with hanging(log_dir(daemon)):
        daemon.start()
        daemon.send([entry("a", 0.2, 60)])
        daemon.wait_phase("a", "running")
        assert daemon.terminate() == 0


def test_a_reload_from_a_disk_that_hangs_holds_up_nothing(daemon: Daemon):
    place = daemon.root / "etc"
    place.mkdir()
    moved = place / "geosched.toml"
    daemon.config.rename(moved)
    daemon.config.symlink_to(moved)
    daemon.start()
    assert daemon.process is not None
    with hanging(place):
        daemon.process.send_signal(signal.SIGHUP)
        daemon.send([entry("a", 0.5, 2)])
        time.sleep(3)
        with Client(Runtime(daemon.root / "run").control_socket) as client:
            for _ in range(5):
                began = time.monotonic()
                client.ask(Ping(), Pong)
                assert time.monotonic() - began < 1.0
    assert daemon.wait_status("a", "FINISHED")
    daemon.wait_log("Not reloaded")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_log("Reloaded")
    assert daemon.terminate() == 0
