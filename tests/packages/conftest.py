"""Trees of Debian to install the packages in, and the packages."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT
from support.tree import Copies


@pytest.fixture
def copies() -> Iterator[Copies]:
    with Copies() as made:
        yield made


@pytest.fixture(scope="session")
def session_copies() -> Iterator[Copies]:
    with Copies() as made:
        yield made


@pytest.fixture(scope="session")
def deb() -> Path:
    return _built("geosched_*_all.deb", "make deb")


@pytest.fixture(scope="session")
def bundle() -> Path:
    return _built("geosched-*-bundle-*.tar.gz", "make bundle")


def _built(pattern: str, by: str) -> Path:
    found = sorted((ROOT / "dist").glob(pattern), key=lambda path: path.stat().st_mtime)
    assert found, f"no dist/{pattern}: {by}"
    return found[-1]
