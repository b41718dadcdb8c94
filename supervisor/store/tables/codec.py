"""Encoding of values and keys in daemonDB. Knows no table and no transaction.

A value is a format byte, a kind byte, a CRC and MessagePack. LMDB has no checksum of its
own (fact L7): damage to a value is found here, and costs that one value. The kind byte of a
record is its status, so that counting needs no decoding.
"""

import struct
import zlib
from typing import Generic, TypeVar

import msgspec
from msgspec.structs import replace

from ....ipc.actions import ExecutionStatus
from ....ipc.decoding import DECODE_ERRORS
from ....ipc.digests import blake2b
from ...core.model import Record

VALUE_FORMAT = 1
_HEAD = struct.Struct(">BBI")

#: The order is part of the format: a new status is appended.
STATUSES = (
    ExecutionStatus.NULL,
    ExecutionStatus.STARTED,
    ExecutionStatus.WONT_START,
    ExecutionStatus.WONT_FINISH,
    ExecutionStatus.FINISHED,
    ExecutionStatus.FAILED,
)
KIND_OF_STATUS = {status: number for number, status in enumerate(STATUSES)}

#: Configuration longer than this is stored apart: a change of status must not rewrite
#: kilobytes of it (fact L12: records beyond 450 bytes cost whole pages).
DETAILS_BYTES_MIN = 250
#: Bytes of the encoded details beyond their letters and the lengths of names.
DETAILS_HEAD_BYTES = 17

KEY_BYTES = 16
INSTANT_US_MAX = 2**63 - 1
_NUMBER = struct.Struct(">Q")
_ATTEMPT = struct.Struct(">I")

Value = TypeVar("Value")


class DamagedRecordError(ValueError):
    """A stored value is not the one that was written."""


class Codec(Generic[Value]):
    """Encodes and decodes one type of value."""

    def __init__(self, kind: type[Value]) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def encode(self, value: Value, kind: int = 0) -> bytes:
        body = self._encode(value)
        return _HEAD.pack(VALUE_FORMAT, kind, zlib.crc32(body, kind)) + body

    def decode(self, stored: bytes) -> Value:
        """Return the checked value. Raises `DamagedRecordError`."""
        if len(stored) < _HEAD.size:
            raise DamagedRecordError(f"cannot read a value of {len(stored)} bytes")
        number, kind, crc = _HEAD.unpack_from(stored)
        body = stored[_HEAD.size :]
        if number != VALUE_FORMAT:
            raise DamagedRecordError(f"cannot read a value of format {number}")
        if zlib.crc32(body, kind) != crc:
            raise DamagedRecordError("cannot read a value: its checksum is wrong")
        try:
            return self._decode(body)
        except DECODE_ERRORS as error:
            raise DamagedRecordError(f"cannot read a value: {error}") from None


def is_sound(stored: bytes) -> bool:
    """The checksum of a value is right; it is not decoded."""
    if len(stored) < _HEAD.size:
        return False
    number, kind, crc = _HEAD.unpack_from(stored)
    body = memoryview(stored)[_HEAD.size :]
    return bool(number == VALUE_FORMAT and zlib.crc32(body, kind) == crc)


def kind_of(stored: bytes) -> int | None:
    """Return the kind byte of a value, unchecked; None where its head is damaged."""
    return stored[1] if len(stored) >= _HEAD.size and stored[0] == VALUE_FORMAT else None


def status_of(stored: bytes) -> ExecutionStatus | None:
    """Return the status of a stored record, undecoded; None where its head is damaged."""
    kind = kind_of(stored)
    return STATUSES[kind] if kind is not None and kind < len(STATUSES) else None


# --- records, and their details stored apart --------------------------------------------


class Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record as stored in `actions`.

    Where `details` is not empty, `appNames` and `args` are in the table of that name, and
    `details` is the digest of their value there.
    """

    record: Record
    details: bytes = b""


_STORED = Codec(Stored)
_DETAILS = Codec(tuple[tuple[str, ...], str])


def split(record: Record) -> tuple[Stored, bytes]:
    """Split a record into what changes with its status and its encoded details, b"" if short."""
    action = record.action
    chars = len(action.args) + sum(map(len, action.app_names))
    if 4 * chars + 5 * len(action.app_names) + DETAILS_HEAD_BYTES <= DETAILS_BYTES_MIN:
        return Stored(record), b""  # it is short enough, whatever letters it is made of
    details = _DETAILS.encode((action.app_names, action.args))
    if len(details) <= DETAILS_BYTES_MIN:
        return Stored(record), b""
    short = replace(record, action=replace(action, app_names=(), args=""))
    return Stored(short, _digest(details)), details


def join(stored: Stored, details: bytes | None) -> Record:
    """Return the record of both parts. Raises `DamagedRecordError`."""
    if not stored.details:
        return stored.record
    if details is None or _digest(details) != stored.details:
        raise DamagedRecordError("cannot read a record: its appNames and args are lost")
    app_names, args = _DETAILS.decode(details)
    action = replace(stored.record.action, app_names=app_names, args=args)
    return replace(stored.record, action=action)


def encode_stored(stored: Stored) -> bytes:
    return _STORED.encode(stored, KIND_OF_STATUS[stored.record.status])


def decode_stored(value: bytes) -> Stored:
    """Return the checked row. Raises `DamagedRecordError`."""
    return _STORED.decode(value)


def _digest(details: bytes) -> bytes:
    return blake2b(details, digest_size=8).digest()


# --- keys -------------------------------------------------------------------------------


def action_key(action_id: str) -> bytes:
    """Return 16 bytes for an id of any length (fact L26: LMDB's keys are short)."""
    return blake2b(action_id.encode(), digest_size=KEY_BYTES).digest()


def number_key(number: int) -> bytes:
    """Return a key that sorts as a sequence number or instant does; the nearest if out of range."""
    return _NUMBER.pack(max(0, min(number, INSTANT_US_MAX)))


def number_of(key: bytes) -> int:
    """Return the number a key begins with."""
    return int(_NUMBER.unpack_from(key)[0])


def edge_key(edge_us: int, key: bytes) -> bytes:
    """Return the key of a row in `due`, for an action's edge (facts L27, L29)."""
    return number_key(edge_us) + key


def edge_of(row: bytes) -> tuple[int, bytes]:
    """Return the edge in us and the action's key of a row in `due` or `ended`."""
    return number_of(row), row[_NUMBER.size :]


def run_key(key: bytes, attempt: int) -> bytes:
    """Return the key of a row in `runs`; those of one action sort by attempt."""
    return key + _ATTEMPT.pack(max(0, min(attempt, 2**32 - 1)))
