"""Validation of rows by table: keys, checksums, contents. LMDB's pages have no checksum
(fact L7). Reads only; nothing outlives the transaction it is given.
"""

from collections.abc import Sequence
from typing import Any

from ...core.model import Record, RunRow, StatusChange
from ..tables.codec import (
    KEY_BYTES,
    Codec,
    DamagedRecordError,
    action_key,
    decode_stored,
    is_sound,
    join,
    number_of,
    run_key,
)
from ..tables.ended import Ended
from ..tables.meta import FORMAT_KEY, META_KEY, Meta
from ..tables.outbox import Pending
from ..tables.schema import Tables, Transaction, rows_from

#: The tables that cannot be rebuilt from others.
TABLES = ("meta", "actions", "details", "runs", "events", "outbox", "refused", "ended", "damaged")
#: Rows of this table are bytes that could not be read.
UNCHECKED = "damaged"
#: Their keys are sequence numbers.
SEQUENCES = ("events", "outbox", "refused")
#: More than any device ever gives: a key above it is damaged, and numbers do not go on from it.
SEQUENCE_MAX = 2**53

CODECS: dict[str, Codec[Any]] = {
    "runs": Codec(RunRow),
    "events": Codec(StatusChange),
    "outbox": Codec(Pending),
    "refused": Codec(Pending),
    "ended": Codec(Ended),
}
META_CODEC: Codec[Meta] = Codec(Meta)

_NUMBER_BYTES, _ATTEMPT_BYTES = 8, 4
_KEY_BYTES_OF = {
    "actions": KEY_BYTES,
    "details": KEY_BYTES,
    "runs": KEY_BYTES + _ATTEMPT_BYTES,
    **dict.fromkeys(("due", "ended"), _NUMBER_BYTES + KEY_BYTES),
    **dict.fromkeys(SEQUENCES, _NUMBER_BYTES),
}


def key_fits(name: str, key: bytes) -> bool:
    """The key has the form of those of this table."""
    if name in SEQUENCES:
        return len(key) == _NUMBER_BYTES and number_of(key) <= SEQUENCE_MAX
    return len(key) == _KEY_BYTES_OF.get(name, len(key))


def record_in(txn: Transaction, tables: Tables, key: bytes, value: bytes) -> Record | None:
    """Return the record of a row of `actions`, None for one that cannot be used. Damaged
    details are found in their own table, and do not make the record unusable here."""
    try:
        return whole_record(txn, tables, key, value, must_join=False)
    except DamagedRecordError:
        return None


def whole_record(
    txn: Transaction, tables: Tables, key: bytes, value: bytes, *, must_join: bool = True
) -> Record:
    """Return the record of a row of `actions` with its details. Raises `DamagedRecordError`.

    Without `must_join` damaged details are left out.
    """
    stored = decode_stored(value)
    if action_key(stored.record.action.id) != key:
        raise DamagedRecordError("cannot read a record: it has another's key")
    if not stored.details:
        return stored.record
    details = txn.get(key, db=tables.details)
    if details is not None and not is_sound(details) and not must_join:
        return stored.record
    return join(stored, details)


def check(name: str, key: bytes, value: bytes) -> None:
    """Check a row of any table but `actions`, which `whole_record` checks.

    Raises `DamagedRecordError` for one that is not as it was written, or means nothing.
    """
    if name == UNCHECKED or (name == "meta" and key != META_KEY):
        return
    if not key_fits(name, key):
        raise DamagedRecordError(f"cannot read a value: its key is {key.hex()}")
    match name:
        case "meta":
            META_CODEC.decode(value)
        case "runs":
            if run_key(key[:KEY_BYTES], CODECS[name].decode(value).attempt) != key:
                raise DamagedRecordError("cannot read a run: it has another's key")
        case "due":
            pass
        case "details":
            if not is_sound(value):
                raise DamagedRecordError("cannot read a value: its checksum is wrong")
        case _:
            CODECS[name].decode(value)


def damaged_rows(
    txn: Transaction,
    tables: Tables,
    rows_max: int,
    *,
    names: Sequence[str] = TABLES,
    older: bool = False,
) -> list[tuple[str, bytes]]:
    """Return table and key of the rows that cannot be used, at most `rows_max`. Of an `older`
    format only the checksums are checked."""
    found: list[tuple[str, bytes]] = []
    for name in names:
        table = getattr(tables, name)
        if table is None or name == UNCHECKED:
            continue
        with txn.cursor(table) as at:
            for key, value in rows_from(at):
                if not _usable(txn, tables, name, key, value, older=older):
                    found.append((name, key))
                if len(found) == rows_max:
                    return found
    return found


def _usable(
    txn: Transaction, tables: Tables, name: str, key: bytes, value: bytes, *, older: bool
) -> bool:
    if older:
        return is_sound(value) or (name, key) == ("meta", FORMAT_KEY)
    if name == "actions":
        return record_in(txn, tables, key, value) is not None
    try:
        check(name, key, value)
    except DamagedRecordError:
        return False
    return True


def last_sequence(txn: Transaction, tables: Tables) -> int:
    """Return the highest number that was ever given, by keys alone; 0 in a new store."""
    return max(_last_of(txn, getattr(tables, name)) for name in SEQUENCES)


def _last_of(txn: Transaction, table: Any) -> int:
    with txn.cursor(table) as at:
        keys = (key for key, _ in at.iterprev() if key_fits("events", key))
        return next(map(number_of, keys), 0)
