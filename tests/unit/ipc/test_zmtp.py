"""The bytes of a ZMTP peer become messages, or an error; nothing else, and within bounds."""

import pytest
from geosched.ipc.zmtp import (
    COMMAND_BYTES_MAX,
    FRAMES_MAX,
    FRAMES_PER_TAKE_MAX,
    GREETING_BYTES,
    OPENING_OF_ROUTER,
    Decoder,
    ZmtpError,
    frame,
)
from hypothesis import given
from hypothesis import strategies as st

MESSAGE_BYTES_MAX = 1000
#: As libzmq 4.3.5 sends them.
GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
DEALER = b"\x04)\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
REQ = b"\x04&\x05READY\x0bSocket-Type\0\0\0\x03REQ\x08Identity\0\0\0\0"
HELLO = GREETING + DEALER


def decoder(fed: bytes = HELLO) -> Decoder:
    made = Decoder(message_bytes_max=MESSAGE_BYTES_MAX)
    made.feed(fed)
    return made


def all_of(reader: Decoder) -> list[list[bytes]]:
    found = []
    while (message := reader.take()) is not None or reader.behind:
        found += [message] if message is not None else []
    return found


def ready(socket_type: bytes) -> bytes:
    value = len(socket_type).to_bytes(4) + socket_type
    return frame(b"\x05READY\x0bSocket-Type" + value, command=True)


def test_what_we_open_with_is_what_libzmq_sends_as_a_router():
    router = b"\x04)\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\0"
    assert GREETING + router == OPENING_OF_ROUTER


@pytest.mark.parametrize("hello", [DEALER, REQ, ready(b"ROUTER")], ids=("dealer", "req", "router"))
def test_a_peer_is_ready_after_its_greeting_and_its_ready_command(hello: bytes):
    reader = decoder(GREETING + hello[:-1])
    assert reader.take() is None
    assert not reader.ready
    reader.feed(hello[-1:])
    assert reader.take() is None
    assert reader.ready


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 257, MESSAGE_BYTES_MAX])
def test_a_frame_of_each_size_is_read_as_it_was_written(size: int):
    body = bytes(number % 251 for number in range(size))
    assert all_of(decoder(HELLO + frame(body) + frame(b"next"))) == [[body], [b"next"]]


def test_a_short_frame_may_be_written_long():
    assert all_of(decoder(HELLO + b"\x02" + (3).to_bytes(8) + b"abc")) == [[b"abc"]]


@given(st.lists(st.integers(1, 200), max_size=30))
def test_pieces_of_any_size_make_the_same_messages(cuts: list[int]):
    stream = HELLO + frame(b"a" * 300) + b"\1\1x\1\0\0\1y" + frame(b"\x04PING\0\x01", command=True)
    stream += frame(b"end")
    reader = Decoder(message_bytes_max=MESSAGE_BYTES_MAX)
    found = []
    for cut in cuts:
        reader.feed(stream[:cut])
        stream = stream[cut:]
        found += all_of(reader)
    reader.feed(stream)
    assert found + all_of(reader) == [[b"a" * 300], [b"x", b"", b"y"], [b"end"]]
    assert reader.answers == b"\x04\x05\x04PONG"


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_messages_or_the_decoders_own_error(data: bytes, greeted: bool):
    reader = decoder((HELLO if greeted else b"") + data)
    try:
        found = all_of(reader)
    except ZmtpError:
        return
    assert sum(len(part) for message in found for part in message) <= len(data)


@pytest.mark.parametrize(
    "early",
    [
        b"\x05",  # ZMTP 1: the length of an identity
        b"\x01",
        b"\xff\0\0\0\0\0\0\0\x05\0",  # ZMTP 1, with a long length
        b"\xff\0\0\0\0\0\0\0\x01\x7f\0",
        b"\xff\0\0\0\0\0\0\0\x01\x7f\x01",  # ZMTP 2
        b"\xff\0\0\0\0\0\0\0\x01\x7f\x02",
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_an_older_peer_is_refused_by_its_first_bytes(early: bytes):
    with pytest.raises(ZmtpError):
        decoder(early).take()


@pytest.mark.parametrize("mechanism", [b"PLAIN", b"CURVE", b"", b"NULLL"])
def test_a_peer_with_another_mechanism_is_refused(mechanism: bytes):
    greeting = GREETING[:12] + mechanism.ljust(20, b"\0") + bytes(32)
    with pytest.raises(ZmtpError):
        decoder(greeting).take()


@pytest.mark.parametrize("minor", [0, 1, 9])
def test_a_minor_version_does_not_matter(minor: int):
    reader = decoder(GREETING[:11] + bytes((minor,)) + GREETING[12:] + DEALER + frame(b"a"))
    assert reader.take() == [b"a"]


@pytest.mark.parametrize(
    "bad",
    [
        frame(b"early"),  # a message before READY
        frame(b"\x04PING\0\0", command=True),
        ready(b"SUB"),
        ready(b""),
        frame(b"\x05READY", command=True),  # of no type
        frame(b"\x05READY\x0bSocket-Type\0\0\0\x07DEALER", command=True),  # cut
        frame(b"\x05READY\x0bSocket-Type\xff\xff\xff\xffDEALER", command=True),
        frame(b"\x05READY\x20Socket-Type", command=True),
        frame(b"", command=True),
        frame(b"\0", command=True),
        frame(b"\xffREADY", command=True),
    ],
)
def test_what_is_no_ready_command_of_a_fitting_peer_is_refused(bad: bytes):
    with pytest.raises(ZmtpError):
        decoder(GREETING + bad).take()


@pytest.mark.parametrize(
    "bad",
    [
        b"\x08\0",  # flags that mean nothing
        b"\x80\0",
        b"\x05\x05\x04PING",  # a command that more follows
        DEALER,
        frame(b"\x05ERROR\0", command=True),
        frame(b"\x04PING\0", command=True),
        frame(b"\x04PING\0\0" + bytes(17), command=True),
        frame(bytes(COMMAND_BYTES_MAX + 1), command=True),
        b"\x02" + (MESSAGE_BYTES_MAX + 1).to_bytes(8),  # refused before the bytes are there
        b"\x02" + b"\xff" * 8,
        b"\x03" + (600).to_bytes(8) + bytes(600) + b"\x02" + (401).to_bytes(8),
        b"\x01\0" * FRAMES_MAX,
    ],
)
def test_what_breaks_a_rule_or_a_bound_is_refused(bad: bytes):
    with pytest.raises(ZmtpError):
        all_of(decoder(HELLO + bad))


def test_commands_of_other_sockets_and_versions_are_ignored():
    others = b"".join(
        frame(body, command=True)
        for body in (b"\x09SUBSCRIBEx", b"\x06CANCELx", b"\x03NEW", b"\x01x")
    )
    assert all_of(decoder(HELLO + others + frame(b"a"))) == [[b"a"]]


@pytest.mark.parametrize("context", [b"", b"x" * 16])
def test_a_ping_is_answered_with_its_context(context: bytes):
    reader = decoder(HELLO + frame(b"\x04PING\0\x14" + context, command=True))
    assert reader.take() is None
    assert reader.answers == frame(b"\x04PONG" + context, command=True)


def test_one_take_reads_no_more_than_so_many_frames():
    ping = frame(b"\x04PING\0\0", command=True)
    reader = decoder(HELLO + ping * (FRAMES_PER_TAKE_MAX + 5) + frame(b"a"))
    assert reader.take() is None
    assert reader.behind
    assert reader.take() == [b"a"]
    assert not reader.behind


def test_a_greeting_alone_is_no_message():
    assert len(GREETING) == GREETING_BYTES
    assert decoder(GREETING).take() is None
