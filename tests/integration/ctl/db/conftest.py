"""Stores for `geosched-ctl db`, with a daemon on them and without one."""

from collections.abc import Iterator

import pytest
from support.daemon import Daemon, daemon_installation, entry
from support.db import make_store
from support.store import LONG_NAMES


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        installed.configure(scripts={"default": {"command": ["/bin/true"]}})
        yield installed


@pytest.fixture
def stopped(daemon: Daemon) -> Daemon:
    """No daemon has run here, and there is a store."""
    make_store(daemon.root / "state", *(f"action {n}" for n in range(20)))
    return daemon


@pytest.fixture
def running(daemon: Daemon) -> Daemon:
    daemon.send(
        [entry(f"action {n}", 3600, 7200, appNames=LONG_NAMES[: n % 30]) for n in range(60)]
    )
    daemon.start()
    daemon.wait_phase("action 59", "scheduled")
    return daemon


@pytest.fixture(params=["stopped", "running"])
def either(request: pytest.FixtureRequest) -> Daemon:
    found: Daemon = request.getfixturevalue(request.param)
    return found
