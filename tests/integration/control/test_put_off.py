"""Peers whose messages the router leaves for the next time."""

import msgspec
from geosched.ipc.sockets import Peer
from geosched.ipc.zmtp import frame
from support.router import HELLO, Echo, Peers
from support.wait import wait_for


def heard_by(echo: Echo, but: set[bytes]) -> list[bytes]:
    """Who is heard, but for some."""

    def heard(peer: Peer) -> bool:
        return peer.routing_id not in but

    return [peer.routing_id for peer, _ in echo.router.drain(50, heard=heard)]


def test_who_is_not_heard_keeps_nobody_from_being_and_comes_first_the_next_time(
    echo: Echo, peers: Peers
) -> None:
    hello = HELLO + frame(msgspec.msgpack.encode(b"hello"))
    raw = [peers.raw(hello) for _ in range(3)]
    wait_for(lambda: echo.turn(0.02) and len(echo.peers) == 3)
    first, second, third = (peer.routing_id for peer in echo.peers)
    for each in raw:
        each.sendall(frame(msgspec.msgpack.encode(b"again")))
    seen: list[bytes] = []
    wait_for(lambda: seen.extend(heard_by(echo, {first, second})) or seen)
    assert seen == [third]
    assert heard_by(echo, {first, second}) == []
    assert echo.router.next_deadline() == echo.now, "they wait for the next turn, and no longer"
    echo.router.expire(set())
    raw[2].sendall(frame(msgspec.msgpack.encode(b"once more")))
    assert heard_by(echo, set()) == [first, second, third]
