"""The store that the tests of opening damage copies of."""

import shutil
from collections.abc import Iterator
from contextlib import closing

import pytest
from support.damage import ACTIONS, Base, make_store
from support.layout import Layout
from support.openings import Openings
from support.store import data_file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    root = tmp_path_factory.mktemp("base")
    with closing(Openings()) as forked, closing(Openings(executed=True)) as executed:
        state_dir, kept = root / "state", root / "backups"
        make_store(state_dir, kept)
        held = {}
        for backup in ("1", "2"):
            shutil.copytree(kept / backup, root / f"of-{backup}" / "daemondb")
            held[backup] = forked.open(root / f"of-{backup}")
        shutil.copytree(state_dir, root / "copy")
        holds = forked.open(root / "copy")
        assert (holds.error, holds.unsound, len(holds.actions)) == ("", [], ACTIONS + 1)
        layout = Layout(data_file(state_dir))
        yield Base(state_dir, kept, forked, executed, layout, holds, held)
