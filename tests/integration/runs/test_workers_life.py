"""A worker among others: armed, given a run, its results kept, its supervisor lost."""

import ctypes
import logging
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc.messages.runs import (
    Ack,
    EndCause,
    Ended,
    Heartbeat,
    Run,
    Started,
    StopReason,
)
from geosched.workers.host import procfs
from geosched.workers.runfiles import results
from geosched.workers.runfiles.processes import read_identities
from geosched.workers.runfiles.run_lock import (
    RunLockedError,
    locked_runs,
    release_run_lock,
    take_run_lock,
)
from support.wait import wait_for
from support.workers import Host, host

WAITS = ": > $HERE/up; while :; do sleep 0.02; done"
DEAF = "trap '' TERM; " + WAITS


@pytest.fixture
def alone() -> Iterator[Host]:
    """A host of its own: its supervisor dies, its directories fail."""
    with host() as opened:
        yield opened


def lives(pid: int) -> bool:
    found = procfs.stat(pid)
    return found is not None and not found.ended


# --- arming --------------------------------------------------------------------------------


def test_a_worker_has_told_who_it_is_before_it_is_ready(alone: Host):
    name = alone.worker()
    pid = alone.forked[name][0].pid
    known = {p.identity.pid: p for p in read_identities(alone.runtime)}
    assert (known[pid].kind, known[pid].name) == ("worker", name)
    assert known[pid].identity == procfs.identity(pid)


def test_a_released_worker_leaves_and_takes_its_identity_back(alone: Host):
    name = alone.worker()
    alone.release(name)
    wait_for(lambda: alone.is_reaped(name))
    assert alone.forked[name][0].pid not in {p.identity.pid for p in read_identities(alone.runtime)}


def test_a_released_worker_leaves_nothing_of_what_it_had_forked_ahead(alone: Host):
    name, ahead = prepared(alone)
    alone.release(name)
    wait_for(lambda: alone.is_reaped(name))
    assert procfs.stat(ahead) is None


def test_what_was_forked_ahead_becomes_the_script(alone: Host):
    name, ahead = prepared(alone)
    assert alone.run(name, alone.order(alone.script("sleep 60"))).script_pid == ahead


def test_nothing_is_forked_ahead_that_was_not_asked_for(alone: Host):
    name = alone.worker()
    assert procfs.children(alone.forked[name][0].pid) == []
    assert alone.run(name, alone.order(alone.script("exit 7")))
    assert alone.result(name).exit_code == 7


def test_a_script_starts_although_what_was_forked_ahead_for_it_was_killed(alone: Host):
    name, ahead = prepared(alone)
    os.kill(ahead, signal.SIGKILL)
    wait_for(lambda: not lives(ahead))
    alone.send(name, alone.order(alone.script("exit 7")))
    assert alone.result(name).exit_code == 7


def prepared(host: Host) -> tuple[str, int]:
    """A worker that forks ahead, and what it has forked."""
    name = host.worker(forks_ahead=True)
    (ahead,) = procfs.children(host.forked[name][0].pid)
    return name, ahead


def ordered_ahead(host: Host, *, is_prepared: bool = True, seconds: float = 0.6) -> tuple[str, Run]:
    """A worker with a run that begins so much later, and whose script tells that it has."""
    name = prepared(host)[0] if is_prepared else host.worker()
    at_us = time.time_ns() // 1000 + round(seconds * 1e6)
    order = host.order(
        ("/bin/bash", host.script("echo ${EPOCHREALTIME/./} > $HERE/begun; sleep 60")),
        not_before_us=at_us,
    )
    host.send(name, order)
    return name, order


def held(host: Host, name: str) -> int:
    """What will be the script, once it has executed it."""
    (ahead,) = wait_for(lambda: procfs.children(host.forked[name][0].pid))
    wait_for(lambda: b"bash" in Path(f"/proc/{ahead}/cmdline").read_bytes())
    return ahead


def begun_us(host: Host) -> int:
    told = host.dir / "begun"
    return int(host.wait(lambda: told.exists() and told.read_text()))


@pytest.mark.parametrize("is_prepared", [True, False])
def test_a_script_that_is_ordered_ahead_is_there_and_does_nothing_before_its_instant(
    alone: Host, is_prepared: bool
):
    name, order = ordered_ahead(alone, is_prepared=is_prepared)
    ahead = held(alone, name)
    assert time.time_ns() // 1000 < order.not_before_us
    assert begun_us(alone) >= order.not_before_us
    assert begun_us(alone) >= alone.wait_said(name, Started).at_us >= order.not_before_us
    assert "TracerPid:\t0" in Path(f"/proc/{ahead}/status").read_text()


def test_a_script_whose_worker_is_killed_before_its_instant_does_nothing_at_it(alone: Host):
    name, order = ordered_ahead(alone)
    ahead = held(alone, name)
    os.kill(alone.forked[name][0].pid, signal.SIGKILL)
    wait_for(lambda: not lives(ahead))
    wait_for(lambda: time.time_ns() // 1000 > order.not_before_us)
    assert not (alone.dir / "begun").exists()


def test_a_stop_before_its_instant_calls_a_script_off(alone: Host):
    name, order = ordered_ahead(alone)
    held(alone, name)
    alone.stop(name, order, StopReason.WITHDRAWN)
    ended = alone.result(name)
    assert time.time_ns() // 1000 < order.not_before_us
    assert (ended.cause, ended.stop_reason) == (EndCause.STOPPED, StopReason.WITHDRAWN)
    assert not alone.said(name, Started)
    wait_for(lambda: time.time_ns() // 1000 > order.not_before_us)
    assert not (alone.dir / "begun").exists()


def test_a_script_whose_supervisor_is_gone_before_its_instant_is_called_off(alone: Host):
    name, order = ordered_ahead(alone)
    ahead = held(alone, name)
    alone.cut_lifeline()
    wait_for(lambda: not lives(ahead))
    wait_for(lambda: time.time_ns() // 1000 > order.not_before_us)
    assert not (alone.dir / "begun").exists()


def test_a_signal_to_what_becomes_a_script_does_not_hold_it_up(alone: Host):
    name, ahead = prepared(alone)
    os.kill(ahead, signal.SIGSTOP)
    wait_for(lambda: "State:\tT" in Path(f"/proc/{ahead}/status").read_text())
    at_us = time.time_ns() // 1000 + 600_000
    body = alone.script("echo ${EPOCHREALTIME/./} > $HERE/begun")
    alone.send(name, alone.order(("/bin/bash", body), not_before_us=at_us))
    wait_for(lambda: "TracerPid:\t0" not in Path(f"/proc/{ahead}/status").read_text())
    os.kill(ahead, signal.SIGCONT)
    assert 0 <= begun_us(alone) - at_us < 2_000_000


def test_a_program_that_somebody_traces_cannot_be_held_and_waits_for_its_instant(alone: Host):
    name, ahead = prepared(alone)
    traced(ahead)
    at_us = time.time_ns() // 1000 + 600_000
    alone.send(
        name,
        alone.order(
            ("/bin/bash", alone.script("echo ${EPOCHREALTIME/./} > $HERE/begun")),
            not_before_us=at_us,
        ),
    )
    assert begun_us(alone) >= at_us
    os.waitpid(ahead, 0)  # who traces is told of its end first
    assert alone.result(name).exit_code == 0


def traced(pid: int) -> None:
    """As a debugger does it, which never stops it; nobody else can trace it then."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if libc.ptrace(0x4206, pid, None, None) != 0:  # PTRACE_SEIZE, without options
        pytest.skip("this host does not allow tracing")


def test_a_worker_that_cannot_tell_who_it_is_goes_on_all_the_same(alone: Host):
    """Where the runtime directory is full, its run is refused for want of a lock."""
    alone.runtime.processes.rename(alone.dir / "elsewhere")
    alone.runtime.runs.rename(alone.dir / "away")
    name = alone.worker()
    alone.send(name, alone.order(alone.script("exit 0")))
    ended = alone.result(name)
    assert ended.cause is EndCause.CANNOT_START
    assert "cannot lock run" in ended.detail


def merges(pid: int) -> bool:
    """Whether the kernel may keep a page of a process once that is alike in another."""
    return "ksm_merge_any: yes" in Path(f"/proc/{pid}/ksm_stat").read_text()


def tells_what_merges() -> bool:
    told = Path("/proc/self/ksm_stat")
    return told.exists() and "ksm_merge_any" in told.read_text()


@pytest.mark.skipif(not tells_what_merges(), reason="this kernel does not tell what it merges")
def test_pages_of_workers_with_a_run_may_be_merged_and_those_of_nothing_else(alone: Host):
    name = alone.worker()
    worker = alone.forked[name][0].pid
    assert not merges(worker)
    script = alone.run(name, alone.order(alone.script("sleep 60"))).script_pid
    wait_for(lambda: merges(worker))
    assert not merges(script)
    assert not merges(alone.zygote.pid)


def test_workers_ignore_the_signals_that_are_meant_for_the_supervisor(alone: Host):
    name = alone.worker()
    order = alone.order(alone.script("sleep 0.5; exit 3"))
    alone.run(name, order)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(alone.forked[name][0].pid, number)
        os.kill(alone.zygote.pid, number)
    assert alone.result(name).exit_code == 3


def test_a_worker_with_a_run_is_named_after_its_action(alone: Host):
    name = alone.worker()
    order = alone.order(alone.script(WAITS), title="geosched: focus (block)")
    alone.run(name, order)
    command = Path(f"/proc/{alone.forked[name][0].pid}/cmdline")
    wait_for(lambda: command.read_bytes().rstrip(b"\0") == b"geosched: focus (block)")


# --- a run ---------------------------------------------------------------------------------


def test_heartbeats_come_as_often_as_ordered_and_tell_the_cost(alone: Host):
    name = alone.worker()
    alone.run(name, alone.order(alone.script(WAITS), heartbeat_seconds=0.1))
    alone.wait(lambda: len(alone.said(name, Heartbeat)) >= 5, seconds=3)
    assert alone.said(name, Heartbeat)[0].rss_bytes > 0


def test_the_run_is_locked_from_before_its_start_until_it_is_acknowledged(alone: Host):
    name = alone.worker()
    order = alone.order(alone.script(WAITS))
    alone.run(name, order)
    assert locked_runs(alone.runtime) == {order.run_id}
    alone.stop(name, order)
    alone.result(name)
    assert locked_runs(alone.runtime) == {order.run_id}
    alone.send(name, Ack(order.run_id))
    wait_for(lambda: alone.is_reaped(name))
    assert locked_runs(alone.runtime) == set()
    assert list(alone.runtime.runs.iterdir()) == []


def test_a_run_whose_lock_is_held_is_refused_and_keeps_no_result(alone: Host):
    order = alone.order(alone.script("echo > $HERE/ran"))
    held = take_run_lock(alone.runtime, order.run_id)
    result = alone.outcome(order)
    release_run_lock(alone.runtime, order.run_id, held)
    assert result.cause is EndCause.CANNOT_START
    assert result.detail == f"cannot lock run {order.run_id}: another process has it"
    assert not (alone.dir / "ran").exists()
    assert results.load_all(alone.runtime) == []


def test_two_workers_with_one_run_start_it_once(alone: Host):
    order = alone.order(alone.script("echo once >> $HERE/ran; " + WAITS))
    first, second = alone.worker("worker-1"), alone.worker("worker-2")
    alone.run(first, order)
    alone.send(second, order)
    assert alone.result(second).cause is EndCause.CANNOT_START
    alone.stop(first, order)
    assert alone.result(first).cause is EndCause.STOPPED
    assert (alone.dir / "ran").read_text() == "once\n"


def test_the_end_is_kept_before_it_is_told_and_told_until_it_is_acknowledged(alone: Host):
    name = alone.worker()
    order = alone.order(alone.script("exit 7"))
    alone.run(name, order)
    result = alone.result(name)
    assert results.load(alone.runtime, order.run_id) == result
    alone.wait(lambda: len(alone.said(name, Ended)) >= 3, seconds=5)
    assert {ended.result for ended in alone.said(name, Ended)} == {result}
    alone.send(name, Ack(order.run_id))
    wait_for(lambda: alone.is_reaped(name))
    assert results.load_all(alone.runtime) == []


def test_an_acknowledgement_of_another_run_is_ignored(alone: Host):
    name = alone.worker()
    order = alone.order(alone.script("exit 7"))
    alone.run(name, order)
    alone.result(name)
    alone.send(name, Ack("another"))
    said = len(alone.said(name, Ended))
    alone.wait(lambda: len(alone.said(name, Ended)) > said, seconds=5)
    assert results.load(alone.runtime, order.run_id) is not None


def test_a_result_that_cannot_be_kept_is_told_all_the_same(alone: Host):
    alone.runtime.results.rmdir()
    alone.runtime.results.write_text("a file, no directory")
    assert alone.outcome(alone.order(alone.script("exit 7"))).exit_code == 7


def test_a_worker_waits_for_its_strays_while_the_script_runs(alone: Host):
    body = "i=0; while [ $i -lt 20 ]; do (setsid true &) ; i=$((i+1)); done; sleep 600"
    name = alone.worker()
    order = alone.order(alone.script(body), heartbeat_seconds=0.1)
    alone.run(name, order)
    worker = alone.forked[name][0].pid

    def zombies() -> list[procfs.Stat]:
        return [s for s in procfs.process_table().values() if s.ppid == worker and s.ended]

    alone.wait(lambda: len(alone.said(name, Heartbeat)) >= 10)
    alone.wait(lambda: not zombies())


# --- the supervisor is gone ----------------------------------------------------------------


def test_when_the_supervisor_is_gone_idle_workers_leave(alone: Host):
    name = alone.worker()
    alone.cut_lifeline()
    wait_for(lambda: not lives(alone.forked[name][0].pid), seconds=3)


def test_when_the_supervisor_is_gone_the_script_is_stopped_and_its_result_kept(alone: Host):
    name = alone.worker()
    order = alone.order(alone.script("trap 'exit 5' TERM; " + WAITS))
    alone.run(name, order)
    wait_for((alone.dir / "up").exists)
    alone.cut_lifeline()
    wait_for(lambda: not lives(alone.forked[name][0].pid), seconds=3)
    kept = results.load(alone.runtime, order.run_id)
    assert kept is not None
    assert (kept.cause, kept.stop_reason) == (EndCause.STOPPED, StopReason.ORPHANED)
    assert kept.exit_code == 5
    assert locked_runs(alone.runtime) == set()


def test_a_script_that_ignores_it_all_is_gone_within_five_seconds(alone: Host):
    name = alone.worker()
    order = alone.order(alone.script(DEAF), stop_grace_seconds=600)
    started = alone.run(name, order)
    wait_for((alone.dir / "up").exists)
    began = time.monotonic()
    alone.cut_lifeline()
    wait_for(lambda: not lives(started.script_pid), seconds=5)
    assert time.monotonic() - began > 2.5  # it had its grace of 3 s
    wait_for(lambda: not lives(alone.forked[name][0].pid), seconds=2)
    assert not alone.members(order)


def test_a_stop_under_way_is_cut_short_and_keeps_its_reason(alone: Host):
    name = alone.worker()
    body = "trap ': > $HERE/asked' TERM; " + WAITS
    order = alone.order(alone.script(body), stop_grace_seconds=600)
    alone.run(name, order)
    wait_for((alone.dir / "up").exists)
    alone.stop(name, order, StopReason.WITHDRAWN)
    wait_for((alone.dir / "asked").exists)
    alone.cut_lifeline()
    wait_for(lambda: not lives(alone.forked[name][0].pid), seconds=5)
    kept = results.load(alone.runtime, order.run_id)
    assert kept is not None
    assert kept.stop_reason is StopReason.WITHDRAWN


def test_an_end_that_nobody_acknowledged_stays_kept(alone: Host):
    name = alone.worker()
    order = alone.order(alone.script("exit 7"))
    alone.run(name, order)
    alone.result(name)
    alone.cut_lifeline()
    wait_for(lambda: not lives(alone.forked[name][0].pid), seconds=3)
    kept = results.load(alone.runtime, order.run_id)
    assert kept is not None
    assert (kept.cause, kept.exit_code) == (EndCause.EXITED, 7)


def test_a_run_ordered_by_a_supervisor_that_is_gone_is_not_started(alone: Host):
    name = alone.worker()
    worker = alone.forked[name][0].pid
    os.kill(worker, signal.SIGSTOP)
    alone.send(name, alone.order(alone.script("echo > $HERE/ran")))
    alone.cut_lifeline()
    os.kill(worker, signal.SIGCONT)
    wait_for(lambda: not lives(worker), seconds=3)
    assert not (alone.dir / "ran").exists()


def test_when_a_worker_is_killed_its_script_goes_with_it(alone: Host):
    name = alone.worker()
    started = alone.run(name, alone.order(alone.script(WAITS)))
    os.kill(alone.forked[name][0].pid, signal.SIGKILL)
    wait_for(lambda: not lives(started.script_pid), seconds=3)
    wait_for(lambda: alone.is_reaped(name))


# --- kept results and locks, without a worker ------------------------------------------------


def test_a_result_that_was_changed_on_disk_is_dropped(alone: Host):
    result = alone.outcome(alone.order(alone.script("exit 7")))
    results.keep(alone.runtime, result)
    path = alone.runtime.results / result.run_id
    path.write_bytes(path.read_bytes().replace(b'"exit_code":7', b'"exit_code":0'))
    assert results.load(alone.runtime, result.run_id) is None
    assert not path.exists()


def test_an_unreadable_result_is_dropped_and_said_so(alone: Host, caplog: pytest.LogCaptureFixture):
    good = alone.outcome(alone.order(alone.script("exit 7")))
    results.keep(alone.runtime, good)
    path = alone.runtime.results / good.run_id
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    content = path.read_bytes()
    for name, damaged in {
        "cut": content[:-5],
        "changed": content.replace(b"7", b"0", 1),
        "empty": b"",
        "another": content,
    }.items():
        (path.parent / name).write_bytes(damaged)
    (path.parent / "half.tmp").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert results.load_all(alone.runtime) == [good]
    assert caplog.text.count("Cannot read the kept result") == 4
    assert [found.name for found in path.parent.iterdir()] == [good.run_id]


def test_a_lock_is_held_once_and_free_when_its_holder_is_gone(alone: Host):
    held = take_run_lock(alone.runtime, "r")
    with pytest.raises(RunLockedError):
        take_run_lock(alone.runtime, "r")
    os.close(held)  # as when its process dies: the file stays
    assert locked_runs(alone.runtime) == set()
    release_run_lock(alone.runtime, "r", take_run_lock(alone.runtime, "r"))
