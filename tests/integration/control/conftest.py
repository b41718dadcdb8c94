"""A router that sends everything back, at a path of its own, and its peers."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from geosched.ipc.router import Bounds
from support.router import BOUNDS, Echo, Peers


@pytest.fixture
def path() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="gs-"))
    yield place / "s"
    shutil.rmtree(place)


@pytest.fixture
def echoes(path: Path) -> Iterator[Callable[..., Echo]]:
    made: list[Echo] = []

    def make(bounds: Bounds = BOUNDS) -> Echo:
        made.append(Echo(path, bounds))
        return made[-1]

    yield make
    for echo in made:
        echo.close()


@pytest.fixture
def echo(echoes: Callable[..., Echo]) -> Echo:
    return echoes()


@pytest.fixture
def peers(path: Path) -> Iterator[Peers]:
    made = Peers(path)
    yield made
    made.close()
