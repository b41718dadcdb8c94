"""Trees of Debian to install the packages in."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import tree
from support.paths import ROOT
from support.tree import Tree

MakeTree = Callable[[str], Tree]


@pytest.fixture
def bare_python() -> Iterator[MakeTree]:
    """Makes copies of a minimal Debian with python3; removed afterwards."""
    tree.require()
    tree.KEPT.mkdir(parents=True, exist_ok=True)
    places: list[Path] = []

    def make(suite: str) -> Tree:
        places.append(Path(tempfile.mkdtemp(prefix=f"{suite}-", dir=tree.KEPT)))
        return tree.with_python(suite).copy(places[-1] / "root")

    yield make
    for place in places:
        shutil.rmtree(place)


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
