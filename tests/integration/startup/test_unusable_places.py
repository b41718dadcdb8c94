"""A place that cannot hold what the daemon keeps is one sentence, at the start and in a check."""

import errno
import os
import subprocess
from collections.abc import Iterator, Sequence

import pytest
from support.daemon import Daemon, commands, daemon_installation
from support.mounts import call, fill, mounted
from support.seccomp import refusing

BIND = {"x86_64": 49, "aarch64": 200}
SCRIPTS = {"default": {"command": ["/bin/true"]}}


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as made:
        made.configure(scripts=SCRIPTS)
        yield made


def said(daemon: Daemon, *options: str, around: Sequence[str] = ()) -> tuple[int, list[str]]:
    command = [*around, commands() / "geoschedd", "--config", daemon.config, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stderr.splitlines()


def refused(daemon: Daemon, reason: str) -> None:
    for options in (["--check"], []):
        code, lines = said(daemon, *options)
        assert (code, len(lines)) == (2, 1), lines
        assert reason in lines[0]


@pytest.mark.parametrize("key", ["state_dir", "runtime_dir"])
def test_a_read_only_mount_and_one_of_the_kernel_s_own_are_refused(
    daemon: Daemon, key: str
) -> None:
    place = daemon.root / "place"
    with mounted(place, "-t", "tmpfs", "none"):
        (place / "d").mkdir()
        call("mount", "-o", "remount,ro", place)
        daemon.configure(scripts=SCRIPTS, **{key: str(place / "d")})
        refused(daemon, "is not writable")
        daemon.configure(scripts=SCRIPTS, **{key: str(place / "e")})
        refused(daemon, f"cannot create {place / 'e'}: ")
    daemon.configure(scripts=SCRIPTS, **{key: "/proc/none"})
    refused(daemon, "cannot create /proc/none: ")
    daemon.configure(scripts=SCRIPTS, **{key: "/proc"})
    refused(daemon, "files cannot be made in /proc: ")


def test_a_file_in_the_place_of_a_socket_is_refused(daemon: Daemon) -> None:
    (daemon.root / "run").mkdir()
    (daemon.root / "run" / "control.sock").write_text("mine")
    refused(daemon, "control.sock is there, and is no socket")
    assert (daemon.root / "run" / "control.sock").read_text() == "mine"


def test_a_host_that_lets_no_socket_be_bound_is_refused(daemon: Daemon) -> None:
    number = BIND.get(os.uname().machine)
    if number is None:
        pytest.skip("the number of bind(2) is not known here")
    around = refusing(number, errno.EPERM)
    code, lines = said(daemon, "--check", around=around)
    assert (code, len(lines)) == (2, 1), lines
    assert "cannot use sockets of AF_UNIX" in lines[0]
    code, lines = said(daemon, around=around)
    assert (code, len(lines)) == (2, 1), lines
    assert "cannot use sockets of AF_UNIX" in lines[0]


def test_a_full_disk_is_found_by_a_check_and_has_its_exit_code_at_a_start(daemon: Daemon) -> None:
    place = daemon.root / "place"
    with mounted(place, "-t", "tmpfs", "-o", "size=128k", "none"):
        fill(place / "fill")
        daemon.configure(scripts=SCRIPTS, state_dir=str(place / "state"))
        code, lines = said(daemon, "--check")
        assert (code, lines[0].endswith("is full")) == (2, True)
        code, lines = said(daemon)
        assert (code, "Traceback" in str(lines)) == (4, False)
        assert "No space left" in lines[-1]
