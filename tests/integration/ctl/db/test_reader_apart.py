"""A reader that the daemon could not know of, because it sees other files or another table of
processes: its snapshot would change under it."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.daemon import Daemon, commands
from support.mounts import call

#: Reads as the first process of a PID namespace, as a container's, and says so.
FIRST_IN_ITS_NAMESPACE = """
import os, sys, time
from pathlib import Path
from geosched.supervisor.store import py_lmdb
with py_lmdb.open_environment(Path(sys.argv[1]), readonly=True).begin():
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def ctl_in_mounts(daemon: Daemon, mounts: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that sees the mounts that a shell made for it alone."""
    call("unshare", "--mount", "true")
    command = shlex.join(
        [str(commands() / "geosched-ctl"), "--config", str(daemon.config), *arguments]
    )
    return subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f"{mounts}\nexec {command}"],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


def read_only(directory: Path) -> str:
    place = shlex.quote(str(directory))
    return f"mount --bind {place} {place}; mount -o remount,bind,ro {place}"


@pytest.mark.parametrize("verb", ["stats", "check", "export"])
def test_a_lock_file_on_a_read_only_mount_is_a_reason_not_to_read(running: Daemon, verb: str):
    done = ctl_in_mounts(running, read_only(running.root / "run"), "db", verb)
    assert done.returncode == 1
    assert "daemondb.lock is on a read-only mount" in done.stderr


def test_a_lock_file_that_is_not_there_is_a_reason_not_to_read(running: Daemon):
    hidden = f"mount -t tmpfs none {shlex.quote(str(running.root / 'run'))}"
    done = ctl_in_mounts(running, hidden, "db", "stats")
    assert done.returncode == 1
    assert "daemondb.lock is not there" in done.stderr


def test_readers_of_the_same_number_in_two_pid_namespaces_are_told_why(running: Daemon):
    """Each locks the lock file at its own pid: LMDB says no more than EAGAIN."""
    store = running.root / "state" / "daemondb"
    apart = ["unshare", "--pid", "--fork", "--kill-child"]
    call(*apart, "true")
    first = subprocess.Popen(
        [*apart, sys.executable, "-c", FIRST_IN_ITS_NAMESPACE, store], stdout=subprocess.PIPE
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"1\n"
        tool = [sys.executable, "-m", "geosched.supervisor.store.tools.cli", "stats"]
        second = subprocess.run(
            [*apart, *tool, running.root / "state"], capture_output=True, text=True, check=False
        )
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 1
    assert "has pid 1 in another PID namespace" in second.stderr
