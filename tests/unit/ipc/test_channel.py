"""A channel to a child that may be hostile: bounded, closed for good, and never waited for."""

import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from geosched.ipc import unwanted_descriptors
from geosched.ipc.channel import MESSAGE_BYTES_MAX, PIECE_BYTES_MAX, Channel, ChildEnd, framed
from geosched.ipc.wire import ProtocolError
from support.lingering import AT_ONCE_SECONDS, full_socket
from support.wait import wait_for

MEBIBYTE = 1024**2


@pytest.fixture
def channel() -> Iterator[Channel[Any, Any]]:
    opened: Channel[Any, Any] = Channel(receives=int | str)
    yield opened
    opened.close()


def readable(channel: Channel[Any, Any]) -> bool:
    return bool(select.select([channel], [], [], 0)[0])


def test_messages_of_any_length_up_to_the_bound_cross_both_ways(channel: Channel[Any, Any]) -> None:
    with channel.open() as theirs:
        end: ChildEnd[Any, Any] = ChildEnd(theirs, receives=str)
        assert channel.send("order")
        assert end.receive() == "order"
        theirs.setblocking(False)
        for text in ("", "x" * (MESSAGE_BYTES_MAX - 5)):
            rest, got = memoryview(framed(msgspec.msgpack.encode(text))), []
            while not got:
                if rest:
                    rest = rest[theirs.send(rest) :]
                assert readable(channel)
                got = list(channel.drain())
            assert got == [text]
        assert not readable(channel)


def test_many_messages_are_read_at_once_and_in_order(channel: Channel[Any, Any]) -> None:
    with channel.open() as theirs:
        theirs.sendall(b"".join(framed(msgspec.msgpack.encode(n)) for n in range(1000)))
        assert list(channel.drain()) == list(range(1000))


def test_an_order_larger_than_the_socket_goes_on_when_there_is_room(
    channel: Channel[Any, Any],
) -> None:
    with channel.open() as theirs:
        order = "x" * MEBIBYTE
        assert channel.send(order)
        assert not channel.send("another"), "the last one is not read yet"
        received = bytearray()
        while len(received) < MEBIBYTE:
            received += theirs.recv(MEBIBYTE)
            list(channel.drain())
        assert msgspec.msgpack.decode(received[4:]) == order
        assert not readable(channel)
        assert channel.send("another")


@pytest.mark.parametrize(
    "said",
    [
        struct.pack(">I", MESSAGE_BYTES_MAX + 1),
        b"\xff" * 100,
        framed(b"\xc1"),
        framed(msgspec.msgpack.encode([])),
    ],
)
def test_what_cannot_be_read_is_an_error(said: bytes, channel: Channel[Any, Any]) -> None:
    with channel.open() as theirs:
        theirs.sendall(framed(b"\x01") + said)
        first, second, *_ = channel.drain()
        assert first == 1
        assert isinstance(second, ProtocolError)


def test_a_message_without_end_takes_no_more_memory_than_one(channel: Channel[Any, Any]) -> None:
    with channel.open() as theirs:
        theirs.setblocking(False)
        theirs.send(struct.pack(">I", MESSAGE_BYTES_MAX))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        errors: list[Any] = []
        for _ in range(200):
            try:
                theirs.send(b"\xff" * PIECE_BYTES_MAX)
            except BlockingIOError:
                pass
            except BrokenPipeError:
                break
            errors += channel.drain()
            if errors:
                channel.hang_up()
        assert errors
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert taken * 1024 < 4 * MESSAGE_BYTES_MAX


def test_who_has_the_other_end_after_it_was_closed_has_nothing(channel: Channel[Any, Any]) -> None:
    """A process that the child forked, or gave its end to."""
    with channel.open() as theirs:
        theirs.sendall(framed(b"\x01"))
        channel.hang_up()
        assert list(channel.drain()) == []
        with pytest.raises(BrokenPipeError):
            theirs.sendall(b"x")
        with channel.open() as successors:
            successors.sendall(framed(b"\x02"))
            assert list(channel.drain()) == [2]
            with pytest.raises(BrokenPipeError):
                theirs.sendall(b"x")


def test_a_child_that_closes_its_end_is_heard_to_the_last_and_wakes_nobody_again(
    channel: Channel[Any, Any],
) -> None:
    with channel.open() as theirs:
        theirs.sendall(framed(b"\x01"))
    assert list(channel.drain()) == [1]
    assert list(channel.drain()) == []
    assert channel.ended
    assert not readable(channel)
    assert not channel.send("order")
    with channel.open():
        assert not channel.ended


@pytest.mark.parametrize("refused", [True, False])
def test_descriptors_that_are_attached_hold_nobody(
    refused: bool, channel: Channel[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last close of a TCP socket waits as long as its owner has set."""
    if not refused:  # as on Linux before 6.16
        monkeypatch.setattr(unwanted_descriptors, "refuse", lambda _: None)
    with channel.open() as theirs, full_socket() as waits:
        try:
            socket.send_fds(theirs, [framed(b"\x01")], [waits.fileno()])
        except PermissionError:
            assert refused
            return
        waits.close()
        begun = time.monotonic()
        assert any(isinstance(each, ProtocolError) for each in channel.drain())
        channel.hang_up()
        assert time.monotonic() - begun < AT_ONCE_SECONDS


def test_a_childs_end_waits_and_sees_the_end(channel: Channel[Any, Any]) -> None:
    end: ChildEnd[Any, Any] = ChildEnd(channel.open(), receives=int)
    heard: list[Any] = []

    def serve() -> None:
        heard.append(end.receive())
        end.send(heard[0] + 1, timeout_seconds=5.0)
        heard.append(end.receive())

    child = threading.Thread(target=serve)
    child.start()
    assert channel.send(41)
    assert wait_for(lambda: list(channel.drain())) == [42]
    channel.hang_up()
    child.join(10)
    end.close()
    assert heard == [41, None]


def test_a_childs_end_gives_up_where_nobody_reads(channel: Channel[Any, Any]) -> None:
    with channel.open() as theirs:
        end: ChildEnd[Any, Any] = ChildEnd(theirs, receives=int)
        assert not end.send("x" * MEBIBYTE, timeout_seconds=0.1)
