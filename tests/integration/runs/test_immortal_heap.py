"""The heap of the zygote: what it says of it, and what its children share."""

import sys
from pathlib import Path

import pytest
from geosched.ipc.messages.runs import Ack
from geosched.ipc.messages.zygote import Forked, ForkWorker, ZygoteReady
from support.daemon import Daemon, daemon_installation
from support.wait import wait_for
from support.workers import Host, host

HAS_IT = sys.version_info >= (3, 12)
OFF_BY_SETTING = "off: immortal_heap is false"
EXPECTED = "on" if HAS_IT else "off: it needs Python 3.12 or later"


def said(opened: Host) -> str:
    (ready,) = [each for each in opened.from_zygote if isinstance(each, ZygoteReady)]
    return ready.immortal_heap


def private_kilobytes(pid: int) -> int:
    """The pages that a process has written to and shares with nobody."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))


def private_of_running_worker(opened: Host) -> int:
    name = opened.worker()
    order = opened.order(opened.script("sleep 60"))
    opened.run(name, order)
    opened.heartbeat(name, bool)
    used = private_kilobytes(opened.forked[name][0].pid)
    opened.stop(name, order)
    opened.result(name)
    opened.send(name, Ack(order.run_id))
    return used


def test_the_zygote_says_whether_its_objects_are_immortal():
    with host() as opened:
        assert said(opened).startswith(EXPECTED)


@pytest.mark.skipif(not HAS_IT, reason="needs Python 3.12 or later")
def test_a_worker_writes_to_far_fewer_pages_where_they_are():
    with host(immortal_heap=False) as opened:
        assert said(opened) == OFF_BY_SETTING
        counted = private_of_running_worker(opened)
    with host() as opened:
        assert private_of_running_worker(opened) < 0.75 * counted


def test_who_waits_is_answered_before_who_does_not():
    """Both requests are there before the zygote is."""
    opened = Host()
    try:
        assert opened.zygote.ask(ForkWorker("spare", opened.server.endpoint))
        assert opened.zygote.ask(ForkWorker("near", opened.server.endpoint, forks_ahead=True))
        opened.wait(lambda: opened.forked.keys() == {"spare", "near"})
        order = [each.name for each in opened.from_zygote if isinstance(each, Forked)]
        assert order == ["near", "spare"]
    finally:
        opened.close()


def test_a_zygote_warms_up_and_leaves_nothing_of_it():
    with host() as opened:
        children = Path(f"/proc/{opened.zygote.pid}/task/{opened.zygote.pid}/children")
        opened.worker()  # which nobody waits for: the warm-up is over by then
        assert len(children.read_text().split()) == 1
        assert not (opened.dir / "warm-up").exists()
        assert list(opened.runtime.results.iterdir()) == []
        assert list(opened.runtime.runs.iterdir()) == []


@pytest.fixture
def daemon():
    with daemon_installation() as installed:
        yield installed


@pytest.mark.parametrize(("wanted", "state"), [(True, EXPECTED), (False, OFF_BY_SETTING)])
def test_status_tells_of_it_and_a_setting_turns_it_off(daemon: Daemon, wanted: bool, state: str):
    daemon.configure(scripts={"default": {"command": ["/bin/true"]}}, immortal_heap=wanted)
    daemon.start()
    shown = wait_for(lambda: daemon.json("status")["immortalHeap"])
    assert shown.startswith(state)
    assert ("immortal  " in daemon.ctl("status").stdout) is (state != "on")
