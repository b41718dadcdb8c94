"""The line that keeps systemd's cleaner of temporary files away from a daemon's directories."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.paths import DEPLOY

INSTALL = DEPLOY / "install.sh"
INSTALLED = "etc/tmpfiles.d/geosched.conf"


def install(root: Path) -> None:
    environment = {"DESTDIR": str(root), "PREFIX": "/usr", "SYSCONFDIR": "/etc", "INIT": "systemd"}
    subprocess.run([INSTALL], env=os.environ | environment, check=True, timeout=30)


def test_it_is_installed_for_systemd_and_the_operators_from_then_on(tmp_path: Path):
    install(tmp_path)
    installed = tmp_path / INSTALLED
    assert "x /run/geosched" in installed.read_text()
    installed.write_text("mine")
    install(tmp_path)
    assert installed.read_text() == "mine"


@pytest.mark.parametrize("kept", [True, False])
def test_the_cleaner_heeds_it(tmp_path: Path, kept: bool):
    if shutil.which("systemd-tmpfiles") is None or os.geteuid() != 0:
        pytest.skip("there is no systemd-tmpfiles here, or we are not root")
    install(tmp_path)
    file = tmp_path / "run" / "geosched" / "backoff.json"
    file.parent.mkdir(parents=True)
    file.touch()
    lines = (tmp_path / INSTALLED).read_text().replace(" /run", f" {tmp_path}/run") if kept else ""
    rules = tmp_path / "rules.conf"
    rules.write_text(f"d {tmp_path}/run - - - 0\n{lines}")
    done = subprocess.run(
        ["systemd-tmpfiles", "--clean", rules], capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert file.exists() is kept
