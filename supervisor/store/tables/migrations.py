"""Format number of daemonDB, and the migrations from older formats; newer ones are refused.

A migration is frozen once released: it knows the bytes of its two formats and imports
nothing that goes on changing. It runs inside the transaction that raises the format number,
so a store is never half migrated. Rows salvaged from a damaged store of an older format
(`repair/salvage.py`) are put into a new one unchanged: a format that changes the contents of
values has to convert those too.
"""

import contextlib
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from ....ipc.decoding import DECODE_ERRORS
from .schema import Transaction

#: The format this software writes.
FORMAT = 2

OpenTable: TypeAlias = Callable[[bytes], Any]
Migration: TypeAlias = Callable[[Transaction, OpenTable], None]

_HEAD = struct.Struct(">BBI")  # of a value in formats 1 and 2: number 1, kind, CRC
_NUMBER = struct.Struct(">Q")


def _to_2(txn: Transaction, open_table: OpenTable) -> None:
    """Make the table `ended`: (the later of `toDate` and the end, key) -> (absent, sequence of
    the last report), for each action whose status is terminal. It is not known yet which of
    them the backend still sends, so none is absent."""
    actions, outbox, ended = map(open_table, (b"actions", b"outbox", b"ended"))
    last_report: dict[str, int] = {}
    with txn.cursor(outbox) as at:
        for key, value in at:
            with contextlib.suppress(*_DAMAGED):
                last_report[_body_1(value)[0][1]] = _NUMBER.unpack(key)[0]
    body = msgspec.msgpack.encode
    with txn.cursor(actions) as at:
        for key, value in at:
            with contextlib.suppress(*_DAMAGED):
                record = _body_1(value)[0]
                action, changed_us = record[0], record[8]
                if record[2][0] == "over":
                    row = body([False, last_report.get(action[0], 0)])
                    end = _NUMBER.pack(max(0, action[2], changed_us)) + key
                    txn.put(end, _HEAD.pack(1, 0, zlib.crc32(row, 0)) + row, db=ended)


#: Raised by reading a damaged value, which is put aside later.
_DAMAGED = (*DECODE_ERRORS, TypeError, LookupError, struct.error)


def _body_1(value: bytes) -> Any:
    """Decode a value of format 1. Raises one of `_DAMAGED`."""
    number, kind, crc = _HEAD.unpack_from(value)
    body = value[_HEAD.size :]
    if number != 1 or zlib.crc32(body, kind) != crc:
        raise ValueError
    return msgspec.msgpack.decode(body)


#: From each older format to the next.
MIGRATIONS: Mapping[int, Migration] = {1: _to_2}


class NewerFormatError(ValueError):
    """The store was written by a later version of this software."""


def check(number: int) -> None:
    """Accept a format number. Raises `ValueError` for one this software cannot read."""
    if number > FORMAT:
        raise NewerFormatError(f"its format {number} is newer than this software's {FORMAT}")
    if number < 1:
        raise ValueError(f"{number} is no format")


def migrate(txn: Transaction, open_table: OpenTable, number: int) -> None:
    """Migrate a store of format `number`, which was checked, to the newest, step by step."""
    for step in range(number, FORMAT):
        MIGRATIONS[step](txn, open_table)
