"""The service manager's watchdog is told in time, whatever its variable says."""

import os
import socket
from pathlib import Path

import pytest
from geosched.supervisor.host.sd_notify import ServiceManager

MIN, MAX = 0.1, 60.0


@pytest.mark.parametrize(
    ("usec", "seconds", "warned"),
    [
        ("30000000", 15.0, False),
        ("200000", MIN, False),
        ("1", MIN, True),
        ("199999", MIN, True),
        (str(10**18), MAX, False),
        (str(2**64 - 1), 0.0, False),  # infinity
        (str(2**64), 0.0, True),
        ("9" * 5000, 0.0, True),
        ("0", 0.0, True),
        ("-5", 0.0, True),
        ("2.5", 0.0, True),
        ("\u00b2", 0.0, True),  # a digit to `isdigit`, and no number
        ("\u0663", 0.0, True),
        ("soon", 0.0, True),
        ("", 0.0, False),
    ],
)
def test_the_watchdog_of_the_service_manager_has_an_interval_that_can_be_kept(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    usec: str,
    seconds: float,
    warned: bool,
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    assert ServiceManager().alive_seconds == seconds
    assert ("WATCHDOG_USEC" in caplog.text) is warned
    assert "WATCHDOG_USEC" not in os.environ


@pytest.mark.parametrize(("pid", "seconds"), [("1", 0.0), ("no pid", 0.0), ("ours", 5.0)])
def test_a_watchdog_that_is_meant_for_another_process_is_not_told(
    monkeypatch: pytest.MonkeyPatch, pid: str, seconds: float
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)
    assert ServiceManager().alive_seconds == seconds


def test_no_text_is_taken_for_another_word_to_the_service_manager(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(place))
        monkeypatch.setenv("NOTIFY_SOCKET", str(place))
        manager = ServiceManager()
        for tell in (manager.ready, manager.status, lambda text: manager.busy(text, 1.0)):
            tell("daemonDB: x\nMAINPID=1\nREADY=0")
            told = receiver.recv(4096).decode().split("\n")
            assert not any(line.startswith(("MAINPID", "READY=0")) for line in told)
        manager.close()
