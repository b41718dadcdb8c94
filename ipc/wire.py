"""Messages between our processes: the bounds of their frames and queues, and their decoding.

What both ends of the wire share that need no libzmq: `sockets.py`, which is libzmq's, and
`router.py` and `dealer.py`, which speak its protocol.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from .decoding import DECODE_ERRORS

#: Of the endpoint of a socket file, before its path.
ENDPOINT_SCHEME = "ipc://"
FRAME_BYTES_MAX = 256 * 1024
#: Of what the daemon answers: the longest valid action (1000 apps of 255 characters of four
#: bytes) fits a frame.
REPLY_FRAME_BYTES_MAX = 2 * 1024 * 1024
#: Messages that may wait for one peer, in each direction.
QUEUED_MESSAGES_MAX = 64
#: A peer that sends nothing after it connected is dropped after this time (fact Z6).
HANDSHAKE_MILLISECONDS_MAX = 2000
#: The pauses of a peer that cannot connect double between these. To begin with they are short:
#: while somebody else fills the queue of a listener, each try is a matter of luck (fact Z18).
RECONNECT_MILLISECONDS = 10
RECONNECT_MILLISECONDS_MAX = 320

Received = TypeVar("Received")
Sent = TypeVar("Sent")


class ProtocolError(Exception):
    """A message that cannot be read: it is of no process of ours, or of another version."""


def decoded(
    frames: Sequence[bytes | memoryview], decode: Callable[[bytes | memoryview], Received]
) -> Received | ProtocolError:
    """Return a message, which is one frame; or the error where it cannot be read."""
    if len(frames) != 1:
        return ProtocolError(f"cannot read a message of {len(frames)} frames")
    try:
        return decode(frames[0])
    except DECODE_ERRORS as error:
        return ProtocolError(f"cannot read a message: {error}")
