"""The unit for scripts that need little: what it leaves of root's rights is enough for the daemon.

The capabilities and `no_new_privs` are tried, without systemd; what systemd mounts and filters is
not.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from support.daemon import Daemon, entry, installation_for_everybody, lives
from support.paths import DEPLOY
from support.wait import wait_for

LONG = 3600
APP = "geosched-app"


def capabilities() -> list[str]:
    text = (DEPLOY / "systemd" / "hardened.conf").read_text().replace("\\\n", " ")
    lines = re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE)
    assert lines[0] == ""  # what stood in the unit counts no more
    return [name.removeprefix("CAP_").lower() for name in lines[1].split()]


@pytest.fixture
def hardened() -> list[str]:
    """The command that starts a daemon with the rights of that unit."""
    found = shutil.which("setpriv")
    if found is None or os.geteuid() != 0:
        pytest.skip("this host has no setpriv, or we are not root")
    left = ",".join(f"+{name}" for name in capabilities())
    command = [found, "--no-new-privs", f"--bounding-set=-all,{left}"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"these rights are not to be had: {tried.stderr}")
    return command


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with installation_for_everybody() as installed:
        yield installed


def test_a_script_of_another_user_is_begun_limited_and_ended(daemon: Daemon, hardened: list[str]):
    deaf = "trap '' TERM; setsid sleep 600 & nice; note began; sleep 600"
    command = {"command": [daemon.script("s", deaf)], "user": "nobody", "stop_grace": "200ms"}
    conditions = {"nice": 5, "oom_score_adj": 300, "no_new_privs": True}
    daemon.configure(scripts={"default": command | conditions})
    daemon.send([entry("a", -1, LONG), entry("b", 3, LONG)])
    daemon.start(by=hardened)
    for action in ("a", "b"):
        wait_for(lambda action=action: daemon.notes("began", action), what=action)
        family = daemon.left_of(action)
        assert len(family) >= 2
        assert daemon.ctl("stop", action).returncode == 0
        assert not any(map(lives, family))
        assert daemon.ctl("logs", action).stdout.startswith("5\n")
    assert daemon.terminate() == 0


def test_the_script_that_ships_ends_an_app_of_another_user(daemon: Daemon, hardened: list[str]):
    script = DEPLOY / "scripts" / "block-apps"
    command = [str(script), "--apps={apps}"]
    daemon.configure(scripts={"default": {"command": command}})
    daemon.start(by=hardened)
    program = daemon.root / APP
    shutil.copy(shutil.which("sleep") or "", program)
    program.chmod(0o755)
    app = subprocess.Popen([program, "600"], user=65534, extra_groups=[])
    try:
        daemon.send([entry("a", -1, LONG, appNames=[APP])])
        app.wait(20)
    finally:
        app.kill()
        app.wait()
    assert daemon.action("a")["phase"] == "running"
