"""The base of every message that passes between our processes, as typed structs.

Each direction of each channel is one tagged union, in the file of its channel, so that a
receiver's `match` is complete and a stranger's message is refused by the decoder. How a
message travels is in `sockets.py`. `*_us` are wall-clock microseconds since 1970 UTC,
`*_seconds` are durations.
"""

from typing import Annotated, TypeAlias

import msgspec

#: Absolute, or "" for none. A setting of this type may be relative to the configuration file.
AbsolutePath: TypeAlias = Annotated[str, msgspec.Meta(extra={"path": "absolute"})]


class Message(msgspec.Struct, frozen=True, tag_field="t", forbid_unknown_fields=True):
    """The base of all messages: immutable, told apart by their name in field `t`."""
