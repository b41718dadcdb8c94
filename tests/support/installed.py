"""The built wheel in an environment of its own, with what it needs and nothing else."""

import fcntl
import subprocess
import sys
from pathlib import Path

from .paths import ROOT


def install(place: Path, *, python: str = sys.executable, root: Path = ROOT) -> Path:
    """Build a tree and install it below `place`, for one Python; where its commands are."""
    with (root / "pyproject.toml").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a build writes into the tree
        wheel = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation")
        _run(*wheel, "--no-deps", "-w", place, root)
    (package,) = place.glob("geosched-*.whl")
    _run(python, "-m", "venv", place / "env")
    install = (place / "env/bin/python", "-m", "pip", "install", "--quiet")
    _run(*install, "--require-hashes", "-r", root / "requirements/daemon.txt")
    _run(*install, "--no-deps", package)
    return place / "env/bin"


def _run(*command: object) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
