"""Pages of a damaged file that could not have been written, read without LMDB."""

from pathlib import Path

from geosched.supervisor.store import lmdb_env
from geosched.supervisor.store.repair import lmdb_pages

PAGE_BYTES, BRANCH = 4096, 1
PAGE = lmdb_pages._PAGE


def test_a_branch_without_children_costs_what_is_below_it_and_no_more(tmp_path: Path):
    env = lmdb_env.open_for_writing(tmp_path, 1024 * 1024)
    with env.begin(write=True) as txn:
        open_table = lmdb_env.tables_of(env, txn)
        tables = {name: open_table(name.encode()) for name in ("actions", "meta")}
        for name, table in tables.items():
            for number in range(2000):
                txn.put(f"{name}{number:08}".encode(), bytes(40), db=table)
    env.close()
    data = tmp_path / "data.mdb"
    content = bytearray(data.read_bytes())
    emptied = 0
    for at in range(2 * PAGE_BYTES, len(content), PAGE_BYTES):
        number, zero, kind, _, _ = PAGE.unpack_from(content, at)
        if kind == BRANCH and b"actions0" in content[at : at + PAGE_BYTES]:
            PAGE.pack_into(content, at, number, zero, kind, PAGE.size, PAGE_BYTES)
            emptied += 1
    data.write_bytes(content)
    assert emptied == 1
    assert lmdb_pages.fault_in(data)
    snapshots = lmdb_pages.snapshots(data)
    newest = next(snapshots)
    assert newest.table("actions") == lmdb_pages.Found(whole=False)
    assert len(newest.table("meta").rows) == 2000
    snapshots.close()
