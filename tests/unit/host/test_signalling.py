"""Signals to a process that is known by its pid and its start."""

import os
import signal
import subprocess
import threading

from geosched.workers.host import procfs
from geosched.workers.host.signalling import signal_process


def test_a_pid_that_is_a_threads_number_by_now_is_that_of_a_process_that_is_gone():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        number = thread.native_id
        assert number is not None
        found = procfs.stat(number)  # /proc shows threads too, to who asks by number
        assert found is not None
        signal_process(found, signal.SIGKILL)
    finally:
        done.set()
        thread.join()


def test_a_process_that_is_gone_is_not_signalled():
    with subprocess.Popen(["/bin/true"]) as process:
        known = procfs.identity(process.pid)
    assert known is not None
    signal_process(known, signal.SIGKILL)


def test_a_process_that_has_anothers_pid_is_not_signalled():
    own = procfs.identity(os.getpid())
    assert own is not None
    signal_process(procfs.Identity(own.boot_id, own.pid, own.start_ticks - 1), signal.SIGKILL)
