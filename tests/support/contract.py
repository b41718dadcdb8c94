"""What the tests of the crash contract share: its rows, a run to hit, and how to look."""

import os
import time
from collections.abc import Callable

import pytest

from .daemon import Daemon, entry, processes_marked
from .processes import children_of
from .wait import wait_for

LONG = 3600

Row = Callable[..., None]
#: Filled as the tests are collected.
TRIED: set[str] = set()


def row(row_id: str) -> Callable[[Row], Row]:
    """The row of the contract that a test tries."""

    def register(test: Row) -> Row:
        assert test.__name__.startswith("test_"), "else nobody would run it"
        TRIED.add(row_id)
        return test

    return register


def rows(names: str, cases: dict[str, object]) -> pytest.MarkDecorator:
    """The rows that a test tries, each with the arguments of its case."""
    TRIED.update(cases)
    return pytest.mark.parametrize(names, list(cases.values()), ids=list(cases))


def configure(daemon: Daemon) -> None:
    works = {
        "default": "note began\nsleep 600 & wait $!",
        "deaf": "trap '' TERM\nnote began\nsleep 600 & wait $!",
        "short": f"note began\nwhile [ ! -e {daemon.root}/go ]; do sleep 0.05; done\nnote ended",
    }
    quick = {"stop_grace": "1s", "heartbeat_timeout": "1s"}
    scripts = {k: {"command": [daemon.script(k, work)]} | quick for k, work in works.items()}
    watched = {"command": scripts["default"]["command"], "watchdog": "500ms", "stop_grace": "1s"}
    daemon.configure(
        scripts=scripts | {"watched": watched},
        backend={"timeout": "500ms"},
        spare_workers=1,
    )


def running(daemon: Daemon, kind: str = "default") -> dict:
    daemon.send([entry("a", -1, LONG, type=kind)])
    daemon.start()
    daemon.wait_phase("a", "running")
    wait_for(lambda: daemon.notes("began"))
    return daemon.action("a")["run"]


def supervisor(daemon: Daemon) -> int:
    assert daemon.process is not None
    return daemon.process.pid


def hit(number: int, *pids: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def family(pid: int) -> list[int]:
    """A process and everything below it, parents first."""
    return [pid, *(below for child in children_of(pid) for below in family(child))]


def pass_seconds(seconds: float) -> None:
    """Where nothing may happen, nothing can be waited for but the time itself."""
    time.sleep(seconds)


def told_of(daemon: Daemon, action_id: str) -> list[str]:
    return [one["executionStatus"] for one in daemon.reports() if one["id"] == action_id]


def runs(daemon: Daemon) -> set[str]:
    return {run_id for _, _, run_id, _ in daemon.notes("began")}


def nothing_left(daemon: Daemon) -> bool:
    return not any(processes_marked(f"GEOSCHED_RUN_ID={run}\0") for run in runs(daemon))


def it_runs_again(daemon: Daemon) -> None:
    """A second run, and the first is gone; nothing else has happened to its status."""
    first = runs(daemon)
    daemon.start()
    wait_for(lambda: len(runs(daemon)) == len(first) + 1, seconds=15)
    for run in first:
        assert not processes_marked(f"GEOSCHED_RUN_ID={run}\0")
    assert daemon.wait_phase("a", "running")["attempt"] == len(first) + 1
