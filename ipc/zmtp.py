"""ZMTP 3 with the NULL mechanism, as a ROUTER and a DEALER read and write it: bytes, no I/O.

The protocol is RFC 23 (3.0) and RFC 37 (3.1) of rfc.zeromq.org. A `Decoder` is fed the bytes
of one peer, in pieces of any size, and gives its messages; everything that a peer can send is
either of these, or a `ZmtpError`. What it holds is bounded: at most one message in the making
and the piece that was fed last.
"""

from typing import NamedTuple

#: Frames of one message, and bytes of one command; the bytes of a message are the caller's bound.
FRAMES_MAX = 16
COMMAND_BYTES_MAX = 4096
#: Frames that one `take` reads, so that a peer that sends commands alone holds up nobody.
FRAMES_PER_TAKE_MAX = 32
#: Bytes of a PING that its PONG repeats.
PING_CONTEXT_BYTES_MAX = 16
ROUTING_ID_BYTES_MAX = 255

GREETING_BYTES = 64
_SIGNATURE = b"\xff\0\0\0\0\0\0\0\x01\x7f"
_MAJOR, _MINOR = 3, 1
_MECHANISM = b"NULL".ljust(20, b"\0")
_MORE, _LONG, _COMMAND = 1, 2, 4
_SHORT_BYTES_MAX = 255
#: What may speak to a ROUTER; and what a DEALER of ours speaks to.
PEERS_OF_ROUTER = frozenset({b"DEALER", b"REQ", b"ROUTER"})
PEERS_OF_DEALER = frozenset({b"ROUTER"})


class ZmtpError(ValueError):
    """Bytes that no peer of ZMTP 3 with NULL sends to such a socket; its connection is of no more
    use."""


class _Frame(NamedTuple):
    body: bytes
    more: bool
    command: bool


def frame(body: bytes, *, command: bool = False) -> bytes:
    """Return a frame that is a whole message, or a command."""
    flags = _COMMAND if command else 0
    if len(body) <= _SHORT_BYTES_MAX:
        return bytes((flags, len(body))) + body
    return bytes((flags | _LONG,)) + len(body).to_bytes(8) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4) + value


def opening(socket_type: bytes, routing_id: bytes = b"") -> bytes:
    """Return what a socket says first. NULL leaves nothing to agree on, so READY need not wait
    for the peer's greeting."""
    ready = _property(b"Socket-Type", socket_type) + _property(b"Identity", routing_id)
    return (
        _SIGNATURE
        + bytes((_MAJOR, _MINOR))
        + _MECHANISM
        + bytes(32)
        + frame(b"\x05READY" + ready, command=True)
    )


OPENING_OF_ROUTER = opening(b"ROUTER")


class Decoder:
    """The bytes of one peer, which is a socket of one of `peers`. `ready` once its greeting and
    READY have come.

    `behind`: the last `take` ended early, and the next may have a message without more bytes.
    `answers` are bytes to send to the peer, for the caller to take.
    """

    def __init__(
        self, *, message_bytes_max: int, peers: frozenset[bytes] = PEERS_OF_ROUTER
    ) -> None:
        self.ready = False
        self.behind = False
        self.answers = bytearray()
        self._message_bytes_max = message_bytes_max
        self._peers = peers
        self._greeted = False
        self._buffer = bytearray()
        self._frames: list[bytes] = []
        self._left_bytes = message_bytes_max

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self) -> list[bytes] | None:
        """Return the frames of the next message, or None where bytes are missing. Raises
        `ZmtpError`, after which nothing can be read any more."""
        if not self._greeted and not self._read_greeting():
            return None
        self.behind = False
        for _ in range(FRAMES_PER_TAKE_MAX):
            found = self._next_frame()
            if found is None:
                return None
            if found.command:
                self._command(found.body)
            elif not self.ready:
                raise ZmtpError("a message before READY")
            elif message := self._message(found):
                return message
        self.behind = True
        return None

    def _read_greeting(self) -> bool:
        """Read the greeting once all of it is there; refuse it as soon as it is wrong."""
        given = self._buffer
        for at in (0, 9):
            if len(given) > at and given[at] != _SIGNATURE[at]:
                raise ZmtpError("no greeting of ZMTP 2 or later")
        if len(given) > len(_SIGNATURE) and given[len(_SIGNATURE)] < _MAJOR:
            raise ZmtpError("a greeting of ZMTP before 3")
        if len(given) < GREETING_BYTES:
            return False
        if given[12:32] != _MECHANISM:
            raise ZmtpError("another mechanism than NULL")
        del given[:GREETING_BYTES]
        self._greeted = True
        return True

    def _next_frame(self) -> _Frame | None:
        given = self._buffer
        if not given:
            return None
        flags = given[0]
        if flags & ~(_MORE | _LONG | _COMMAND) or flags & (_MORE | _COMMAND) == _MORE | _COMMAND:
            raise ZmtpError(f"a frame with flags {flags:#x}")
        begin = 9 if flags & _LONG else 2
        if len(given) < begin:
            return None
        size = int.from_bytes(given[1:begin])
        command = bool(flags & _COMMAND)
        if size > (COMMAND_BYTES_MAX if command else self._left_bytes):
            raise ZmtpError(f"a frame of {size} bytes")
        if len(given) < begin + size:
            return None
        body = bytes(memoryview(given)[begin : begin + size])
        del given[: begin + size]
        return _Frame(body, bool(flags & _MORE), command)

    def _message(self, found: _Frame) -> list[bytes] | None:
        """Return the message that `found` ends, if it does."""
        self._frames.append(found.body)
        self._left_bytes -= len(found.body)
        if not found.more:
            message, self._frames = self._frames, []
            self._left_bytes = self._message_bytes_max
            return message
        if len(self._frames) >= FRAMES_MAX:
            raise ZmtpError(f"a message of more than {FRAMES_MAX} frames")
        return None

    def _command(self, body: bytes) -> None:
        name, rest = _name_and_rest(body)
        if not self.ready:
            if name != b"READY":
                raise ZmtpError(f"{name!r:.40} before READY")
            _check_ready(rest, self._peers)
            self.ready = True
        elif name == b"PING":
            if not 2 <= len(rest) <= 2 + PING_CONTEXT_BYTES_MAX:
                raise ZmtpError(f"a PING of {len(rest)} bytes")
            self.answers += frame(b"\x04PONG" + rest[2:], command=True)
        elif name in (b"READY", b"ERROR"):
            raise ZmtpError(f"{name.decode()} after READY")
        # Others are for later versions of the protocol, and for sockets of other types.


def _name_and_rest(body: bytes) -> tuple[bytes, bytes]:
    end = 1 + body[0] if body else 0
    if not 1 < end <= len(body):
        raise ZmtpError("a command without a name")
    return body[1:end], body[end:]


def _check_ready(metadata: bytes, peers: frozenset[bytes]) -> None:
    """Raise `ZmtpError` where the peer is no socket of one of `peers`."""
    properties: dict[bytes, bytes] = {}
    while metadata:
        name, rest = _name_and_rest(metadata)
        end = 4 + int.from_bytes(rest[:4])
        if len(rest) < max(4, end):
            raise ZmtpError("a READY that is cut")
        properties[name.lower()] = rest[4:end]
        metadata = rest[end:]
    peer = properties.get(b"socket-type", b"")
    if peer not in peers:
        raise ZmtpError(f"a peer of type {peer!r:.40}")
    if len(properties.get(b"identity", b"")) > ROUTING_ID_BYTES_MAX:
        raise ZmtpError("an identity that is too long")
