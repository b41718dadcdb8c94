"""Where simulated daemons keep their stores."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """In memory: what a disk does to a store is tried elsewhere, and here are thousands of
    commits a second."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(prefix="geosched-simulation-", dir=memory))
    yield made
    shutil.rmtree(made)
