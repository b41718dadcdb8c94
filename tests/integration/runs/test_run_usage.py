"""The memory and the processor time of a real run, as `show` tells them."""

from collections.abc import Iterator
from typing import Any

import pytest
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        # Some processor time first, so that a heartbeat has it to tell.
        body = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 600"
        script = {"command": [installed.script("s", body)], "heartbeat_timeout": "3s"}
        installed.configure(scripts={"default": script})
        yield installed


def test_show_has_what_a_script_uses_for_as_long_as_it_runs(daemon: Daemon):
    def measured() -> dict[str, Any] | None:
        shown = daemon.action("a")
        return shown["run"] if shown and shown["run"] and shown["run"]["cpuSeconds"] else None

    daemon.send([entry("a", -1, 600)])
    daemon.start()
    assert wait_for(measured, seconds=20)["rssBytes"] > 0
    assert "script uses" in daemon.ctl("show", "a").stdout
    assert daemon.ctl("stop", "a").returncode == 0
    over = daemon.json("show", "a")["runs"][0]
    assert (over["rssBytes"], over["cpuSeconds"]) == (None, None)
