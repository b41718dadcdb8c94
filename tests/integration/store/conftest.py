"""A daemonDB in a directory of its own, opened again by a second call."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.supervisor.store.daemondb import DaemonDB
from support.store import Opener


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def opened(state_dir: Path) -> Iterator[Opener]:
    opener = Opener(state_dir)
    yield opener
    opener.close()


@pytest.fixture
def db(opened: Opener) -> DaemonDB:
    return opened()
