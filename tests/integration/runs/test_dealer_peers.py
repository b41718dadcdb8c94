"""Our DEALER against servers that stall, die, drip, send garbage, or too much."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc.wire import (
    HANDSHAKE_MILLISECONDS_MAX,
    RECONNECT_MILLISECONDS,
    RECONNECT_MILLISECONDS_MAX,
)
from geosched.ipc.zmtp import OPENING_OF_ROUTER, frame, opening
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dealer import (
    GREETS,
    Client,
    RawServer,
    client_of,
    next_of,
    packed,
    place,
    raw_server,
    read_exactly,
)
from support.wait import wait_for

FRAME_BYTES_MAX = 256 * 1024


@pytest.fixture
def path() -> Iterator[Path]:
    with place() as made:
        yield made


@pytest.fixture
def server(path: Path) -> Iterator[RawServer]:
    with raw_server(path) as made:
        yield made


@pytest.fixture
def client(path: Path) -> Iterator[Client]:
    with client_of(path) as made:
        yield made


def until_closed(opened: socket.socket) -> bytes:
    found = b""
    try:
        while data := opened.recv(65_536):
            found += data
    except ConnectionResetError:
        pass
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.binary(max_size=400) | st.integers(0, 70_000).map(bytes), max_size=6),
    st.lists(st.integers(1, 5000), max_size=30),
)
def test_any_split_of_the_servers_bytes_makes_the_same_messages(
    bodies: list[bytes], cuts: list[int]
):
    stream = OPENING_OF_ROUTER + b"".join(frame(packed(body)) for body in bodies)
    with place() as path, raw_server(path) as server, client_of(path) as client:
        opened = server.accept()
        for cut in cuts:
            opened.sendall(stream[:cut])
            stream = stream[cut:]
            client.turn()
        opened.setblocking(False)

        def sent() -> bool:
            nonlocal stream
            if stream:
                stream = stream[opened.send(stream) :]
            return not stream

        client.until(sent)
        client.until(lambda: len(client.heard) >= len(bodies))
        assert client.heard == bodies
        assert client.errors == []


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_messages_or_cost_the_connection_alone(garbage: bytes, ready: bool):
    with place() as path, raw_server(path) as server, client_of(path) as client:
        opened = server.accept((OPENING_OF_ROUTER if ready else b"") + garbage)
        opened.shutdown(socket.SHUT_WR)
        server.greeted(client).sendall(frame(packed(b"again")))
        client.until(lambda: b"again" in client.heard)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x01\0",  # ZMTP 1
        opening(b"DEALER"),
        opening(b"PUB"),
        OPENING_OF_ROUTER + b"\xff",
        OPENING_OF_ROUTER + OPENING_OF_ROUTER,
        OPENING_OF_ROUTER + b"\x01\0" * 17,
        OPENING_OF_ROUTER + b"\x02" + (FRAME_BYTES_MAX + 1).to_bytes(8),
        OPENING_OF_ROUTER[:64] + frame(b"early"),
    ],
)
def test_who_breaks_the_protocol_is_left_and_tried_again_later(
    server: RawServer, client: Client, sent: bytes, caplog: pytest.LogCaptureFixture
):
    broken = server.accept(sent)
    client.turn(1)
    assert until_closed(broken) in (b"", GREETS)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Closed the connection" in caplog.text
    assert client.dealer.send(b"kept")
    opened = server.greeted(client)
    assert next_of(opened) == b"kept"


def test_a_frame_of_the_greatest_size_is_read(server: RawServer, client: Client):
    opened = server.greeted(client)
    body = bytes(FRAME_BYTES_MAX - 5)
    opened.setblocking(False)
    stream = frame(packed(body))
    while stream:
        stream = stream[opened.send(stream) :]
        client.turn()
    client.until(lambda: client.heard == [body])


def test_a_server_that_does_not_greet_is_given_up_in_time_and_tried_again(
    server: RawServer, client: Client
):
    client.now = time.monotonic()
    assert client.dealer.send(b"kept")
    silent = server.accept()
    client.turn()
    client.now += HANDSHAKE_MILLISECONDS_MAX / 1000
    client.turn()
    assert until_closed(silent) == GREETS
    client.now += RECONNECT_MILLISECONDS_MAX / 1000
    client.turn()
    assert next_of(server.greeted(client)) == b"kept"


def test_who_was_stopped_itself_reads_the_greeting_before_it_gives_up(
    server: RawServer, client: Client
):
    client.now = time.monotonic()
    opened = server.accept(OPENING_OF_ROUTER)
    client.now += HANDSHAKE_MILLISECONDS_MAX / 1000 + 5
    client.turn(1)
    assert client.dealer.next_deadline() is None
    assert client.dealer.send(b"x")
    assert read_exactly(opened, len(GREETS)) == GREETS
    assert next_of(opened) == b"x"


def test_nothing_is_said_to_a_server_before_it_has_greeted(server: RawServer, client: Client):
    assert client.dealer.send(b"x")
    opened = server.accept(OPENING_OF_ROUTER[:-1])
    client.turn(0.1)
    assert read_exactly(opened, len(GREETS)) == GREETS
    opened.setblocking(False)
    with pytest.raises(BlockingIOError):
        opened.recv(1)
    opened.send(OPENING_OF_ROUTER[-1:])
    client.turn(1)
    assert next_of(opened) == b"x"


def test_a_server_that_does_not_read_is_sent_no_more_than_may_wait(
    server: RawServer, client: Client
):
    opened = server.greeted(client)
    sent = 0
    while client.dealer.send(b"x" * 1000):
        sent += 1
        assert sent < 10_000
    client.turn()
    assert not client.dealer.send(b"x")
    assert client.poll.poll(0) == []
    opened.setblocking(False)
    arrived = [read_there(opened)]
    wait_for(lambda: client.poll.poll(0), what="it waits to write")

    def all_arrived() -> bool:
        client.turn()
        arrived.append(read_there(opened))
        return sum(arrived) == sent * len(frame(packed(b"x" * 1000)))

    wait_for(all_arrived)
    assert client.dealer.send(b"there is room again")


def read_there(opened: socket.socket) -> int:
    """The bytes of what there is to read."""
    count = 0
    try:
        while data := opened.recv(65_536):
            count += len(data)
    except BlockingIOError:
        pass
    return count


def test_a_message_of_which_a_part_was_sent_is_lost_with_its_connection_and_no_other(
    server: RawServer, client: Client
):
    opened = server.greeted(client)
    assert client.dealer.send(b"a" * 1024**2)
    assert client.dealer.send(b"next")
    opened.close()
    client.turn(1)
    assert next_of(server.greeted(client)) == b"next"


def test_what_a_server_said_before_it_died_is_heard_although_it_can_be_told_no_more(
    server: RawServer, client: Client
):
    opened = server.greeted(client)
    opened.sendall(frame(packed(b"last words")))
    opened.close()
    assert client.dealer.send(b"heartbeat")
    assert client.dealer.receive() == b"last words"
    assert client.dealer.receive() is None


def test_the_pauses_double_up_to_a_bound_and_begin_anew_after_a_greeting(path: Path):
    with client_of(path) as client:
        client.now = time.monotonic()
        pauses = []
        for _ in range(8):
            due = client.dealer.next_deadline()
            assert due is not None
            client.now = max(due, client.now)
            client.turn()
            pauses.append(round(1000 * ((client.dealer.next_deadline() or 0) - client.now)))
            assert client.poll.poll(0) == []  # and nothing wakes it meanwhile
        assert pauses[-1] == RECONNECT_MILLISECONDS_MAX
        assert pauses == sorted(pauses)
        with raw_server(path) as server:
            client.now += 1
            client.turn()
            server.greeted(client).close()
            client.turn(1)
            due = client.dealer.next_deadline()
            assert due == pytest.approx(client.now + RECONNECT_MILLISECONDS / 1000)


def test_a_listener_whose_queue_is_full_is_tried_until_it_has_room(path: Path):
    with raw_server(path, backlog=0) as server:
        before = socket.socket(socket.AF_UNIX)
        before.connect(str(path))
        with before, client_of(path) as client:
            assert client.dealer.send(b"kept")
            client.turn(0.05)
            server.accept()
            client.turn(0.5)
            opened = server.greeted(client)
            assert next_of(opened) == b"kept"


def test_pings_whose_answers_are_not_read_cost_the_connection(server: RawServer, client: Client):
    opened = server.greeted(client)
    ping = frame(b"\x04PING\0\0" + bytes(16), command=True)
    opened.settimeout(0.05)

    def closed() -> bool:
        client.turn()
        try:
            opened.sendall(ping * 100)
        except TimeoutError:
            return False
        except BrokenPipeError:
            return True
        return False

    wait_for(closed)


def test_an_answer_to_a_ping_is_not_sent_within_a_message(server: RawServer, client: Client):
    opened = server.greeted(client)
    message = frame(packed(b"a" * 1024**2))
    assert client.dealer.send(b"a" * 1024**2)
    opened.sendall(frame(b"\x04PING\0\0", command=True))
    client.turn(1)
    opened.setblocking(False)
    found = bytearray()

    def all_arrived() -> bool:
        client.turn()
        with contextlib.suppress(BlockingIOError):
            found.extend(opened.recv(65_536))
        return len(found) >= len(message) + 7

    wait_for(all_arrived, pause_seconds=0)
    assert found == message + frame(b"\x04PONG", command=True)


def test_a_client_that_is_closed_leaves_nothing_open_or_watched(server: RawServer, client: Client):
    opened = server.greeted(client)
    client.dealer.close()
    assert until_closed(opened) == b""
    assert client.poll.poll(0) == []


def test_a_connection_that_is_lost_is_no_longer_watched(server: RawServer, client: Client):
    server.greeted(client).close()
    wait_for(lambda: client.poll.poll(0))
    client.dealer.receive()
    assert client.poll.poll(0) == []


def test_who_has_nothing_to_send_waits_only_to_read(server: RawServer, client: Client):
    server.greeted(client)
    assert client.poll.poll(0) == []
