"""The base of all messages between our processes.

Each direction of each channel is one tagged union, in the module of its channel, so that a
receiver's `match` is complete and the decoder refuses a foreign message. The transport is
`sockets.py`. `*_us` are wall-clock microseconds since 1970 UTC, `*_seconds` are durations.
"""

from typing import Annotated, TypeAlias

import msgspec

#: The state of a zygote whose objects are immortal (`StatusView.immortal_heap`).
IMMORTAL_HEAP_ON = "on"
#: Absolute, or "" for none. A setting of this type may be relative to the configuration file.
AbsolutePath: TypeAlias = Annotated[str, msgspec.Meta(extra={"path": "absolute"})]
#: A process: any number that the kernel's `pid_t` can be; none of them means a group.
Pid: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
#: An exit code or a signal, as `waitid` gives them.
CInt: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
#: So many that sums of them fit any message, and JSON.
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
#: The number of an event, which keys of daemonDB can be.
Sequence: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Message(msgspec.Struct, frozen=True, tag_field="t", forbid_unknown_fields=True):
    """The base of all messages: immutable, with the name of the message in field `t`."""
