"""A place for a control socket, and a daemon of canned answers that listens there."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.ctl import STARTED, CannedDaemon, Script


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="gs-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def daemon(place: Path) -> Iterator[Callable[[Script], CannedDaemon]]:
    started: list[CannedDaemon] = []

    def start(script: Script) -> CannedDaemon:
        started.append(CannedDaemon(place / "control.sock", script))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture(autouse=True)
def _nothing_goes_on() -> Iterator[None]:
    """What a test that fails leaves behind would be held against another test, later."""
    yield
    while STARTED:
        with STARTED.pop() as process:
            process.kill()
