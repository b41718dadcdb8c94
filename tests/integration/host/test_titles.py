"""The names under which the daemon's processes are listed."""

import subprocess
from pathlib import Path

from support.daemon import commands, daemon_installation
from support.processes import zygote
from support.wait import wait_for


def test_a_daemon_without_a_usual_variable_has_processes_with_names():
    """Nothing can be named in a process that has no variable (fact P38)."""
    with daemon_installation() as installed:
        installed.configure(scripts={"default": {"command": ["true"]}})
        env = {"PYTHONCOERCECLOCALE": "0"}  # else Python itself sets one
        with installed.stderr.open("ab") as log:
            installed.process = subprocess.Popen(
                [commands() / "geoschedd", "--config", installed.config], stderr=log, env=env
            )
        wait_for(lambda: installed.ctl("ping").returncode == 0, seconds=15, what="an answer")
        name = Path(f"/proc/{zygote(installed)}/cmdline")
        wait_for(lambda: name.read_bytes().startswith(b"geosched: zygote\0"), what="its name")
        assert installed.terminate() == 0
