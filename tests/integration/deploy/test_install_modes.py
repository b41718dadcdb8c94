"""What the installer makes: with its own modes, and through nobody's links."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from support.paths import DEPLOY


def installed(root: Path, umask: int) -> None:
    environment = {"DESTDIR": str(root), "PREFIX": "/usr", "SYSCONFDIR": "/etc", "INIT": "sysv"}
    subprocess.run(
        [DEPLOY / "install.sh"],
        env=os.environ | environment,
        umask=umask,
        capture_output=True,
        timeout=30,
        check=True,
    )


@pytest.mark.parametrize("umask", [0, 0o077])
def test_modes_do_not_depend_on_the_umask_of_who_installs(tmp_path: Path, umask: int):
    installed(tmp_path, umask)
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o755}
    files = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.toml")}
    assert set(files.values()) == {0o644}


def test_a_link_in_the_place_of_half_a_file_is_not_written_through(tmp_path: Path):
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    scripts = tmp_path / "usr/lib/geosched/scripts"
    scripts.mkdir(parents=True)
    (scripts / "block-apps.new").symlink_to(precious)
    installed(tmp_path, 0o022)
    assert precious.read_text() == "keep me"
    assert not (scripts / "block-apps").is_symlink()
