"""Snapshot of the backend as it is held until it is applied: packed, page by page."""

from collections import deque
from collections.abc import Callable

import msgspec

from ...ipc.actions import Action
from ...ipc.messages.sync import Pulled


class PackedSnapshot(msgspec.Struct):
    """A whole, checked snapshot, whose pages are removed one by one; `told` has the rest.

    Pages stay packed until then: 100,000 actions unpacked would take ten times the memory,
    and Python would not return it. So do the pages of `set_aside_ids`.
    """

    pages: deque[bytes]
    told: Pulled
    set_aside_ids: deque[bytes] = msgspec.field(default_factory=deque)


pack = msgspec.msgpack.Encoder().encode
unpack: Callable[[bytes], tuple[Action, ...]]
unpack = msgspec.msgpack.Decoder(tuple[Action, ...]).decode
unpack_ids: Callable[[bytes], tuple[str, ...]]
unpack_ids = msgspec.msgpack.Decoder(tuple[str, ...]).decode
