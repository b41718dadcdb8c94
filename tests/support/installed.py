"""The built wheel in an environment of its own, with what it needs and nothing else."""

import fcntl
import subprocess
import sys
import venv
from pathlib import Path

from .paths import ROOT


def install(place: Path) -> Path:
    """Build the tree under test and install it below `place`; where its commands are."""
    with (ROOT / "pyproject.toml").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a build writes into the tree
        _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", place, ROOT)
    (wheel,) = place.glob("geosched-*.whl")
    venv.create(place / "env", symlinks=True, with_pip=True)
    constraints = ROOT / "constraints.txt"
    _run(place / "env/bin/python", "-m", "pip", "install", "--quiet", "-c", constraints, wheel)
    return place / "env/bin"


def _run(*command: object) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
