"""Opening a store with damaged rows and indexes: each costs itself."""

import zlib
from pathlib import Path
from typing import Any

import pytest
from support.damage import ACTIONS, RECORDS, damage_value, last_row, put
from support.store import on_disk


def sound(body: bytes, kind: int = 0) -> bytes:
    return b"\x01" + bytes([kind]) + zlib.crc32(body, kind).to_bytes(4, "big") + body


def cut_value(state_dir: Path, table: str) -> None:
    put(state_dir, table, last_row(state_dir, table)[0], b"\x01")


def mean_nothing(state_dir: Path, table: str) -> None:
    put(state_dir, table, last_row(state_dir, table)[0], sound(b"\x93\x01\x02\x03"))


def mistake_key(state_dir: Path, table: str) -> None:
    key, value = last_row(state_dir, table)
    on_disk(state_dir, table, lambda txn, handle: txn.delete(key, db=handle))
    put(state_dir, table, bytes([key[0] ^ 0x80]) + key[1:], value)


def lengthen_key(state_dir: Path, table: str) -> None:
    key, value = last_row(state_dir, table)
    put(state_dir, table, key + bytes(511 - len(key)), value)


TABLES = ("actions", "details", "runs", "events", "outbox", "refused", "ended")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "spoil", [damage_value, cut_value, mean_nothing, mistake_key, lengthen_key]
)
def test_a_damaged_row_costs_itself(base, tmp_path, table, spoil):
    state_dir = base.copy(tmp_path / "state")
    if table == "refused":
        put(state_dir, table, (3).to_bytes(8, "big"), last_row(state_dir, "outbox")[1])
    spoil(state_dir, table)
    if (table, spoil) in UNSEEN:
        return
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound, store.set_aside) == ("", [], [])
    assert len(store.incidents) == 1
    at_most = 2 if spoil is mistake_key else 1  # a record and the long part that it looks for
    missing = base.holds.actions.keys() - store.actions.keys()
    assert len(missing) <= (at_most if table in RECORDS else 0)
    kept = {each: was for each, was in base.holds.actions.items() if each not in missing}
    assert store.actions == kept
    assert (store.generation, store.device) == (base.holds.generation, base.holds.device)
    assert store.etag == base.holds.etag
    assert base.holds.last_sequence <= store.last_sequence < 2**53
    assert len(store.reports) >= len(base.holds.reports) - 1
    again = base.forked.open(state_dir)
    assert again == store


#: It is another action's run then, and nothing says that it was not.
UNSEEN = {("runs", mistake_key)}


def test_the_number_of_a_damaged_event_is_not_given_again(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    on_disk(state_dir, "outbox", lambda txn, handle: txn.drop(handle, delete=False))
    damage_value(state_dir, "events")
    store = base.forked.open(state_dir)
    assert store.last_sequence == base.holds.last_sequence
    assert base.holds.last_sequence not in store.events


@pytest.mark.parametrize("spoil", [damage_value, cut_value, mean_nothing])
def test_a_damaged_row_of_meta_begins_a_new_generation_above_all_numbers(base, tmp_path, spoil):
    state_dir = base.copy(tmp_path / "state")
    spoil(state_dir, "meta")
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound, len(store.incidents)) == ("", [], 1)
    assert store.actions == base.holds.actions
    assert store.generation != base.holds.generation
    assert (store.etag, store.last_sequence > base.holds.last_sequence) == ("", True)


def test_a_store_that_does_not_know_itself_any_more_begins_a_new_generation(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")
    on_disk(state_dir, "meta", lambda txn, handle: txn.delete(b"store", db=handle))
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound, len(store.incidents)) == ("", [], 1)
    assert store.actions == base.holds.actions
    assert store.last_sequence > base.holds.last_sequence
    assert base.forked.open(state_dir) == store


def lose_edge(txn: Any, handle: Any) -> None:
    with txn.cursor(handle) as at:
        assert at.first()
        at.delete()


def mistake_edge(txn: Any, handle: Any) -> None:
    with txn.cursor(handle) as at:
        assert at.first()
        key, value = at.item()
        at.delete()
    txn.put(bytes([key[0] ^ 0x10]) + key[1:], value, db=handle)


def stray_edge(txn: Any, handle: Any) -> None:
    with txn.cursor(handle) as at:
        assert at.first()
        value = at.value()
    txn.put(bytes(24), value, db=handle)


@pytest.mark.parametrize("index", ["due", "ended"])
@pytest.mark.parametrize("spoil", [lose_edge, mistake_edge, stray_edge])
def test_an_index_that_does_not_follow_its_records_is_made_anew(base, tmp_path, index, spoil):
    """An action that is missing from `due` would never start."""
    state_dir = base.copy(tmp_path / "state")
    on_disk(state_dir, index, spoil)
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound) == ("", [])
    assert store.actions == base.holds.actions
    assert "indexes were made anew" in store.incidents[0].detail
    assert (store.generation, store.reports) == (base.holds.generation, base.holds.reports)


def test_many_damaged_values_are_put_aside(base, tmp_path):
    state_dir = base.copy(tmp_path / "state")

    def damage_all(txn: Any, handle: Any) -> None:
        with txn.cursor(handle) as at:
            for key, value in list(at):
                txn.put(key, value[:-1] + bytes([value[-1] ^ 1]), db=handle)

    on_disk(state_dir, "actions", damage_all)
    store = base.forked.open(state_dir)
    assert (store.error, store.unsound, store.actions) == ("", [], {})
    assert store.reports == base.holds.reports
    assert store.incidents[0].detail.startswith(f"{ACTIONS + 1} damaged values put aside")
