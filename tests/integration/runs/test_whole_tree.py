"""Whatever a script does, its run is gone when it is over: after a stop, after the death of
its worker, and after the death of the daemon (SPEC S1, S13a, S17; facts P4, P5).

All of these scripts run at once. What each leaves is found by an argument of its own, as
the environment that marks it may be gone; once with what this host offers to hold them,
once without any cgroup.
"""

import itertools
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon, daemon_installation, entry, lives
from support.mounts import commands_without
from support.wait import wait_for

LONG = 3600
_NUMBERS = itertools.count(1)

#: What each does; `%s` is the argument that it is found by. It ends only by being ended.
SCRIPTS = {
    "leaves-its-session": "setsid sleep %s & wait",
    "is-a-daemon": "(setsid sleep %s </dev/null >/dev/null 2>&1 &); sleep %s",
    "ignores-term": "trap '' TERM; sleep %s & wait; sleep %s",
    "stops-itself": "sleep %s & kill -STOP $$; wait",
    "forks-while-stopped": (
        "trap 'n=0; while [ $n -lt 60 ]; do (setsid sleep %s &); n=$((n+1)); done' TERM\n"
        "sleep %s & wait; sleep %s"
    ),
    "changes-its-title": (
        f"exec {shlex.quote(sys.executable)} -c 'import setproctitle, time; "
        'setproctitle.setproctitle("sleep %s"); time.sleep(600)\''
    ),
    "closes-everything": "exec <&- >&- 2>&-; sleep %s & wait",
    "clears-its-environment": "env -i sleep %s & wait",
    "is-another-user": "setpriv --reuid 65534 --regid 65534 --clear-groups sleep %s & wait",
    "leaves-no-trace": (
        "(env -i setsid setpriv --reuid 65534 --regid 65534 --clear-groups sleep %s"
        " </dev/null >/dev/null 2>&1 &); sleep %s"
    ),
}
#: SPEC S17: it left its group, removed its environment and lost its worker.
BEYOND_PROMISE_WITHOUT_CGROUP = {"leaves-no-trace"}


class Family:
    """The scripts of one daemon and what they started, by their arguments."""

    def __init__(self) -> None:
        self.arguments = {name: f"6{os.getpid()}.{next(_NUMBERS)}5" for name in SCRIPTS}

    def living(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().replace(b"\0", b" ").split()
            except OSError:
                continue
            for name, argument in self.arguments.items():
                pid = int(path.parent.name)
                if words[:1] == [b"sleep"] and argument.encode() in words and lives(pid):
                    found.setdefault(name, set()).add(pid)
        return found

    def end(self) -> None:
        for pid in itertools.chain(*self.living().values()):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(params=["as-the-host-offers", "without-cgroups"])
def holding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """How runs are held; without cgroups, as they are out of the daemon's sight."""
    if os.geteuid() != 0:
        pytest.skip("a script becomes another user, and cgroups are hidden, by root only")
    if request.param == "as-the-host-offers":
        yield request.param
        return
    with daemon_installation() as place:
        commands = commands_without(place.root, "cgroup2 cgroup")
        monkeypatch.setenv("GEOSCHED_TEST_BIN", str(commands))
        yield request.param


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    family.end()


@pytest.fixture
def daemon(holding: str, family: Family) -> Iterator[Daemon]:
    """All scripts run, and what they start is there."""
    with daemon_installation() as installed:
        scripts = {
            name: body.replace("%s", family.arguments[name]) for name, body in SCRIPTS.items()
        }
        installed.configure(
            scripts={
                name: {"command": [installed.script(name, body)], "stop_grace": "500ms"}
                for name, body in scripts.items()
            }
        )
        installed.send([entry(name, -1, LONG, type=name) for name in SCRIPTS])
        installed.start()
        kind = installed.json("status")["containment"]
        assert (kind == "tree") == (holding == "without-cgroups")
        wait_for(lambda: family.living().keys() == SCRIPTS.keys(), what="all to be there")
        yield installed


def allowed(holding: str) -> set[str]:
    return BEYOND_PROMISE_WITHOUT_CGROUP if holding == "without-cgroups" else set()


def test_after_a_stop_nothing_is_left(daemon: Daemon, family: Family):
    daemon.send([])
    for name in SCRIPTS:
        assert daemon.wait_status(name, "WONT_FINISH")["reason"] == "withdrawn"
    assert family.living() == {}


def test_after_the_death_of_its_worker_nothing_is_left(
    daemon: Daemon, family: Family, holding: str
):
    for name in SCRIPTS:
        os.kill(daemon.action(name)["run"]["workerPid"], signal.SIGKILL)
    for name in SCRIPTS:
        assert daemon.wait_status(name, "FAILED")["reason"] == "worker-lost"
    assert family.living().keys() <= allowed(holding)


def test_after_the_death_of_the_daemon_nothing_is_left_in_time(
    daemon: Daemon, family: Family, holding: str
):
    daemon.kill()
    wait_for(lambda: family.living().keys() <= allowed(holding), seconds=5)


def test_at_the_next_start_nothing_is_left(daemon: Daemon, family: Family, holding: str):
    old = family.living()
    daemon.kill()
    daemon.start()
    for name in SCRIPTS:
        daemon.wait_phase(name, "running")
    for name, pids in family.living().items():
        assert name in allowed(holding) or not pids & old[name]
