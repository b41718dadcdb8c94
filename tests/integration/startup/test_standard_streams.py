"""Exit codes and messages of the commands do not depend on who reads their standard streams."""

import itertools
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.daemon import Daemon, commands, daemon_installation, entry
from support.wait import wait_for

#: For descriptor 0, 1 and 2 what the shell makes of it.
STREAMS = {
    "closed": (">&-", "<&-"),
    "full": (">/dev/full", "</dev/full"),
    "null": (">/dev/null", "</dev/null"),
}
CTL, GEOSCHEDD = (shlex.quote(str(commands() / name)) for name in ("geosched-ctl", "geoschedd"))
STORE_TOOL = f"{shlex.quote(sys.executable)} -P -m geosched.supervisor.store.tools.cli"


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with daemon_installation() as made:
        made.configure(scripts={"default": {"command": ["/bin/true"]}})
        made.start()
        yield made


def redirected(stdin: str, stdout: str, stderr: str) -> str:
    return f"{STREAMS[stdin][1]} 1{STREAMS[stdout][0]} 2{STREAMS[stderr][0]}"


def in_shell(command: str) -> tuple[int, str]:
    """Exit code, and what was printed in spite of all."""
    done = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


COMBINATIONS = list(itertools.product(STREAMS, repeat=3))


@pytest.mark.parametrize("streams", COMBINATIONS, ids="-".join)
def test_a_command_has_its_exit_code_whatever_its_streams_are(
    running: Daemon, streams: tuple[str, str, str]
) -> None:
    ctl = f"{CTL} --config {running.config}"
    lost = 1 if streams[1] == "full" else 0
    for verb, code in (("ping", lost), ("stop nosuch", 5), ("--config /nonexistent ping", 2)):
        assert in_shell(f"{ctl} {verb} {redirected(*streams)}") == (code, ""), verb


@pytest.mark.parametrize("streams", COMBINATIONS, ids="-".join)
def test_a_check_has_its_exit_code_whatever_its_streams_are(
    running: Daemon, streams: tuple[str, str, str]
) -> None:
    redirections = redirected(*streams)
    assert in_shell(f"{GEOSCHEDD} --config {running.config} --check {redirections}") == (0, "")
    assert in_shell(f"{GEOSCHEDD} --config /nonexistent --check {redirections}") == (2, "")
    assert in_shell(f"{GEOSCHEDD} --nonsense {redirections}") == (2, "")


@pytest.mark.parametrize(("redirection", "code"), [(">/dev/full", 1), (">&-", 0), ("| true", 0)])
def test_what_cannot_be_printed_is_one_line(running: Daemon, redirection: str, code: int) -> None:
    for command in (
        f"{CTL} --config {running.config} -o json status",
        f"{CTL} --help",
        f"{CTL} --version",
        f"{CTL} --config {running.config} db stats",
        f"{CTL} --config {running.config} db export",
        f"{GEOSCHEDD} --version",
        f"{GEOSCHEDD} --help",
        f"{STORE_TOOL} stats {running.root}/state",
    ):
        found, printed = in_shell(f"{command} {redirection}")
        assert (found, len(printed.splitlines())) == (code, code), (command, printed)
        assert "Traceback" not in printed, command


def test_following_ends_when_its_reader_has_left(running: Daemon) -> None:
    following = subprocess.Popen(
        [commands() / "geosched-ctl", "--config", running.config, "-o", "jsonl", "events", "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert following.stdout is not None
    assert following.stderr is not None
    following.stdout.close()
    try:
        running.send([])
        running.send([entry("a", -1, 60)])
        assert wait_for(lambda: following.poll() is not None, seconds=20)
        assert following.stderr.read() == b""
    finally:
        following.kill()
        following.wait(10)
        following.stderr.close()


@pytest.mark.parametrize("streams", ["closed", "full"])
def test_a_daemon_without_standard_streams_does_its_work_and_stops_with_0(streams: str) -> None:
    with daemon_installation() as daemon:
        daemon.configure(scripts={"default": {"command": ["/bin/sh", "-c", "echo said"]}})
        redirections = redirected(streams, streams, streams)
        command = f"exec {GEOSCHEDD} --config {daemon.config} {redirections}"
        daemon.process = subprocess.Popen(["/bin/sh", "-c", command])
        wait_for(lambda: daemon.ctl("ping").returncode == 0, seconds=20)
        daemon.send([entry("a", -1, 60)])
        daemon.json("sync")
        assert daemon.wait_phase("a", "done")["executionStatus"] == "FINISHED"
        assert daemon.ctl("logs", "a").stdout == "said\n"
        assert daemon.terminate() == 0
