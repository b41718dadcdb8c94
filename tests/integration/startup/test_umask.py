"""What the daemon makes has its modes, whatever umask it was started with."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for

MODES = {"state": 0o700, "run": 0o750, "log": 0o750, "run/control.sock": 0o660}


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        talk = installed.script("talk", "umask; note said; sleep 60")
        installed.configure(scripts={"default": {"command": [talk], "stop_grace": "100ms"}})
        installed.send([entry("a", -1, 3600)])
        yield installed


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", ["0", "077", "0777"])
def test_modes_do_not_depend_on_the_umask_of_who_starts_it(daemon: Daemon, umask: str):
    daemon.start(by=["/bin/sh", "-c", f'umask {umask}; exec "$@"', "sh"])
    run = daemon.wait_phase("a", "running")["run"]
    wait_for(lambda: daemon.notes("said"))
    output = daemon.root / "log" / f"{run['runId']}.log"
    wait_for(lambda: output.exists() and output.read_text() == "0022\n", what="the script's umask")
    assert mode(output) == 0o640
    assert {name: mode(daemon.root / name) for name in MODES} == MODES
    kept = [path for name in ("state", "run") for path in (daemon.root / name).rglob("*")]
    files = {path.name: mode(path) for path in kept if path.is_file() and not path.is_symlink()}
    assert set(files.values()) == {0o600}, files
    directories = {path.name: mode(path) for path in kept if path.is_dir()}
    assert directories.pop("sd") == 0o711
    assert set(directories.values()) == {0o700}, directories
