"""A damaged store is replaced: again and again, cut short, and on a full disk."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from geosched.supervisor.store import files
from geosched.supervisor.store.files import StorePaths
from geosched.supervisor.store.tools import replace
from support.build import NOW_US
from support.damage import damage_value, spoil_a_page
from support.mounts import ext4, fill, mounted
from support.openings import MAP_BYTES
from support.store import data_file, on_disk

# --- again and again ---------------------------------------------------------------------


def test_incidents_add_up_and_of_the_stores_set_aside_the_newest_two_are_kept(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    last = base.holds
    for number in range(1, 5):
        if number == 3:
            damage_value(state_dir, "events")
        else:
            spoil_a_page(state_dir)
        before = data_file(state_dir).read_bytes()
        store = base.forked.open(state_dir)
        assert (store.error, store.unsound) == ("", [])
        assert len(store.incidents) == number
        assert store.incidents[: number - 1] == last.incidents
        assert store.actions == base.holds.actions
        assert store.last_sequence >= last.last_sequence
        assert store.device == base.holds.device
        assert (store.generation == last.generation) == (number == 3)
        if number != 3:
            assert (state_dir / store.set_aside[-1] / "data.mdb").read_bytes() == before
        last = store
    assert last.set_aside == ["daemondb.bad-2", "daemondb.bad-3"]


def test_a_store_without_events_goes_on_above_the_numbers_it_gave(base, tmp_path):
    """Nothing but its head says how far they went."""
    state_dir = base.copy(tmp_path / "state")
    for table in ("events", "outbox"):
        on_disk(state_dir, table, lambda txn, handle: txn.drop(handle, delete=False))
    spoil_a_page(state_dir)
    first = base.forked.open(state_dir)
    spoil_a_page(state_dir)
    second = base.forked.open(state_dir)
    assert base.holds.last_sequence < first.last_sequence <= second.last_sequence


def test_a_sound_store_is_opened_as_it_is(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    store = base.executed.open(state_dir)
    assert store == base.holds
    assert not list(state_dir.glob("daemondb.*"))


def test_a_store_that_is_set_aside_can_be_opened_like_any_other(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    spoil_a_page(state_dir)
    store = base.forked.open(state_dir)
    shutil.rmtree(state_dir / "daemondb")
    (state_dir / store.set_aside[0]).rename(state_dir / "daemondb")
    again = base.forked.open(state_dir)
    assert again.actions == base.holds.actions


def test_a_store_that_is_set_aside_shares_no_lock_with_the_one_in_use(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    (state_dir / "daemondb" / "lock.mdb").symlink_to(tmp_path / "lock of the live one")
    spoil_a_page(state_dir)
    store = base.forked.open(state_dir)
    assert store.actions == base.holds.actions
    aside = state_dir / store.set_aside[0]
    assert not [path for path in aside.iterdir() if path.is_symlink()]


# --- the exchange is cut short -----------------------------------------------------------

RENAMES = 3


def replace_until(state_dir: Path, steps: int, *, dies: bool) -> int:
    """Replace a store in a process that ends before that step; its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    renamed = 0
    rename = files.rename

    def count(old: Path, new: Path) -> None:
        nonlocal renamed
        if renamed == steps:
            if dies:
                os._exit(9)
            raise OSError(errno.EIO, "as if")
        renamed += 1
        rename(old, new)

    code = 1
    try:
        files.rename = count
        replace.replace(StorePaths(state_dir), "as told", map_bytes=MAP_BYTES, now_us=NOW_US)
        code = 0
    except OSError:
        code = 9
    finally:
        os._exit(code)


@pytest.mark.parametrize("steps", range(RENAMES + 1))
@pytest.mark.parametrize("dies", [True, False], ids=["killed", "fails"])
def test_an_exchange_that_is_cut_short_leaves_the_old_store_or_the_new_one(
    base, tmp_path, steps, dies
):
    state_dir = base.copy(tmp_path / "state")
    for number in (1, 2):  # no set-aside store is lost before there is a newer one
        shutil.copytree(base.state_dir / "daemondb", state_dir / f"daemondb.bad-{number}")
    spoil_a_page(state_dir)
    damaged = data_file(state_dir).read_bytes()
    assert replace_until(state_dir, steps, dies=dies) == (9 if steps < RENAMES else 0)
    aside = {path.name for path in StorePaths(state_dir).set_aside()}
    assert {"daemondb.bad-2"} <= aside
    assert ("daemondb.bad-1" in aside) == (steps < RENAMES)
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound, store.modes) == ("", [], [])
    assert store.actions == base.holds.actions
    assert store.device == base.holds.device
    assert len(store.incidents) == 1
    assert (state_dir / store.set_aside[-1] / "data.mdb").read_bytes() == damaged
    assert store.set_aside == ["daemondb.bad-2", "daemondb.bad-3"]
    assert not [path for path in state_dir.glob("daemondb.*") if "bad" not in path.name]


def test_what_others_left_behind_is_removed(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    gone = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    left = ["tmp", "new", "old", f"copy-{gone.stdout.strip()}"]
    for name in left:
        (state_dir / f"daemondb.{name}").mkdir()
    mine = state_dir / f"daemondb.copy-{os.getpid()}"  # of one that lives
    mine.mkdir()
    store = base.forked.open(state_dir)
    assert store == base.holds
    assert list(state_dir.glob("daemondb.*")) == [mine]


# --- full disks --------------------------------------------------------------------------


def test_where_the_disk_takes_no_other_store_the_damaged_one_stays(base, tmp_path):
    with mounted(tmp_path / "disk", "-o", "loop", ext4(tmp_path / "image", 16 * 1024**2)):
        state_dir = base.copy(tmp_path / "disk" / "state")
        spoil_a_page(state_dir)
        before = data_file(state_dir).read_bytes()
        fill(tmp_path / "disk" / "filling")
        store = base.executed.open(state_dir)
        assert store.error.startswith("cannot")
        assert data_file(state_dir).read_bytes() == before
        assert not list(state_dir.glob("daemondb.*"))
        (tmp_path / "disk" / "filling").unlink()
        store = base.forked.open(state_dir)
        assert (store.error, store.actions) == ("", base.holds.actions)


def test_on_a_full_disk_a_damaged_value_still_costs_only_itself(base, tmp_path):
    with mounted(tmp_path / "disk", "-o", "loop", ext4(tmp_path / "image", 16 * 1024**2)):
        state_dir = base.copy(tmp_path / "disk" / "state")
        store = base.forked.open(state_dir)  # has its blocks from now on
        damage_value(state_dir, "events")
        fill(tmp_path / "disk" / "filling")
        store = base.forked.open(state_dir)
        assert (store.error, store.actions) == ("", base.holds.actions)
