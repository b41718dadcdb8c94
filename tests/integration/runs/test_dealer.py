"""Our DEALER against libzmq's ROUTER: it does for a worker what libzmq's DEALER did."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from geosched.ipc.wire import QUEUED_MESSAGES_MAX, ProtocolError
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dealer import NAME, Client, ZmqServer, client_of, packed, place, zmq_server
from support.wait import wait_for

SIZES = st.integers(0, 300) | st.sampled_from([65_535, 65_536, 200_000])


@pytest.fixture
def path() -> Iterator[Path]:
    with place() as made:
        yield made


@pytest.fixture
def server(path: Path) -> Iterator[ZmqServer]:
    with zmq_server(path) as made:
        yield made


@pytest.fixture
def client(path: Path) -> Iterator[Client]:
    with client_of(path) as made:
        yield made


def greeted(client: Client, server: ZmqServer) -> None:
    assert client.dealer.send(b"ready")
    client.until(server.hear)
    server.heard.clear()


@settings(max_examples=25, deadline=None)
@given(st.lists(SIZES, max_size=40), st.lists(SIZES, max_size=40))
def test_any_messages_arrive_whole_and_in_their_order_on_either_side(
    up: list[int], down: list[int]
):
    with place() as path, zmq_server(path) as server, client_of(path) as client:
        greeted(client, server)
        for size in up:
            assert client.dealer.send(bytes(size))
        client.until(lambda: len(server.hear()) >= len(up))
        for size in down:
            client.until(lambda size=size: server.say(bytes(size)))
        client.until(lambda: len(client.heard) >= len(down))
        assert server.heard == [bytes(size) for size in up]
        assert client.heard == [bytes(size) for size in down]
        assert client.errors == []


def test_the_server_knows_the_client_by_the_kernels_word_and_by_its_name(
    server: ZmqServer, client: Client
):
    greeted(client, server)
    assert server.peers[0] == (NAME.encode(), os.geteuid(), os.getegid(), os.getpid())


def test_messages_wait_for_a_server_that_is_late_and_no_more_than_may(path: Path, client: Client):
    bodies = [b"%d" % number for number in range(QUEUED_MESSAGES_MAX)]
    assert [client.dealer.send(body) for body in bodies] == [True] * QUEUED_MESSAGES_MAX
    assert not client.dealer.send(b"one too many")
    client.turn(0.05)
    with zmq_server(path) as server:
        client.until(lambda: len(server.hear()) >= QUEUED_MESSAGES_MAX)
        assert server.heard == bodies
        assert client.dealer.send(b"there is room again")


def test_a_connection_outlives_the_file_of_its_server(
    path: Path, server: ZmqServer, client: Client
):
    greeted(client, server)
    path.unlink()
    server.server.rebind()
    assert client.dealer.send(b"up")
    client.until(server.hear)
    assert server.say(b"down")
    client.until(lambda: client.heard == [b"down"])
    assert {peer.pid for peer in server.peers} == {os.getpid()}


def test_another_server_gets_what_was_sent_while_there_was_none(path: Path, client: Client):
    with zmq_server(path) as first:
        greeted(client, first)
    client.turn(0.1)
    assert client.dealer.send(b"meanwhile")
    with zmq_server(path) as second:
        client.until(second.hear)
        assert second.heard == [b"meanwhile"]
        assert second.say(b"welcome")
        client.until(lambda: client.heard == [b"welcome"])


def test_who_connects_again_takes_the_place_of_its_dead_connection(path: Path, server: ZmqServer):
    with client_of(path) as first:
        greeted(first, server)
        with client_of(path) as second:
            greeted(second, server)
            assert server.say(b"to the second")
            second.until(lambda: second.heard == [b"to the second"])
            assert first.heard == []


def test_messages_that_came_together_need_no_further_word_of_the_poll(
    server: ZmqServer, client: Client
):
    greeted(client, server)
    for number in range(20):
        assert server.say(b"%d" % number)
    wait_for(lambda: client.poll.poll(0))
    time.sleep(0.1)  # until all are there
    assert client.dealer.receive() == b"0"
    due = client.dealer.next_deadline()
    assert due is not None
    assert due <= time.monotonic()
    client.turn()
    assert client.heard == [b"%d" % number for number in range(1, 20)]
    assert client.dealer.next_deadline() is None


def test_a_message_of_several_frames_is_unreadable_and_the_next_is_read(
    server: ZmqServer, client: Client
):
    greeted(client, server)
    server.server.socket.send_multipart([NAME.encode(), b"a", b"b"])
    server.server.socket.send_multipart([NAME.encode(), b"\xc1"])
    assert server.say(b"next")
    client.until(lambda: client.heard == [b"next"])
    assert client.errors[0] == "cannot read a message of 2 frames"
    assert len(client.errors) == 2


def test_what_the_server_cannot_read_is_its_own_error(server: ZmqServer, client: Client):
    greeted(client, server)
    client.dealer._waiting.append(b"\x00\x01\xc1")
    assert client.dealer.send(b"next")
    client.until(lambda: len(server.hear()) == 2)
    assert isinstance(server.heard[0], ProtocolError)
    assert server.heard[1] == b"next"


def test_heartbeats_of_libzmq_are_answered(path: Path, client: Client):
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    router.heartbeat_ivl, router.heartbeat_timeout = 20, 200
    try:
        router.bind(f"ipc://{path}")
        client.dealer.send(b"up")
        client.until(lambda: router.poll(0))
        begun = time.monotonic()
        client.until(lambda: time.monotonic() > begun + 1)  # without PONG it would go five times
        assert client.dealer.next_deadline() is None
        router.send_multipart([NAME.encode(), packed(b"down")])
        client.until(lambda: client.heard == [b"down"])
    finally:
        router.close()
        context.term()


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.PULL, zmq.PUB])
def test_a_server_of_another_type_is_not_spoken_to(path: Path, client: Client, kind: int):
    context = zmq.Context()
    other = context.socket(kind)
    other.linger = 0
    try:
        other.bind(f"ipc://{path}")
        client.dealer.send(b"not for you")
        for _ in range(10):
            client.turn(0.05)
        assert client.dealer.next_deadline() is not None
        assert kind != zmq.DEALER or not other.poll(0)
    finally:
        other.close()
        context.term()
