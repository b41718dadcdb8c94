"""Targets: what comes over sockets, from strangers and from our own processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from geosched.ipc import zmtp
from geosched.ipc.channel import Channel, framed
from geosched.ipc.messages.broker import FromBroker, ToBroker
from geosched.ipc.messages.control import Call, RefusalKind, Refused, Reply
from geosched.ipc.messages.helper import FromHelper, ToHelper
from geosched.ipc.messages.runs import FromWorker, ToWorker
from geosched.ipc.messages.sync import FromSynchroniser, ToSynchroniser
from geosched.ipc.messages.zygote import FromZygote, ToZygote
from geosched.ipc.wire import ProtocolError, decoded
from geosched.workers.runs import notify
from support.router import GREETING, HELLO

from . import samples
from .oracle import Feed, Target

_MESSAGE_BYTES_MAX = 64 * 1024


def _zmtp(hello: bytes, peers: frozenset[bytes] = zmtp.PEERS_OF_ROUTER) -> Callable[[Path], Feed]:
    """A stream in pieces, whose size its own bytes decide."""

    def feed(data: bytes) -> bool:
        decoder = zmtp.Decoder(message_bytes_max=_MESSAGE_BYTES_MAX, peers=peers)
        decoder.feed(hello)
        stream = memoryview(data)
        taken = 0
        while stream:
            piece = 1 + len(stream) * 7 % 251
            decoder.feed(bytes(stream[:piece]))
            stream = stream[piece:]
            while (message := decoder.take()) is not None or decoder.behind:
                taken += sum(map(len, message or ()))
        assert taken + len(decoder.answers) <= len(data)
        return True

    return lambda _: feed


def _message(kind: Any) -> Callable[[Path], Feed]:
    decode = msgspec.msgpack.Decoder(kind).decode

    def feed(data: bytes) -> bool:
        message = decoded([data], decode)
        if not isinstance(message, ProtocolError):
            assert decoded([msgspec.msgpack.encode(message)], decode) == message
            return True
        answer = Reply(0, Refused(RefusalKind.BAD_REQUEST, str(message)))
        assert len(msgspec.msgpack.encode(answer)) < 1024 + len(data)
        return False

    return lambda _: feed


def _channel(_: Path) -> Feed:
    """What a synchroniser sends, cut at what a socket takes at once."""
    channel: Channel[Any, Any] = Channel(receives=FromSynchroniser)

    def feed(data: bytes) -> bool:
        with channel.open() as theirs:
            theirs.setblocking(False)
            if data:
                theirs.send(data)
            found = list(channel.drain())
        faults = [each for each in found if isinstance(each, ProtocolError)]
        for each in faults:
            str(each).encode()
        channel.hang_up()
        return len(found) > len(faults)

    return feed


def _notification(data: bytes) -> bool:
    notice = notify.parse(data[: notify.TEXT_BYTES_MAX])
    assert len(notice.status or "") <= notify.STATUS_CHARS_MAX
    assert (notice.status or "").isprintable() or min(notice.status or " ") > "\x1f"
    return True


_SERVER = zmtp.OPENING_OF_ROUTER
_PING = zmtp.frame(b"\x04PING\0\x14context", command=True)
_FRAMES = zmtp.frame(b"one") + b"\1\1x\1\0\0\1y" + _PING + zmtp.frame(b"a" * 300)
WORDS = (
    *(_PING, zmtp.frame(b"\x05ERROR\0", command=True), HELLO[64:], GREETING, b"\x02", b"\x03"),
    *(b"\xff" * 8, (2**63).to_bytes(8), (65_536).to_bytes(8), b"\x05READY", b"\x0bSocket-Type"),
)
_CHANNELS: dict[str, Any] = {
    "control request": Call,
    "control reply": Reply,
    "from worker": FromWorker,
    "to worker": ToWorker,
    "from synchroniser": FromSynchroniser,
    "to synchroniser": ToSynchroniser,
    "from broker": FromBroker,
    "to broker": ToBroker,
    "from zygote": FromZygote,
    "to zygote": ToZygote,
    "from helper": FromHelper,
    "to helper": ToHelper,
}


def _samples_of(kind: Any) -> tuple[bytes, ...]:
    """One for each message of a channel; of those in an envelope, for each that can be in it."""
    if kind in (Call, Reply):
        (inner,) = (field.type for field in msgspec.structs.fields(kind) if field.name != "number")
        name = "request" if kind is Call else "answer"
        return tuple(msgspec.msgpack.encode({"number": 7, name: one}) for one in samples.of(inner))
    return samples.packed(kind)


TARGETS = (
    Target(
        "ZMTP greeting", (HELLO + _FRAMES, HELLO, GREETING), _zmtp(b""), (zmtp.ZmtpError,), WORDS
    ),
    Target(
        "ZMTP frames",
        (_FRAMES, _PING * 40, b"\x02" + (3).to_bytes(8) + b"abc"),
        _zmtp(HELLO),
        (zmtp.ZmtpError,),
        WORDS,
    ),
    Target(
        "ZMTP greeting of a server",
        (_SERVER + _FRAMES, _SERVER, GREETING),
        _zmtp(b"", zmtp.PEERS_OF_DEALER),
        (zmtp.ZmtpError,),
        WORDS,
    ),
    Target(
        "ZMTP frames of a server",
        (_FRAMES, _PING * 40, b"\x02" + (3).to_bytes(8) + b"abc"),
        _zmtp(_SERVER, zmtp.PEERS_OF_DEALER),
        (zmtp.ZmtpError,),
        WORDS,
    ),
    *(
        Target(f"message {name}", _samples_of(kind), _message(kind))
        for name, kind in _CHANNELS.items()
    ),
    Target(
        "channel of a synchroniser",
        (b"".join(map(framed, samples.packed(FromSynchroniser))), framed(b"\xc1"), b"\xff" * 8),
        _channel,
    ),
    Target(
        "notification",
        (b"WATCHDOG=1", b"STATUS=half done\nWATCHDOG=1\nREADY=1", b"STATUS=\xc3\xa9"),
        lambda _: _notification,
        words=(b"STATUS=", b"WATCHDOG=", b"=", b"FDSTORE=1"),
    ),
)
