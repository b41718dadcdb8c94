"""What goes where when two stores become one, and the small words around it."""

import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from geosched.ipc.actions import ExecutionStatus
from geosched.ipc.ctl.words import size
from geosched.supervisor.core.model import Record
from geosched.supervisor.store import py_lmdb
from geosched.supervisor.store.daemondb import DaemonDB
from geosched.supervisor.store.files import number_of, numbered, remove_left
from geosched.supervisor.store.repair import incidents, lmdb_pages, salvage
from geosched.supervisor.store.repair.incidents import (
    DETAIL_CHARS_MAX,
    FILE_BYTES_MAX,
    INCIDENTS_MAX,
    Incident,
)
from geosched.supervisor.store.repair.salvage import Salvage, Table
from geosched.supervisor.store.tables.codec import action_key, encode_stored, split
from msgspec.structs import replace
from support.build import NOW_US, record, running
from support.store import LONG_NAMES, add, flip, start

STARTED, NULL = ExecutionStatus.STARTED, ExecutionStatus.NULL


# --- salvage over a backup ---------------------------------------------------------------


@pytest.fixture
def backup(tmp_path: Path) -> Iterator[DaemonDB]:
    with closing(DaemonDB.open(tmp_path / "state", map_bytes=1024**2)) as db:
        yield db


def saved(*records: Record, whole: bool = True, newest: bool = True) -> Salvage:
    """Of a store that holds these records and nothing else."""
    found = Salvage({name: Table(whole=whole) for name in Salvage().tables}, newest)
    for each in records:
        stored, details = split(each)
        key = action_key(each.action.id)
        found.tables["actions"].rows[key] = encode_stored(stored)
        if details:
            found.tables["details"].rows[key] = details
    return found


def statuses(db: DaemonDB) -> dict[str, ExecutionStatus]:
    records, _ = db.page("", 1000, frozenset(ExecutionStatus))
    return {each.action.id: each.status for each in records}


def test_a_whole_table_says_which_actions_there_are(backup):
    add(backup, "a", "gone", app_names=LONG_NAMES)
    backup.adopt(saved(record(id="a", app_names=LONG_NAMES), record(id="b")), now_us=NOW_US)
    assert statuses(backup) == {"a": NULL, "b": NULL}
    assert backup.read("a").action.app_names == LONG_NAMES


def test_of_half_a_table_what_is_older_does_not_count(backup):
    add(backup, "a", "b", "kept")
    start(backup, "a")
    half = saved(record(id="a"), replace(running(id="b"), revision=2), whole=False)
    backup.adopt(half, now_us=NOW_US)
    assert statuses(backup) == {"a": STARTED, "b": STARTED, "kept": NULL}


def test_a_lost_row_of_a_whole_table_is_as_it_was_in_the_backup(backup):
    add(backup, "a", "lost", "gone")
    found = saved(record(id="a"))
    found.tables["actions"].lost.add(action_key("lost"))
    backup.adopt(found, now_us=NOW_US)
    assert statuses(backup) == {"a": NULL, "lost": NULL}


def test_a_record_whose_long_configuration_is_lost_gives_way_to_an_older_whole_one(backup):
    add(backup, "a", "b", app_names=LONG_NAMES)
    changed = replace(record(id="a", app_names=LONG_NAMES[::-1]), revision=9)
    same = replace(running(id="b", app_names=LONG_NAMES), revision=9)
    found = saved(changed, same, whole=False)
    found.tables["details"].rows.clear()
    backup.adopt(found, now_us=NOW_US)
    assert statuses(backup) == {"a": NULL, "b": STARTED}
    assert backup.read("a").action.app_names == LONG_NAMES
    assert backup.read("b").action.app_names == LONG_NAMES


def test_long_configuration_that_is_no_longer_there_goes(backup):
    add(backup, "a", app_names=LONG_NAMES)
    backup.adopt(saved(replace(record(id="a"), revision=5), whole=False), now_us=NOW_US)
    assert backup.read("a").action.app_names == ("Chrome", "Steam")


def test_the_numbers_go_on_above_those_of_both(backup):
    add(backup, "a")
    start(backup, "a")
    found = saved()
    found.tables["events"].lost.add((77).to_bytes(8, "big"))
    backup.adopt(found, now_us=NOW_US)
    assert backup.meta.sequence_floor == 77
    backup.adopt(saved(newest=False), now_us=NOW_US)
    assert backup.meta.sequence_floor > 1_000_000


def test_what_is_damaged_in_the_backup_is_put_aside(tmp_path):
    with closing(DaemonDB.open(tmp_path, map_bytes=1024**2)) as db:
        add(db, "a", "b")
    flip("actions", action_key("a"), tmp_path)
    with closing(DaemonDB.open(tmp_path, map_bytes=1024**2)) as db:
        db.adopt(Salvage(), now_us=NOW_US)
        assert (statuses(db), sum(db.counts().values())) == ({"b": NULL}, 1)


# --- pages -------------------------------------------------------------------------------


def environment(place: Path, rows: dict[bytes, bytes]) -> Path:
    place.mkdir()
    with py_lmdb.open_environment(place, max_dbs=4) as env:
        table = env.open_db(b"actions")
        for key, value in rows.items():
            with env.begin(write=True) as txn:
                txn.put(key, value, db=table)
    return place / "data.mdb"


def test_tables_are_read_like_lmdb_reads_them(tmp_path):
    rows = {struct.pack(">Q", n * 7 % 501): bytes([n % 251]) * (n * 13 % 7000) for n in range(500)}
    data = environment(tmp_path / "env", rows)
    newest, older = (snapshot.table("actions") for snapshot in lmdb_pages.snapshots(data))
    assert (newest.rows, newest.whole) == (rows, True)
    assert list(newest.rows) == sorted(rows)
    assert (len(older.rows), older.whole) == (len(rows) - 1, True)
    assert lmdb_pages.fault_in(data) == ""


def test_a_tree_that_bites_its_tail_is_not_followed_for_ever(tmp_path):
    rows = {struct.pack(">Q", n): bytes(100) for n in range(2000)}
    data = environment(tmp_path / "env", rows)
    content = bytearray(data.read_bytes())
    for page in range(2, len(content) // 4096):
        at = page * 4096
        number, _, flags, lower, _ = struct.unpack_from("=QHHHH", content, at)
        if number == page and flags == 1:
            for pointer in range(16, lower, 2):
                (node,) = struct.unpack_from("=H", content, at + pointer)
                struct.pack_into("=IH", content, at + node, page, 0)
    data.write_bytes(content)
    found = next(lmdb_pages.snapshots(data)).table("actions")
    assert not found.whole
    assert not salvage.read(data).all_whole


@pytest.mark.parametrize("every_row", [True, False])
def test_a_key_that_is_not_where_those_above_it_say_is_a_fault(tmp_path, every_row):
    """It would be read by whoever goes from row to row, and found by nobody who looks for it."""
    data = environment(tmp_path / "env", {b"%06d" % n: bytes(100) for n in range(500)})
    separators = {row[1] for row in branch_rows(data.read_bytes())}
    assert separators
    for separator in separators:
        content = data.read_bytes()
        spoilt = separator[:-1] + bytes([separator[-1] - 1])
        spoilt_file = tmp_path / "spoilt"
        leaf = b"\x00\x00" + len(separator).to_bytes(2, "little") + separator + bytes(100)
        assert content.count(leaf) >= 1
        spoilt_file.write_bytes(content.replace(leaf, leaf.replace(separator, spoilt)))
        assert lmdb_pages.fault_in(data, every_row=every_row) == ""
        assert "of the actions" in lmdb_pages.fault_in(spoilt_file, every_row=every_row)


def branch_rows(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Child and key of each row on branches of a file, the first of each left out."""
    for at in range(2 * 4096, len(content), 4096):
        number, _, flags, lower, _ = struct.unpack_from("=QHHHH", content, at)
        if number == at // 4096 and flags == 1:
            for pointer in range(18, lower, 2):
                node = at + struct.unpack_from("=H", content, at + pointer)[0]
                child, _, size = struct.unpack_from("=IHH", content, node)
                yield child, content[node + 8 : node + 8 + size]


def test_a_file_that_is_none_has_no_snapshots(tmp_path):
    for content in (b"", b"x", bytes(100_000), b"\xde\xc0\xef\xbe" * 5000):
        (tmp_path / "data.mdb").write_bytes(content)
        assert list(lmdb_pages.snapshots(tmp_path / "data.mdb")) == []
        assert salvage.read(tmp_path / "data.mdb").count == 0
        assert lmdb_pages.fault_in(tmp_path / "data.mdb")


# --- names -------------------------------------------------------------------------------


def test_directories_are_in_the_order_of_their_numbers_and_nothing_else_counts(tmp_path):
    for name in ("bad-10", "bad-9", "bad-²", "bad-", "bad-1x", "xbad-1", "bad-1.5", "BAD-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad-7").touch()
    assert [path.name for path in numbered(tmp_path, "bad-")] == ["bad-9", "bad-10"]
    assert number_of(tmp_path / "bad-10") == 10
    assert numbered(tmp_path / "none", "") == []


def test_of_what_processes_left_only_that_of_the_living_stays(tmp_path):
    for pid in (1, 2**22 + 1):  # above any pid there is
        (tmp_path / f"copy-{pid}").mkdir()
    remove_left(tmp_path, "copy-")
    assert [path.name for path in tmp_path.iterdir()] == ["copy-1"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (64 * 1024**2, "64.0 MiB"),
        (3 * 1024**3, "3.0 GiB"),
        (5000 * 1024**3, "5000.0 GiB"),
    ],
)
def test_a_size_is_shown_in_the_unit_that_fits(count, shown):
    assert size(count) == shown


# --- incidents ---------------------------------------------------------------------------


def incident(detail: str, **more: str) -> Incident:
    return Incident("2026-11-23T08:00:00.000Z", detail, **more)


def test_the_newest_incidents_are_kept_and_a_long_one_is_cut(tmp_path):
    for number in range(INCIDENTS_MAX + 5):
        incidents.add(tmp_path, incident(f"{number} " + "x" * 5000), incidents.read(tmp_path))
    kept = incidents.read(tmp_path)
    assert len(kept) == INCIDENTS_MAX
    assert [int(one.detail.split()[0]) for one in kept] == list(range(5, INCIDENTS_MAX + 5))
    assert {len(one.detail) for one in kept} == {DETAIL_CHARS_MAX}
    assert (tmp_path / "incidents.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["incidents.json"]


def test_what_is_kept_can_be_read_again_however_long_its_paths_are(tmp_path):
    for number in range(INCIDENTS_MAX):
        long = incident(f"{number}", set_aside="/a" * 2000, backup="/b" * 2000)
        incidents.add(tmp_path, long, incidents.read(tmp_path))
    assert (tmp_path / "incidents.json").stat().st_size <= FILE_BYTES_MAX
    kept = incidents.read(tmp_path)
    assert len(kept) > 5
    assert kept[-1].detail == str(INCIDENTS_MAX - 1)


@pytest.mark.parametrize("content", [b"", b"{", b'[{"at": 1}]', b"\xff\xfe", b"[" * 100_000])
def test_incidents_that_cannot_be_read_are_no_reason_not_to_go_on(tmp_path, content):
    (tmp_path / "incidents.json").write_bytes(content)
    assert incidents.read(tmp_path) == ()
    incidents.add(tmp_path, incident("new"), incidents.read(tmp_path))
    assert [one.detail for one in incidents.read(tmp_path)] == ["new"]


def test_acknowledged_incidents_are_gone_and_may_be_acknowledged_again(tmp_path):
    incidents.add(tmp_path, incident("seen"), ())
    incidents.acknowledge(tmp_path)
    incidents.acknowledge(tmp_path)
    assert incidents.read(tmp_path) == ()
