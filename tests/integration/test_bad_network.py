"""A real daemon at the far end of a bad network: how it waits, and how it catches up."""

import time
from collections.abc import Iterator

import pytest
from support.backend import BackendServer
from support.daemon import Daemon, daemon_installation
from support.wait import wait_for

HOUR_SECONDS = 3600.0


@pytest.fixture
def backend() -> Iterator[BackendServer]:
    with BackendServer() as running:
        yield running


@pytest.fixture
def daemon(backend: BackendServer) -> Iterator[Daemon]:
    with daemon_installation() as installed:
        configure(installed, backend)
        yield installed


def configure(daemon: Daemon, backend: BackendServer, *, poll_interval: str = "1h") -> None:
    script = daemon.script("hold", "while :; do sleep 1; done")
    daemon.configure(
        scripts={"default": {"command": [script]}},
        backend={"kind": "http", "url": backend.url, "poll_interval": poll_interval},
    )


def asked(backend: BackendServer, method: str = "GET") -> int:
    return sum(one.method == method for one in backend.asked)


def next_pull_in_seconds(daemon: Daemon) -> float:
    return float(daemon.json("status")["backend"]["nextPullInSeconds"])


def boot_seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# --- waiting ------------------------------------------------------------------------------


def test_a_daemon_that_crashes_again_and_again_leaves_a_failing_backend_alone(
    daemon: Daemon, backend: BackendServer
):
    backend.fault, backend.fault_headers = "status", {"Retry-After": "3600"}
    daemon.start()
    wait_for(lambda: daemon.json("status")["backend"]["lastPullOk"] is False)
    for _ in range(3):
        daemon.kill()
        daemon.start()
        assert 3000 < next_pull_in_seconds(daemon) <= HOUR_SECONDS
    assert asked(backend) == 1
    backend.fault = ""
    daemon.json("sync")  # who asks does not wait
    assert asked(backend) == 2
    daemon.terminate()
    daemon.start()  # and nothing is left of it
    wait_for(lambda: asked(backend) == 3)


def test_what_is_no_kept_back_off_is_said_and_costs_nothing(daemon: Daemon, backend: BackendServer):
    (daemon.root / "run").mkdir()
    (daemon.root / "run" / "backoff.json").write_text('{"boot_id": "ga')
    daemon.start()
    wait_for(lambda: daemon.json("status")["backend"]["lastPullOk"])
    assert "Ignored" in daemon.log_text()
    assert "backoff.json" in daemon.log_text()


def test_a_device_polls_at_the_same_part_of_the_interval_whenever_it_was_started(daemon: Daemon):
    phases = []
    for _ in range(2):
        daemon.start()
        wait_for(lambda: daemon.json("status")["backend"]["lastPullOk"])
        phases.append((boot_seconds() + next_pull_in_seconds(daemon)) % HOUR_SECONDS)
        daemon.terminate()
    apart = abs(phases[0] - phases[1])
    assert min(apart, HOUR_SECONDS - apart) < 5.0  # what asking for it takes
