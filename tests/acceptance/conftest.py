"""The built wheel in an environment of its own: what a user installs is what is tested. Where
GEOSCHED_TEST_BIN names other commands, those are: a package that is installed already."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.installed import install


@pytest.fixture(scope="session")
def wheel_environment() -> Iterator[Path]:
    """Where the wheel's commands are. Built from the tree under test, once a session."""
    if installed := os.environ.get("GEOSCHED_TEST_BIN"):
        yield Path(installed)
        return
    with tempfile.TemporaryDirectory(prefix="geosched-wheel-") as place:
        yield install(Path(place))


@pytest.fixture(autouse=True)
def _commands_of_the_wheel(wheel_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For these tests only: others that the same process makes have those of the tree."""
    monkeypatch.setenv("GEOSCHED_TEST_BIN", str(wheel_environment))
