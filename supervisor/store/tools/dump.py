"""Statistics and export of a store, for people: sizes, and each row as JSON. Reads only."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict

from ....ipc.instants import format_optional
from ....ipc.messages.control import SCHEMA_VERSION
from .. import files, lmdb_env
from ..errors import StoreError
from ..py_lmdb import Environment
from ..repair.validate import CODECS, META_CODEC, check, whole_record
from ..tables.codec import DamagedRecordError, number_of
from ..tables.meta import META_KEY, Meta, read_format
from ..tables.schema import Tables, Transaction, rows_from, scan

Progress = Callable[[int, int], None]

PROGRESS_ROWS = 1_000
#: Tables whose keys begin with a number worth showing.
_NUMBERED = ("due", "ended", "events", "outbox", "refused")


def stats(env: Environment, store_dir: Path) -> dict[str, Any]:
    """Return sizes in bytes, and the instants of the oldest rows, null for none."""
    info, tables = env.info(), _tables(env)
    with env.begin() as txn:
        there = {name: table for name, table in asdict(tables).items() if table is not None}
        room = lmdb_env.room(env, txn, there.values())
        rows = {name: _size(txn.stat(table), room.page_bytes) for name, table in there.items()}
        meta = _meta(txn, tables)
        oldest = {name: _oldest(txn, tables, name) for name in ("due", "ended", "events", "outbox")}
        number = _format(txn, tables, store_dir)
    reached = (int(info["last_pgno"]) + 1) * room.page_bytes
    return {
        "directory": str(store_dir.absolute()),
        "format": number,
        "generation": meta.generation if meta else None,
        "mapBytes": room.map_bytes,
        "fileBytes": (store_dir / "data.mdb").stat().st_size,
        "allocatedBytes": files.allocated_bytes(store_dir),
        "usedBytes": room.used_bytes,
        "freeBytes": reached - room.used_bytes,
        "lastTransaction": int(info["last_txnid"]),
        "readers": int(info["num_readers"]),
        "tables": rows,
        "oldest": oldest,
    }


def _size(stat: dict[str, int], page_bytes: int) -> dict[str, int]:
    return {"rows": int(stat["entries"]), "bytes": lmdb_env.pages(stat) * page_bytes}


def _oldest(txn: Transaction, tables: Tables, name: str) -> str | None:
    """Return the instant of a table's first row: the index's own, or that of the row's change."""
    table = getattr(tables, name)
    rows = scan(txn, table, b"", 1) if table is not None else []
    if not rows:
        return None
    try:
        check(name, *rows[0])
        if name in ("due", "ended"):
            return format_optional(number_of(rows[0][0]))
        value = CODECS[name].decode(rows[0][1])
    except DamagedRecordError:
        return None
    return format_optional(value.at_us if name == "events" else value.change.at_us)


def export(env: Environment, *, progress: Progress) -> Iterator[bytes]:
    """Yield a line of JSON for every row: `table`, `key`, and `value`, or `damaged` with the
    bytes in hexadecimal. The first line has the format and the number of rows."""
    tables = _tables(env)
    with env.begin() as txn:
        there = [name for name, table in asdict(tables).items() if table is not None]
        rows = sum(txn.stat(getattr(tables, name))["entries"] for name in there)
        number = _format(txn, tables, Path(env.path()))
        yield _line({"schemaVersion": SCHEMA_VERSION, "format": number, "rows": rows})
        done = 0
        for name in there:
            with txn.cursor(getattr(tables, name)) as at:
                for key, value in rows_from(at):
                    yield _line({"table": name, **_shown(txn, tables, name, key, value)})
                    done += 1
                    if done % PROGRESS_ROWS == 0:
                        progress(done, rows)
        progress(rows, rows)


def _shown(txn: Transaction, tables: Tables, name: str, key: bytes, value: bytes) -> dict[str, Any]:
    """Return a row's fields; an action with its details, which have only their bytes themselves."""
    shown: dict[str, Any] = {"key": key.hex()}
    try:
        if name != "actions":
            check(name, key, value)
        if name in _NUMBERED:
            shown["number"] = number_of(key)
        match name:
            case "actions":
                record = whole_record(txn, tables, key, value)
                return shown | {"value": _named(record), "status": record.status}
            case "meta":
                return shown | ({"value": META_CODEC.decode(value)} if key == META_KEY else {})
            case "due" | "details" | "damaged":
                return shown | ({"bytes": value.hex()} if value else {})
            case _:
                return shown | {"value": _named(CODECS[name].decode(value))}
    except DamagedRecordError as error:
        return shown | {"damaged": value.hex(), "error": str(error)}


def _named(value: Any) -> Any:
    """Return a struct as a dict by field names, at every depth: on disk there are none."""
    if isinstance(value, msgspec.Struct):
        return {name: _named(getattr(value, name)) for name in value.__struct_fields__}
    return [_named(one) for one in value] if isinstance(value, tuple | list) else value


def _meta(txn: Transaction, tables: Tables) -> Meta | None:
    value = txn.get(META_KEY, db=tables.meta)
    try:
        return None if value is None else META_CODEC.decode(value)
    except DamagedRecordError:
        return None


def _format(txn: Transaction, tables: Tables, store_dir: Path) -> int:
    if tables.meta is None:
        raise StoreError(f"cannot read {store_dir}: what it holds is no daemonDB")
    try:
        return read_format(txn, tables.meta)
    except ValueError as error:
        raise StoreError(f"cannot read {store_dir}: {error}") from None


def _tables(env: Environment) -> Tables:
    return Tables.open(lambda name: lmdb_env.existing_table(env, name))


def _line(document: dict[str, Any]) -> bytes:
    return msgspec.json.encode(document) + b"\n"
