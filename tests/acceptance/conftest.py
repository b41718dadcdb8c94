"""The built wheel in an environment of its own: what a user installs is what is tested."""

import fcntl
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


@pytest.fixture(scope="session")
def wheel_environment() -> Iterator[Path]:
    """Where the wheel's commands are. Built from the tree under test, once a session."""
    with tempfile.TemporaryDirectory(prefix="geosched-wheel-") as place:
        root = Path(place)
        with (ROOT / "pyproject.toml").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a build writes into the tree
            _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", root, ROOT)
        (wheel,) = root.glob("geosched-*.whl")
        venv.create(root / "env", with_pip=True)
        python = root / "env/bin/python"
        constraints = ROOT / "constraints.txt"
        _run(python, "-m", "pip", "install", "--quiet", "-c", constraints, wheel)
        yield root / "env/bin"


@pytest.fixture(autouse=True)
def _commands_of_the_wheel(wheel_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For these tests only: others that the same process makes have those of the tree."""
    monkeypatch.setenv("GEOSCHED_TEST_BIN", str(wheel_environment))
