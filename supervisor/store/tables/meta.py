"""Metadata of daemonDB: its format, its generation, the snapshot it has applied.

Nothing outlives the transaction it is given.
"""

import logging
import os
import struct
from typing import Any

import msgspec
from msgspec.structs import replace

from ....ipc.instants import SECOND_US, InstantUs
from ....ipc.messages.base import Count, Sequence
from .codec import Codec, DamagedRecordError
from .schema import Tables, Transaction

log = logging.getLogger(__name__)

#: More events than any device has between two backups.
SEQUENCES_SKIPPED = 1_000_000
FORMAT_KEY = b"format"
META_KEY = b"store"
_FORMAT = struct.Struct(">I")


class Meta(msgspec.Struct, frozen=True):
    """The store's own row.

    `generation` is new whenever a store is made: keys of reports and run ids contain it.
    `device` is random and made once. `etag`, `digest` and `source` are of the snapshot that
    was applied last, "" where none counts; `clock_mark_us` is the highest time that a
    trusted clock has shown. New events have numbers above `sequence_floor`: a store that
    replaced another may not know the last number that one gave.
    """

    generation: str
    device: str
    etag: str = ""
    digest: str = ""
    source: str = ""
    clock_mark_us: InstantUs = 0
    outbox_dropped: Count = 0
    sequence_floor: Sequence = 0


class MetaUpdate(msgspec.Struct, frozen=True):
    """The changes of a turn to `Meta`; a field that is None stays as it is."""

    etag: str | None = None
    digest: str | None = None
    source: str | None = None
    clock_mark_us: int | None = None

    def applied_to(self, meta: Meta) -> Meta:
        new = msgspec.structs.asdict(self)
        return replace(meta, **{key: value for key, value in new.items() if value is not None})


_META = Codec(Meta)


def put_meta(txn: Transaction, tables: Tables, meta: Meta) -> None:
    txn.put(META_KEY, _META.encode(meta), db=tables.meta)


def new_name() -> str:
    """Return a random name, which no other store or device has."""
    return os.urandom(8).hex()


def read_or_make(txn: Transaction, tables: Tables) -> Meta:
    """Return the stored row; made in a new store, and where it is damaged: then as if the
    store had been restored, with another generation and no snapshot applied."""
    stored = txn.get(META_KEY, db=tables.meta)
    try:
        if stored is not None:
            return _META.decode(stored)
    except DamagedRecordError as error:
        log.error("Began a new generation of daemonDB: %s", error, extra={"event": "damaged-meta"})
    meta = Meta(new_name(), new_name())
    put_meta(txn, tables, meta)
    return meta


def renew(txn: Transaction, tables: Tables, *, last: int, whole: bool, now_us: int) -> None:
    """Begin a new generation, for a store that replaces another: no snapshot is applied.

    `last` is the highest sequence number it knows of, `whole` that the old store gave none
    higher; else its numbers go on far above (INTERFACE: `seq` never restarts).
    """
    meta = read_or_make(txn, tables)
    floor = max(last, meta.sequence_floor)
    if not whole:
        floor = max(floor + SEQUENCES_SKIPPED, now_us // SECOND_US)
    fresh = Meta(new_name(), meta.device, sequence_floor=floor)
    kept = {"clock_mark_us": meta.clock_mark_us, "outbox_dropped": meta.outbox_dropped}
    put_meta(txn, tables, replace(fresh, **kept))


def raise_floor(txn: Transaction, tables: Tables, last: int) -> None:
    """See to it that no number up to `last` is given again, whatever rows are left."""
    meta = read_or_make(txn, tables)
    put_meta(txn, tables, replace(meta, sequence_floor=max(meta.sequence_floor, last)))


def put_format(txn: Transaction, tables: Tables, number: int) -> None:
    """Put four bytes that every version, older or newer, reads in the same way."""
    txn.put(FORMAT_KEY, _FORMAT.pack(number), db=tables.meta)


def read_format(txn: Transaction, meta_table: Any) -> int:
    """Return the format number. The table was opened alone: a newer store may have others.

    Raises `ValueError`.
    """
    return format_in(txn.get(FORMAT_KEY, db=meta_table))


def format_in(stored: bytes | None) -> int:
    """Decode a format number. Raises `ValueError`."""
    if stored is None or len(stored) != _FORMAT.size:
        raise ValueError("it does not say its format")
    return int(_FORMAT.unpack(stored)[0])
