"""Rights that a script has of its daemon: another user's script has none, whatever the daemon was
started with."""

import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon, entry, installation_for_everybody
from support.processes import log_relay
from support.second_user import SECOND_USER
from support.wait import wait_for

LONG = 3600
#: An action that is due at once, and one whose script is held before its first instruction.
STARTS = pytest.mark.parametrize("start", [-1, 3], ids=["at once", "at its instant"])
SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")
CAPS = "+setuid,+setgid,+chown,+kill,+setpcap,+sys_ptrace"
#: Numbers of add_key(2); that of keyctl(2) is two more.
ADD_KEY = {"x86_64": 248, "aarch64": 217, "riscv64": 217}
#: Joins a session keyring, puts a key into it, and becomes the command.
WITH_KEY = """
import ctypes, os, sys
number = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(number + 2, 1, None) > 0, os.strerror(ctypes.get_errno())
session = ctypes.c_int(-3)
assert libc.syscall(number, b"user", b"geosched-secret", b"x", 1, session) > 0
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with installation_for_everybody() as installed:
        yield installed


def said(daemon: Daemon) -> str:
    daemon.wait_status("a", "FINISHED")
    shown: str = daemon.ctl("logs", "a").stdout
    return shown


def setpriv(*options: str) -> list[str]:
    """A command with these rights; `--help` of an old one knows less."""
    found = shutil.which("setpriv")
    if found is None:
        pytest.skip("this host has no setpriv")
    command = [found, *options]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"these rights are not to be had: {tried.stderr}")
    return command


@STARTS
def test_no_capability_passes_to_a_script_of_another_user(daemon: Daemon, start: float):
    """Not even where whoever started the daemon lets them survive a change of user."""
    body = f"grep -E '^({'|'.join(SETS)}):' /proc/self/status; setpriv --dump | grep -i securebits"
    script = {"command": [daemon.script("s", body)], "user": "nobody"}
    daemon.configure(scripts={"default": script})
    daemon.send([entry("a", start, LONG)])
    daemon.start(
        by=setpriv(f"--inh-caps={CAPS}", f"--ambient-caps={CAPS}", "--securebits=+no_setuid_fixup")
    )
    *sets, securebits = said(daemon).splitlines()
    assert {line.split()[0]: int(line.split()[1], 16) for line in sets} == {
        f"{name}:": 0 for name in SETS
    }
    assert securebits.split()[1:] == ["[none]"]


def test_a_script_of_the_daemons_own_user_keeps_what_the_daemon_has(daemon: Daemon):
    body = "grep -E '^(CapEff|NoNewPrivs):' /proc/self/status"
    daemon.configure(scripts={"default": {"command": [daemon.script("s", body)]}})
    daemon.send([entry("a", -1, LONG)])
    daemon.start()
    own = Path("/proc/self/status").read_text()
    assert said(daemon) == "".join(
        f"{line}\n" for line in own.splitlines() if line.startswith(("CapEff:", "NoNewPrivs:"))
    )


@STARTS
@pytest.mark.parametrize("forbidden", [False, True])
def test_no_new_privileges_only_where_the_settings_say_so(
    daemon: Daemon, start: float, forbidden: bool
):
    """A script goes on being able to use sudo, unless it is told not to."""
    if os.statvfs(daemon.root).f_flag & os.ST_NOSUID:
        pytest.skip("the file system of temporary files knows no set-uid programs")
    program = daemon.root / "id"
    found = shutil.which("id")
    assert found
    shutil.copy(found, program)
    program.chmod(0o4755)
    body = f"{program} -u; grep NoNewPrivs /proc/self/status"
    script = {"command": [daemon.script("s", body)], "user": "nobody"}
    daemon.configure(scripts={"default": script | ({"no_new_privs": True} if forbidden else {})})
    daemon.send([entry("a", start, LONG)])
    daemon.start()
    assert said(daemon).split() == ["65534" if forbidden else "0", "NoNewPrivs:", f"{forbidden:d}"]


def test_no_key_of_the_daemons_session_is_a_script_of_another_users(daemon: Daemon):
    number = ADD_KEY.get(platform.machine())
    if number is None or not os.path.exists("/proc/keys"):
        pytest.skip("this kernel shows no keys, or its numbers are not known here")
    body = "grep -q geosched-secret /proc/keys && echo seen; echo looked"
    scripts = {"command": [daemon.script("s", body)]}
    daemon.configure(scripts={"default": scripts | {"user": "nobody"}, "own": scripts})
    daemon.send([entry("a", -1, LONG), entry("b", -1, LONG, type="own")])
    daemon.start(by=[sys.executable, "-c", WITH_KEY, str(number)])
    assert said(daemon) == "looked\n"
    daemon.wait_status("b", "FINISHED")
    assert daemon.ctl("logs", "b").stdout == "seen\nlooked\n"


def test_the_process_of_the_log_has_no_rights_and_writes_it(daemon: Daemon):
    daemon.configure(scripts={"default": {"command": ["/bin/true"]}})
    daemon.start("--log-level", "debug")

    def has_none() -> bool:
        relay = log_relay(daemon)
        status = Path(f"/proc/{relay}/status").read_text() if relay else ""
        lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if lines.get("NoNewPrivs") != "1":
            return False
        return not any(int(lines[name], 16) for name in SETS)

    wait_for(has_none, what="a process of the log without rights")
    assert daemon.ctl("sync").returncode == 0
    wait_for(lambda: "Asked by uid 0" in daemon.log_text())
    assert daemon.terminate() == 0


# --- a daemon that is not root, and has capabilities ----------------------------------------


@pytest.fixture
def capable(daemon: Daemon) -> list[str]:
    """The command by which a daemon of the second user can become anybody."""
    caps = "+setuid,+setgid,+chown,+dac_read_search"  # the last to reach the tests' own Python
    user = (f"--reuid={SECOND_USER}", f"--regid={SECOND_USER}", "--clear-groups")
    command = setpriv(*user, f"--inh-caps={caps}", f"--ambient-caps={caps}")
    python = [*command, sys.executable, "-c", "import geosched.supervisor.daemon"]
    if subprocess.run(python, cwd="/", capture_output=True, check=False).returncode:
        pytest.skip("no other user can execute the software under test")
    for path in (daemon.root, *daemon.root.iterdir()):
        os.chown(path, SECOND_USER, SECOND_USER)
    return command


def configured(daemon: Daemon, user: str | int) -> None:
    body = "id -u; grep CapEff /proc/self/status"
    script = {"command": [daemon.script("s", body)], "user": user}
    daemon.configure(scripts={"default": script})


@pytest.mark.parametrize("arguments", [(), ("--check",)], ids=["start", "check"])
def test_a_daemon_that_is_not_root_refuses_other_users_whatever_it_could_do(
    daemon: Daemon, capable: list[str], arguments: tuple[str, ...]
):
    configured(daemon, "nobody")
    daemon.start(*arguments, by=capable, wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(20) == 2
    reason = "scripts.default.user: only root can run a script as somebody else"
    assert reason in daemon.log_text()


def test_a_reload_cannot_bring_it_another_user(daemon: Daemon, capable: list[str]):
    configured(daemon, "")
    daemon.send([entry("a", -1, LONG)])
    daemon.start(by=capable)
    assert said(daemon).split()[0] == str(SECOND_USER)
    configured(daemon, "nobody")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "Not reloaded" in daemon.log_text())
    assert "only root can run a script as somebody else" in daemon.log_text()
