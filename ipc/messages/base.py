"""The base of all messages between our processes.

Each direction of each channel is one tagged union, in the module of its channel, so that a
receiver's `match` is complete and the decoder refuses a foreign message. The transport is
`sockets.py`. `*_us` are wall-clock microseconds since 1970 UTC, `*_seconds` are durations.
"""

from typing import Annotated, TypeAlias

import msgspec

#: Absolute, or "" for none. A setting of this type may be relative to the configuration file.
AbsolutePath: TypeAlias = Annotated[str, msgspec.Meta(extra={"path": "absolute"})]


class Message(msgspec.Struct, frozen=True, tag_field="t", forbid_unknown_fields=True):
    """The base of all messages: immutable, with the name of the message in field `t`."""
