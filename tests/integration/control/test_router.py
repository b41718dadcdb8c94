"""Our ROUTER against libzmq's own sockets, and against peers that break the protocol."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zmq
from geosched.ipc.wire import FRAME_BYTES_MAX
from geosched.ipc.zmtp import OPENING_OF_ROUTER, frame
from support.router import GREETING, HELLO, Echo, Peers, until_closed
from support.wait import wait_for


def packed(body: bytes) -> bytes:
    return msgspec.msgpack.encode(body)


def said(peer: "zmq.Socket[bytes]", body: bytes) -> bytes:
    """What comes back for a message."""
    peer.send(packed(body))
    answer: bytes = msgspec.msgpack.decode(peer.recv())
    return answer


@pytest.mark.parametrize("size", [0, 1, 250, 251, 252, 253, 254, 255, 256, 65_535, 200_000])
def test_libzmq_understands_and_is_understood_at_each_size(echo: Echo, peers: Peers, size: int):
    echo.serve()
    dealer = peers.zmq()
    body = bytes(number % 251 for number in range(size))
    for _ in range(3):
        assert said(dealer, body) == body


def test_messages_of_many_peers_come_back_in_the_order_of_each(echo: Echo, peers: Peers):
    echo.serve()
    dealers = [peers.zmq() for _ in range(20)]
    bodies = [b"%d" % number for number in range(100)]
    for body in bodies:
        for dealer in dealers:
            dealer.send(packed(body))
    for dealer in dealers:
        assert [msgspec.msgpack.decode(dealer.recv()) for _ in bodies] == bodies


def test_a_message_larger_than_any_buffer_of_the_kernel_arrives_whole(echo: Echo, peers: Peers):
    dealer = peers.zmq()
    dealer.send(packed(b"who"))
    wait_for(lambda: echo.turn(0.02) and echo.peers)
    large = os.urandom(2 * 1024**2)
    assert echo.router.send(echo.peers[0].routing_id, large)
    echo.serve()
    assert msgspec.msgpack.decode(dealer.recv()) == b"who"
    assert msgspec.msgpack.decode(dealer.recv()) == large


def test_a_peer_is_known_by_the_kernels_word(echo: Echo, peers: Peers):
    echo.serve()
    said(peers.zmq(), b"x")
    assert echo.peers[0][1:] == (os.geteuid(), os.getegid(), os.getpid())


def test_a_name_that_a_peer_gives_itself_takes_nobodys_place(echo: Echo, peers: Peers):
    """libzmq's ROUTER would hand the answers of the first over to the second."""
    echo.serve()
    first, second = (peers.zmq(ROUTING_ID=b"same") for _ in range(2))
    assert said(first, b"x") == said(second, b"x") == b"x"
    assert said(first, b"still here") == b"still here"


def test_a_message_of_several_frames_is_unreadable_and_costs_nobody_else(echo: Echo, peers: Peers):
    echo.serve()
    peers.zmq(zmq.REQ).send(b"a REQ sends an empty frame before it")
    dealer = peers.zmq()
    dealer.send_multipart([b"a", b"b", b"c"])
    assert said(dealer, b"x") == b"x"
    wait_for(lambda: len(echo.errors) == 2)
    expected = [f"cannot read a message of {count} frames" for count in (2, 3)]
    assert sorted(echo.errors) == expected


def test_heartbeats_of_libzmq_are_answered(echo: Echo, peers: Peers):
    echo.serve()
    dealer = peers.zmq(HEARTBEAT_IVL=20, HEARTBEAT_TIMEOUT=200)
    said(dealer, b"x")
    time.sleep(1)  # without PONG it would disconnect five times
    said(dealer, b"y")
    assert len({peer.routing_id for peer in echo.peers}) == 1


@pytest.mark.parametrize("kind", [zmq.SUB, zmq.PUSH, zmq.PAIR, zmq.REP])
def test_a_socket_of_another_type_is_not_let_in(echo: Echo, peers: Peers, kind: int):
    echo.serve()
    peers.zmq(kind)
    assert said(peers.zmq(), b"x") == b"x"
    assert len(echo.peers) == 1


def test_what_libzmq_was_given_before_anybody_listened_arrives(
    echoes: Callable[..., Echo], peers: Peers
):
    dealer = peers.zmq()
    dealer.send(packed(b"early"))
    echoes().serve()
    assert msgspec.msgpack.decode(dealer.recv()) == b"early"


def test_a_peer_that_sends_much_at_once_does_not_keep_the_others_waiting(echo: Echo, peers: Peers):
    peers.raw(HELLO + frame(packed(b"x")) * 120)
    peers.raw(HELLO + frame(packed(b"x")))
    echo.turn(1)  # lets them in
    echo.turn(1)
    assert len({peer.routing_id for peer in echo.peers[:2]}) == 2
    echo.settle()
    assert len(echo.peers) == 121


@pytest.mark.parametrize("step", [1, 7])
def test_a_peer_that_drips_is_understood(echo: Echo, peers: Peers, step: int):
    echo.serve()
    stream = HELLO + frame(packed(b"slow"))
    peer = peers.raw()
    for begin in range(0, len(stream), step):
        peer.sendall(stream[begin : begin + step])
        time.sleep(0.001)
    peer.shutdown(socket.SHUT_WR)
    assert until_closed(peer) == OPENING_OF_ROUTER + frame(packed(b"slow"))


@pytest.mark.parametrize(
    "sent",
    [
        b"\x05\0abcd\x03\0xy",  # ZMTP 1
        b"\xff\0\0\0\0\0\0\0\x05\x7f\x01\0\0",  # ZMTP 2
        b"GET / HTTP/1.1\r\n\r\n",
        HELLO + b"\xff",
        HELLO + b"\x02" + (FRAME_BYTES_MAX + 1).to_bytes(8),
        HELLO + b"\x01\0" * 17,
        HELLO + HELLO,
        GREETING + frame(b"x"),
    ],
)
def test_who_breaks_the_protocol_is_closed_and_everybody_else_served(
    echo: Echo, peers: Peers, sent: bytes
):
    echo.serve()
    dealer = peers.zmq()
    assert OPENING_OF_ROUTER.startswith(until_closed(peers.raw(sent)))
    assert said(dealer, b"x") == b"x"
    assert echo.errors == []
    assert echo.router.refused == 1


def test_a_file_that_is_no_socket_is_left_alone(echoes: Callable[..., Echo], path: Path):
    path.write_text("mine")
    with pytest.raises(OSError, match="no socket"):
        echoes()
    assert path.read_text() == "mine"


def test_a_dead_socket_is_replaced_and_removed_at_the_end(path: Path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    echo = Echo(path)
    assert path.stat().st_mode & 0o777 == 0o600
    echo.close()
    assert not path.exists()
