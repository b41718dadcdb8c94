"""Values as daemonDB stores them: a format byte, a kind byte, a CRC, and MessagePack.

LMDB has no checksum of its own (fact L7): a value that was damaged is found here, and
costs that one value. The kind byte of a record is its status, so that counting needs no
decoding.
"""

import hashlib
import struct
import zlib
from typing import Generic, TypeVar

import msgspec

from ..ipc.actions import ExecutionStatus

VALUE_FORMAT = 1
_HEAD = struct.Struct(">BBI")

#: The order is part of the format: a new status goes to the end.
STATUSES = tuple(ExecutionStatus)
KIND_OF_STATUS = {status: number for number, status in enumerate(STATUSES)}

Value = TypeVar("Value")


class DamagedRecordError(ValueError):
    """A stored value is not what was written."""


class Codec(Generic[Value]):
    """Encodes and decodes one type of value."""

    def __init__(self, kind: type[Value]) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def encode(self, value: Value, kind: int = 0) -> bytes:
        body = self._encode(value)
        return _HEAD.pack(VALUE_FORMAT, kind, zlib.crc32(body, kind)) + body

    def decode(self, stored: bytes) -> Value:
        """Raises `DamagedRecordError`."""
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
        except msgspec.MsgspecError as error:
            raise DamagedRecordError(f"cannot read a value: {error}") from None


def status_of(stored: bytes) -> ExecutionStatus | None:
    """The status of a stored record without decoding it; None where it is damaged."""
    kind = stored[1] if len(stored) > 1 else len(STATUSES)
    return STATUSES[kind] if kind < len(STATUSES) else None


def action_key(action_id: str) -> bytes:
    """16 bytes for an id of any length (fact L26: LMDB's keys are short)."""
    return hashlib.blake2b(action_id.encode(), digest_size=16).digest()
