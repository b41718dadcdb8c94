"""The daemon does its work however careless its starter, or its peers, are."""

import os
import signal
import socket
from collections.abc import Iterator

import pytest
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for

NOT_UTF8 = "caf\udce9"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as made:
        made.configure(scripts={"default": {"command": ["/bin/true"]}})
        yield made


def answers(daemon: Daemon) -> bool:
    return daemon.ctl("ping").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_signals_that_its_starter_had_blocked_are_heard(daemon: Daemon, number: signal.Signals):
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        daemon.start(wait=False)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    wait_for(lambda: answers(daemon), seconds=15)
    assert daemon.process is not None
    daemon.process.send_signal(number)
    if number is signal.SIGTERM:
        assert daemon.process.wait(10) == 0
    else:
        daemon.wait_log("Reloaded")


def test_half_an_identity_of_a_killed_process_goes_with_the_next_start(daemon: Daemon):
    daemon.start()
    half = daemon.root / "run" / "processes" / "999999.tmp"
    half.write_text("x")
    daemon.terminate()
    daemon.start()
    assert not half.exists()


@pytest.mark.parametrize("name", ["PATH", "HOME", "TZ"])
def test_a_variable_that_is_no_utf8_is_kept_from_scripts_and_told(daemon: Daemon, name: str):
    value = f"{os.environ['PATH']}:/{NOT_UTF8}" if name == "PATH" else NOT_UTF8
    daemon.start(env={name: value})
    daemon.send([entry("a", -1, 60)])
    daemon.json("sync")
    daemon.wait_phase("a", "done", seconds=10)
    assert daemon.json("show", "a")["action"]["executionStatus"] == "FINISHED"
    daemon.wait_log(f"the variable '{name}'")


def test_a_peer_that_speaks_an_old_zmtp_is_refused_and_everybody_else_is_served(daemon: Daemon):
    daemon.start()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(daemon.root / "run" / "control.sock"))
        peer.sendall(b"\x05\x00abcd" + b"\x03\x00xy")  # an anonymous greeting of ZMTP 1, a frame
        daemon.wait_log("ZMTP")
    assert answers(daemon)


def test_the_group_of_the_runtime_directory_may_connect(daemon: Daemon):
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory to a group it is not in")
    run = daemon.root / "run"
    run.mkdir(mode=0o750, exist_ok=True)
    os.chown(run, -1, 65534)
    daemon.start()
    assert (run / "control.sock").stat().st_gid == 65534
    assert (run / "workers.sock").stat().st_mode & 0o077 == 0


def test_a_link_in_the_place_of_output_is_not_followed(daemon: Daemon):
    daemon.start()
    daemon.send([entry("a", -1, 60)])
    daemon.json("sync")
    daemon.wait_phase("a", "done", seconds=10)
    secret = daemon.root / "secret"
    secret.write_text("root only\n")
    run_id = daemon.json("show", "a")["action"]["run"]["runId"]
    output = daemon.root / "log" / f"{run_id}.log"
    output.unlink()
    output.symlink_to(secret)
    said = daemon.ctl("logs", "a")
    assert said.returncode == 1
    assert "root only" not in said.stdout


@pytest.mark.parametrize("verb", ["ping", "db"])
def test_a_configuration_that_is_a_fifo_or_nested_too_deep_is_an_error(daemon: Daemon, verb: str):
    words = ("db", "stats") if verb == "db" else ("ping",)
    daemon.config.unlink()
    os.mkfifo(daemon.config)
    said = daemon.ctl(*words, timeout=10)
    assert (said.returncode, "not a regular file" in said.stderr) == (2, True)
    daemon.config.unlink()
    daemon.config.write_text("x = " + "[" * 3000 + "]" * 3000)
    said = daemon.ctl(*words)
    assert (said.returncode, "nested too deep" in said.stderr) == (2, True)


@pytest.mark.parametrize("usec", ["1", "0", "-1", "soon", str(2**64)])
def test_an_absurd_watchdog_of_the_service_manager_is_told_and_keeps_nobody_from_work(
    daemon: Daemon, usec: str
):
    daemon.start(env={"WATCHDOG_USEC": usec})
    daemon.wait_log("WATCHDOG_USEC")
    assert daemon.terminate() == 0
