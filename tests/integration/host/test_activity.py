"""What a process does, as `/proc` shows it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from geosched.workers.host import procfs
from geosched.workers.host.liveness import Activity
from support.processes import state_of
from support.wait import wait_for


@contextmanager
def running(*command: str) -> Iterator[int]:
    with subprocess.Popen(command) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def activity(pid: int) -> Activity:
    found = procfs.activity(pid)
    assert found is not None
    return found


def test_a_process_that_computes_is_runnable_and_uses_processor_time():
    with running("/bin/sh", "-c", "while :; do :; done") as pid:
        wait_for(lambda: activity(pid).runnable and activity(pid).cpu_seconds > 0.05)


def test_a_process_that_is_stopped_does_nothing():
    with running("/bin/sh", "-c", "while :; do :; done") as pid:
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: state_of(pid) == "T")
        stopped = activity(pid)
        assert not stopped.runnable
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: activity(pid).switches > stopped.switches)


def test_a_process_that_wakes_is_seen_to_have_run_though_it_uses_no_time_to_speak_of():
    with running("/bin/sh", "-c", "while sleep 0.05; do :; done") as pid:
        wait_for(lambda: not activity(pid).runnable)
        before = activity(pid)
        wait_for(lambda: activity(pid).switches > before.switches)


def test_processor_time_is_a_process_own():
    """A zygote reaps workers, whose time is added to what it has waited for."""
    burn = "sh -c 'i=0; while [ $i -lt 500000 ]; do i=$((i+1)); done'; exec sleep 60"
    with running("/bin/sh", "-c", burn) as pid:
        wait_for(lambda: (found := procfs.stat(pid)) and found.cpu_seconds >= 0.1, seconds=60)
        assert activity(pid).cpu_seconds < 0.1


def test_of_a_process_that_is_gone_nothing_is_known():
    with running("/bin/true") as pid:
        pass
    assert procfs.activity(pid) is None
