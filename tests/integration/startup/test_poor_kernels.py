"""A kernel that refuses what the daemon needs is one sentence, at the start and in a check."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon, commands, daemon_installation, entry
from support.seccomp import CLONE3, PIDFD_OPEN, PIDFD_SEND_SIGNAL, refusing
from support.wait import wait_for

#: Of calls whose numbers differ: the number on this machine, and the words for it.
OF_THIS_MACHINE = {
    "x86_64": [
        (41, "sockets of AF_UNIX"),
        (53, "sockets of AF_UNIX"),
        (288, "sockets of AF_UNIX"),
        (290, "eventfd"),
        (291, "epoll"),
        (319, "memfd_create"),
        (157, "PR_SET_CHILD_SUBREAPER"),
    ],
    "aarch64": [
        (198, "sockets of AF_UNIX"),
        (199, "sockets of AF_UNIX"),
        (242, "sockets of AF_UNIX"),
        (19, "eventfd"),
        (20, "epoll"),
        (279, "memfd_create"),
        (167, "PR_SET_CHILD_SUBREAPER"),
    ],
}.get(os.uname().machine, [])
SUBSET = 'mount -t proc -o subset=pid proc /proc && exec "$@"'
NOTHING = 'mount -t tmpfs none /proc && exec "$@"'


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as made:
        made.configure(scripts={"default": {"command": ["/bin/true"]}})
        yield made


def said(*command: str | Path) -> tuple[int | None, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout + done.stderr


def refused(daemon: Daemon, *around: str | Path) -> str:
    """The one line that both the check and the start say, with exit code 2."""
    command = (*around, commands() / "geoschedd", "--config", daemon.config)
    checked, started = said(*command, "--check"), said(*command)
    for code, words in (checked, started):
        assert (code, len(words.splitlines())) == (2, 1), words
    return checked[1] + started[1]


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (PIDFD_OPEN, errno.EPERM, "pidfd_open"),
        (PIDFD_OPEN, errno.ENOSYS, "pidfd_open"),
        (CLONE3, errno.EPERM, "clone3"),
        (PIDFD_SEND_SIGNAL, errno.ENOSYS, "pidfd_send_signal"),
        *((number, errno.EPERM, named) for number, named in OF_THIS_MACHINE),
    ],
)
def test_a_system_call_that_is_refused_is_named(
    daemon: Daemon, call: int, error: int, named: str
) -> None:
    words = refused(daemon, *refusing(call, error))
    assert words.count(named) == 2
    assert words.count(os.strerror(error)) == 2 or named == "clone3"


def test_without_clone3_older_calls_do(daemon: Daemon) -> None:
    command = refusing(CLONE3, errno.ENOSYS, commands() / "geoschedd", "--config", daemon.config)
    with daemon.stderr.open("ab") as log:
        daemon.process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
    wait_for(lambda: daemon.ctl("ping").returncode == 0, seconds=20, what=daemon.log_text())
    daemon.send([entry("a", -1, 60)])
    daemon.json("sync")
    assert daemon.wait_phase("a", "done")["executionStatus"] == "FINISHED"
    assert daemon.terminate() == 0


def test_a_synchroniser_that_may_not_be_nicer_does_its_work(daemon: Daemon) -> None:
    number = {"x86_64": 141, "aarch64": 140}.get(os.uname().machine)
    if number is None:
        pytest.skip("the number of setpriority(2) is not known here")
    command = refusing(number, errno.EPERM, commands() / "geoschedd", "--config", daemon.config)
    with daemon.stderr.open("ab") as log:
        daemon.process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
    wait_for(lambda: daemon.ctl("ping").returncode == 0, seconds=20, what=daemon.log_text())
    daemon.json("sync")
    assert "Traceback" not in daemon.log_text()


def test_a_client_needs_no_thread(daemon: Daemon) -> None:
    daemon.start()
    ping = (commands() / "geosched-ctl", "--config", daemon.config, "ping")
    code, words = said(*refusing(CLONE3, errno.EPERM, *ping))
    assert (code, len(words.splitlines())) == (0, 1), words
    assert "answers" in words


@pytest.mark.parametrize(
    ("mount", "named"), [(SUBSET, "/proc/sys/kernel/random/boot_id"), (NOTHING, "/proc")]
)
def test_what_is_missing_of_proc_is_named(daemon: Daemon, mount: str, named: str) -> None:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root and unshare")
    unshare = ("unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", mount, "sh")
    assert refused(daemon, *unshare).count(named) >= 2
