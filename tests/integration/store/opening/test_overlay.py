"""Stores in a layer of an overlay, whose directories cannot be renamed."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from geosched.supervisor.store import files
from geosched.supervisor.store.files import StorePaths
from geosched.supervisor.store.repair import examine
from geosched.supervisor.store.tools import cli
from support.damage import Base, spoil_a_page
from support.mounts import mounted
from support.store import data_file

Rename: TypeAlias = Callable[[Path, Path], Path]


@contextmanager
def overlay(root: Path, lower: Path) -> Iterator[Path]:
    """A file system whose lower layer is `lower`."""
    place, layers = root / "overlay", root / "layers"
    with mounted(layers, "-t", "tmpfs", "none"):
        for name in ("upper", "work"):
            (layers / name).mkdir()
        given = f"lowerdir={lower},upperdir={layers}/upper,workdir={layers}/work,redirect_dir=off"
        with mounted(place, "-t", "overlay", "-o", given, "none"):
            yield place


@pytest.fixture
def lower(base: Base, tmp_path: Path) -> Path:
    layer = tmp_path / "lower"
    layer.mkdir()
    shutil.copytree(base.copy(tmp_path / "copied"), layer / "state")
    return layer


def test_a_damaged_store_of_the_lower_layer_is_replaced_again_and_again(
    base: Base, lower: Path, tmp_path: Path
):
    spoil_a_page(lower / "state")
    with overlay(tmp_path, lower) as place:
        state_dir = place / "state"
        for number in range(1, 4):
            before = data_file(state_dir).read_bytes()
            store = base.forked.open(state_dir)
            assert (store.error, store.unsound, store.modes) == ("", [], [])
            assert store.actions == base.holds.actions
            assert len(store.incidents) == number
            assert (state_dir / store.set_aside[-1] / "data.mdb").read_bytes() == before
            assert not (state_dir / "daemondb.new").exists()
            spoil_a_page(state_dir)


def test_the_directory_of_a_store_of_the_lower_layer_cannot_be_renamed(lower: Path, tmp_path: Path):
    """Else the other tests here try nothing."""
    with overlay(tmp_path, lower) as place, pytest.raises(OSError, match="cross-device"):
        (place / "state" / "daemondb").rename(place / "state" / "other")


def test_a_store_of_the_lower_layer_is_compacted(base: Base, lower: Path, tmp_path: Path):
    with overlay(tmp_path, lower) as place:
        with contextlib.suppress(SystemExit):
            cli.main(["compact", str(place / "state")])
        assert {path.name for path in (place / "state").iterdir()} == {"daemondb", "lock"}
        assert base.forked.open(place / "state").actions == base.holds.actions


@pytest.mark.parametrize("last", range(5))
def test_a_replacement_in_the_lower_layer_that_is_cut_short_leaves_one_whole_store(
    base: Base, lower: Path, tmp_path: Path, last: int, monkeypatch: pytest.MonkeyPatch
):
    """After each rename of a file: either the damaged store is still there, or the new one."""
    with overlay(tmp_path, lower) as place:
        paths = StorePaths(place / "state")
        before = data_file(place / "state").read_bytes()
        with paths.empty_for_making() as making:
            files.copy_file(data_file(place / "state"), making / "data.mdb")
            files.mark_initialised(making)
            (making / "incidents.json").write_text("[]")
            with monkeypatch.context() as patched:
                patched.setattr(Path, "rename", _cut_short(Path.rename, last))
                with contextlib.suppress(KeyboardInterrupt):
                    paths.put_in_place(paths.next_aside())
        paths.prepare()
        assert data_file(place / "state").read_bytes() == before
        assert examine.examine(paths.store).usable
        assert base.forked.open(place / "state").actions == base.holds.actions


def _cut_short(rename: Rename, last: int) -> Rename:
    done: list[Path] = []

    def renamed(path: Path, target: Path) -> Path:
        made = rename(path, target)
        done.append(path)
        if len(done) > last:
            raise KeyboardInterrupt
        return made

    return renamed


def test_a_finished_store_of_the_lower_layer_takes_its_place(
    base: Base, lower: Path, tmp_path: Path
):
    (lower / "state" / "daemondb").rename(lower / "state" / "daemondb.new")
    with overlay(tmp_path, lower) as place:
        assert base.forked.open(place / "state").actions == base.holds.actions
        assert os.listdir(place / "state" / "daemondb")
