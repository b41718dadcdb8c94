"""The built wheel in an environment of its own: what a user installs is what is tested."""

import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _run(*command: object) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="session", autouse=True)
def wheel_environment() -> Iterator[Path]:
    """Where the wheel's commands are. Built from the tree under test, once a session."""
    with tempfile.TemporaryDirectory(prefix="geosched-wheel-") as place:
        root = Path(place)
        _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", root, ROOT)
        (wheel,) = root.glob("geosched-*.whl")
        venv.create(root / "env", with_pip=True)
        python = root / "env/bin/python"
        constraints = ROOT / "constraints.txt"
        _run(python, "-m", "pip", "install", "--quiet", "-c", constraints, wheel)
        os.environ["GEOSCHED_TEST_BIN"] = str(root / "env/bin")
        yield root / "env/bin"
        del os.environ["GEOSCHED_TEST_BIN"]
