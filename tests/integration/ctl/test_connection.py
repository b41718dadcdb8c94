"""Which daemon `geosched-ctl` asks, and what it says of one that cannot be asked."""

import json
import os
import socket
import subprocess
import time

import pytest
from geosched.ipc.messages.control import Answer, Request
from support.ctl import COMMAND, PONG, answering, ctl, ctl_at, environment, started

NOBODY = 65534


# --- which daemon --------------------------------------------------------------------------


def test_the_socket_may_be_a_path_or_an_endpoint_or_in_the_environment(place, daemon) -> None:
    daemon(answering(PONG))
    path = str(place / "control.sock")
    expected = {"schemaVersion": 1, "pong": True, "pid": 4711, "version": "0.1.0"}
    for result in (
        ctl("--socket", path, "-o", "json", "ping"),
        ctl("--socket", f"ipc://{path}", "-o", "json", "ping"),
        ctl("-o", "json", "ping", GEOSCHED_SOCKET=path),
        ctl("--socket", path, "-o", "json", "ping", GEOSCHED_SOCKET="/nowhere"),
        ctl("ping", "-o", "json", "--socket", path, GEOSCHED_SOCKET="/nowhere"),
    ):
        assert (result.returncode, json.loads(result.stdout)) == (0, expected), result


def test_the_configuration_says_where_the_socket_is(place, daemon) -> None:
    daemon(answering(PONG))
    config = place / "geosched.toml"
    config.write_text('[daemon]\nruntime_dir = "."\n[unknown]\nis = "not ours to judge"\n')
    assert ctl("--config", str(config), "ping").returncode == 0
    assert ctl("ping", GEOSCHED_CONFIG=str(config)).returncode == 0


@pytest.mark.parametrize("text", [None, "not toml", "[daemon]\nruntime_dir = 3\n", "\udcff"])
def test_a_configuration_that_cannot_be_read_is_named_on_one_line(place, text) -> None:
    config = place / "geosched.toml"
    if text is not None:
        config.write_bytes(text.encode(errors="surrogateescape"))
    result = ctl("--config", str(config), "ping")
    assert (result.returncode, result.stdout) == (2, "")
    assert f"cannot read the configuration {config}: " in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("socket_name", ["tcp://127.0.0.1:1", "ipc://", "", "/" + "x" * 120])
def test_a_socket_that_cannot_be_one_is_a_usage_error(socket_name) -> None:
    result = ctl("--socket", socket_name, "ping", GEOSCHED_CONFIG="/nowhere/at-all")
    assert result.returncode == 2, result


# --- a daemon that cannot be asked ---------------------------------------------------------


def test_no_socket_means_that_no_daemon_runs(place) -> None:
    result = ctl_at(place, "status")
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr == (
        "geosched-ctl: cannot reach the daemon: nothing listens at"
        f" {place / 'control.sock'} (is geoschedd running?)\n"
    )


def test_a_socket_file_that_a_dead_daemon_left_means_the_same(place) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place / "control.sock"))
    result = ctl_at(place, "status")
    assert result.returncode == 3
    assert "nothing listens" in result.stderr


def test_a_silent_daemon_is_told_apart_after_5_seconds(place, daemon) -> None:
    daemon(answering())
    began = time.monotonic()
    result = ctl_at(place, "status")
    assert 4.9 < time.monotonic() - began < 7
    assert (result.returncode, result.stdout) == (3, "")
    assert "no answer" in result.stderr


def test_a_frozen_daemon_whose_queue_is_full_is_not_taken_for_a_dead_one(place) -> None:
    queued = []
    with socket.socket(socket.AF_UNIX) as frozen:
        frozen.bind(str(place / "control.sock"))
        frozen.listen(0)
        queued.append(socket.socket(socket.AF_UNIX))
        queued[0].connect(str(place / "control.sock"))
        result = ctl_at(place, "--timeout", "0.3", "status")
        queued[0].close()
    assert result.returncode == 3
    assert "no answer" in result.stderr


def test_a_timeout_shortens_the_wait(place, daemon) -> None:
    daemon(answering())
    began = time.monotonic()
    assert ctl_at(place, "--timeout", "0.2", "ping").returncode == 3
    assert time.monotonic() - began < 3


def test_a_timeout_lets_a_daemon_be_silent_for_longer(place, daemon) -> None:
    """On a host that is very slow the shortest answer may take that long."""

    def late(_request: Request) -> list[Answer]:
        time.sleep(5.5)
        return [PONG]

    daemon(late)
    assert ctl_at(place, "--timeout", "30", "ping").returncode == 0


def test_a_daemon_that_dies_while_asked_is_said_to_be_gone(place) -> None:
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(place / "control.sock"))
        dying.listen(8)
        asking = started(place, "ping")
        dying.accept()[0].close()
    _, complaint = asking.communicate(timeout=20)
    assert asking.returncode == 3
    assert b"nothing listens" in complaint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as another user")
def test_a_user_who_may_not_connect_is_told_so(place, daemon) -> None:
    place.chmod(0o755)
    daemon(answering(PONG))
    as_nobody = f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"
    asked = subprocess.run(
        ["setpriv", *as_nobody, COMMAND, "--socket", place / "control.sock", "ping"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if asked.returncode in (126, 127) or "No module named" in asked.stderr:
        pytest.skip("another user cannot run this installation")
    assert asked.returncode == 4, asked
    assert "permission denied" in asked.stderr
