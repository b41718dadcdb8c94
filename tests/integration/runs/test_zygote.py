"""The zygote: what it is asked, what it says, and when it leaves."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc.messages.sync import BackendAddress
from geosched.ipc.messages.zygote import ForkSynchroniser, ForkWorker, ZygoteReady
from geosched.workers.host import procfs
from geosched.workers.runfiles.processes import read_identities
from support.open_files import open_files
from support.wait import wait_for
from support.workers import Host, host


@pytest.fixture
def alone() -> Iterator[Host]:
    with host() as opened:
        yield opened


def ended(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is None or found.ended


def test_it_says_who_it_is_and_writes_it_down(alone: Host):
    (ready,) = alone.from_zygote
    assert isinstance(ready, ZygoteReady)
    assert [p.kind for p in read_identities(alone.runtime)] == ["zygote"]


def test_it_has_nothing_open_but_what_it_was_given():
    leaked = os.pipe()
    for descriptor in leaked:
        os.set_inheritable(descriptor, True)
    try:
        with host() as opened:
            # While it warms up, it opens and closes others.
            pid = opened.zygote.pid
            wait_for(lambda: len(open_files(pid)) == 5, what="no more than it was given")
            found = open_files(pid)
    finally:
        for descriptor in leaked:
            os.close(descriptor)
    assert sum(target.startswith("socket:") for target in found) == 1


def test_it_has_one_thread(alone: Host):
    assert len(list(Path(f"/proc/{alone.zygote.pid}/task").iterdir())) == 1


def environment_of_a_zygote() -> bytes:
    """Read at once, because its title wipes what can be seen of it: b"" where that was first."""
    opened = Host()
    try:
        environment = Path(f"/proc/{opened.zygote.pid}/environ").read_bytes()
        opened.zygote_ready()
    finally:
        opened.close()
    return environment.strip(b"\0")


def test_it_gets_only_the_allowed_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GEOSCHED_SECRET", "hidden")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    environment = wait_for(environment_of_a_zygote)
    names = {entry.split(b"=")[0] for entry in environment.split(b"\0") if entry}
    assert b"PATH" in names
    assert not names & {b"GEOSCHED_SECRET", b"NOTIFY_SOCKET"}


def test_it_imports_nothing_that_only_others_need(alone: Host):
    maps = Path(f"/proc/{alone.zygote.pid}/maps").read_text()
    assert "lmdb" not in maps
    assert "libssl" not in maps


def test_it_tells_of_a_child_by_pid_and_pidfd_and_leaves_nothing_of_its_end(alone: Host):
    name = alone.worker()
    forked, pidfd = alone.forked[name]
    assert procfs.is_below(forked.pid, alone.zygote.pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    wait_for(lambda: alone.is_reaped(name))
    wait_for(lambda: forked.pid not in {p.identity.pid for p in read_identities(alone.runtime)})


def test_a_request_that_cannot_be_read_costs_nothing_else(alone: Host):
    alone.zygote._socket.send(b"\xc1 not a request")
    assert alone.worker()


def test_many_requests_at_once_are_all_answered(alone: Host):
    names = [f"worker-{number}" for number in range(20)]
    for name in names:
        assert alone.zygote.ask(ForkWorker(name, alone.server.endpoint))
    alone.wait(lambda: alone.forked.keys() >= set(names))
    assert len({forked.pid for forked, _ in alone.forked.values()}) == 20


def test_it_leaves_when_the_supervisor_is_gone(alone: Host):
    alone.cut_lifeline()
    wait_for(lambda: ended(alone.zygote.pid), seconds=3)
    assert read_identities(alone.runtime) == []


def test_it_leaves_when_its_socket_is_closed_and_its_workers_stay(alone: Host):
    name = alone.worker()
    order = alone.order(alone.script("sleep 0.5; exit 3"))
    alone.run(name, order)
    alone.zygote._socket.shutdown(2)
    wait_for(lambda: ended(alone.zygote.pid), seconds=3)
    assert alone.result(name).exit_code == 3


def test_a_zygote_that_was_killed_is_seen_at_once_though_its_workers_live(alone: Host):
    name = alone.worker()
    alone.zygote.kill()
    wait_for(lambda: ended(alone.zygote.pid))
    assert not alone.zygote.ask(ForkWorker("worker-1", alone.server.endpoint))
    with pytest.raises((EOFError, ConnectionResetError)):
        alone.zygote.receive()
    assert not ended(alone.forked[name][0].pid)


def test_a_stuck_zygote_never_blocks_the_supervisor(alone: Host):
    os.kill(alone.zygote.pid, signal.SIGSTOP)
    asked = [alone.zygote.ask(ForkWorker(f"w-{n}", alone.server.endpoint)) for n in range(2000)]
    assert not asked[-1]
    assert alone.zygote.receive() == []


def test_a_synchroniser_is_forked_under_its_name_and_leaves_with_the_supervisor(alone: Host):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        asked = ForkSynchroniser("sync-1", BackendAddress("file"))
        assert alone.zygote.ask(asked, theirs.fileno())
        _synchronises_until_the_supervisor_is_gone(alone)


def _synchronises_until_the_supervisor_is_gone(alone: Host) -> None:
    alone.wait(lambda: "sync-1" in alone.forked)
    pid = alone.forked["sync-1"][0].pid
    wait_for(lambda: pid in {p.identity.pid for p in read_identities(alone.runtime)})
    wait_for(lambda: b"synchroniser" in Path(f"/proc/{pid}/cmdline").read_bytes())
    alone.cut_lifeline()
    wait_for(lambda: ended(pid), seconds=3)


@pytest.mark.parametrize("asked", [b"\xc1", b"\x81\xa1t\xa5other", b"\x91" * 5000])
def test_it_refuses_what_it_cannot_read_and_serves_the_next(alone: Host, asked: bytes):
    alone.zygote._socket.send(asked)
    alone.worker("worker-1")
