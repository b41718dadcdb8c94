"""How many connections of our ROUTER there may be, for how long, and what they may leave unread."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from geosched.ipc import router as module
from geosched.ipc.router import (
    ACCEPT_AGAIN_SECONDS,
    HANDSHAKE_SECONDS_MAX,
    IDLE_SECONDS_MAX,
    STAYS_SECONDS,
    UNREAD_SECONDS_MAX,
    Bounds,
)
from geosched.ipc.wire import RECONNECT_MILLISECONDS
from geosched.ipc.zmtp import OPENING_OF_ROUTER, frame
from support.limits import no_descriptors
from support.router import GREETING, HELLO, Echo, Peers, is_open

ASK = frame(msgspec.msgpack.encode(b"x"))
OF_USER = 3
SMALL = Bounds(in_all=5, of_user=OF_USER)
STRANGER = 65_534

# A child of another user that connects so often, and holds its connections.
_CONNECTS = """
import os, socket, sys
os.setgroups([]); os.setgid({uid}); os.setuid({uid})
held = [socket.socket(socket.AF_UNIX) for _ in range({count})]
for each in held:
    each.connect(sys.argv[1])
    try:
        each.sendall(bytes.fromhex(sys.argv[2]))
    except BrokenPipeError:
        pass  # it was not let in
print("connected", flush=True)
while {again}:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(sys.argv[1])
sys.stdin.read()
"""


@pytest.fixture
def small(echoes: Callable[..., Echo]) -> Echo:
    return echoes(SMALL)


def others(
    path: Path, uid: int, count: int, sent: bytes, *, again: bool = False
) -> "subprocess.Popen[bytes]":
    if os.geteuid() != 0:
        pytest.skip("only root can connect as somebody else")
    path.parent.chmod(0o755)
    path.chmod(0o666)
    code = _CONNECTS.format(uid=uid, count=count, again=again)
    return subprocess.Popen(
        [sys.executable, "-S", "-c", code, str(path), sent.hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
    )


def open_ones(held: list[socket.socket]) -> list[bool]:
    return [is_open(each) for each in held]


def test_as_many_of_a_user_as_may_be_are_let_in_and_one_more_is_not(small: Echo, peers: Peers):
    held = [peers.raw(HELLO) for _ in range(OF_USER)]
    small.settle()
    assert (len(small.router), small.router.refused) == (OF_USER, 0)
    one_more = peers.raw(HELLO)
    small.settle()
    assert (len(small.router), small.router.refused) == (OF_USER, 1)
    assert open_ones([*held, one_more]) == [True] * OF_USER + [False]


def test_the_one_that_asked_nothing_for_the_longest_time_gives_way(small: Echo, peers: Peers):
    held = [peers.raw(HELLO) for _ in range(OF_USER)]
    small.settle()
    small.now += STAYS_SECONDS
    held[0].sendall(ASK)
    small.settle()
    held.append(peers.raw(HELLO + ASK))
    small.settle()
    assert open_ones(held) == [True, False, True, True]
    assert len(small.peers) == 2


def test_one_that_waits_for_its_answer_does_not_give_way(small: Echo, peers: Peers):
    held = [peers.raw(HELLO + ASK) for _ in range(OF_USER)]
    small.settle()
    small.waiting = {peer.routing_id for peer in small.peers}
    small.settle()
    small.now += IDLE_SECONDS_MAX + 1
    small.turn()
    held.append(peers.raw(HELLO))
    small.settle()
    assert open_ones(held) == [True] * OF_USER + [False]


def test_the_connection_of_a_peer_that_has_left_is_free_at_once(small: Echo, peers: Peers):
    held = [peers.raw(HELLO) for _ in range(OF_USER)]
    small.settle()
    for each in held:
        each.close()  # what a client does that only looks whether anybody listens
    fresh = peers.raw(HELLO + ASK)
    small.settle()
    assert is_open(fresh)
    assert small.router.refused <= 1  # counted where it is noticed in passing


def test_a_user_with_all_it_may_have_keeps_nobody_else_out(small: Echo, peers: Peers, path: Path):
    with others(path, STRANGER, 20, HELLO) as stranger:
        assert stranger.stdout is not None
        deadline = time.monotonic() + 10
        while small.router.refused < 20 - OF_USER and time.monotonic() < deadline:
            small.turn(0.05)
        assert len(small.router) == OF_USER
        mine = [peers.raw(HELLO + ASK) for _ in range(OF_USER)]
        small.settle()
        # The bound in all is reached by the third: who has the most gives way, however busy.
        assert open_ones(mine) == [True] * 2 + [False]
        assert [peer.uid for peer in small.peers] == [0, 0]
        stranger.communicate(b"")


def test_a_user_who_connects_without_end_keeps_nobody_else_out(
    echo: Echo, peers: Peers, path: Path
):
    echo.serve()
    with others(path, STRANGER, 1, HELLO, again=True) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        for _ in range(3):
            dealer = peers.zmq(RECONNECT_IVL=RECONNECT_MILLISECONDS)
            dealer.send(msgspec.msgpack.encode(b"x"))
            assert dealer.recv()
        stranger.kill()


def test_where_all_are_taken_the_user_with_the_most_gives_one_up(
    echoes: Callable[..., Echo], peers: Peers, path: Path
):
    echo = echoes(Bounds(in_all=4, of_user=4))
    with others(path, STRANGER, 4, HELLO) as stranger:
        deadline = time.monotonic() + 10
        while len(echo.router) < 4 and time.monotonic() < deadline:
            echo.turn(0.05)
        mine = peers.raw(HELLO + ASK)  # at once: none of them has been quiet for long
        echo.settle()
        assert is_open(mine)
        assert (len(echo.router), echo.router.refused) == (4, 1)
        stranger.communicate(b"")


def test_one_that_asks_nothing_goes_after_its_time_and_not_before(echo: Echo, peers: Peers):
    quiet, asks = peers.raw(HELLO), peers.raw(HELLO)
    echo.settle()
    echo.now += IDLE_SECONDS_MAX - 1
    asks.sendall(ASK)
    echo.settle()
    assert open_ones([quiet, asks]) == [True, True]
    assert echo.router.next_deadline() == echo.now + 1
    echo.now += 1
    echo.turn()
    assert open_ones([quiet, asks]) == [False, True]
    echo.now += IDLE_SECONDS_MAX
    echo.turn()
    assert len(echo.router) == 0


def test_heartbeats_and_half_a_message_ask_nothing(echo: Echo, peers: Peers):
    peers.raw(HELLO + frame(b"\x04PING\0\0", command=True) + ASK[:-1])
    echo.settle()
    echo.now += IDLE_SECONDS_MAX
    echo.turn()
    assert len(echo.router) == 0


def test_a_request_that_comes_as_its_time_is_over_is_answered(echo: Echo, peers: Peers):
    late = peers.raw(HELLO)
    echo.settle()
    echo.now += IDLE_SECONDS_MAX
    late.sendall(ASK)
    echo.router.expire(set())  # before it was read
    echo.settle()
    assert late.recv(1000) == OPENING_OF_ROUTER + ASK
    assert not is_open(late)


@pytest.mark.parametrize("sent", [b"", GREETING[:9], GREETING, HELLO[:-1]])
def test_a_greeting_has_its_time(echo: Echo, peers: Peers, sent: bytes):
    half = peers.raw(sent)
    echo.settle()
    echo.now += HANDSHAKE_SECONDS_MAX - 0.1
    echo.turn()
    assert is_open(half)
    echo.now += 0.1
    echo.turn()
    assert not is_open(half)


def test_who_does_not_read_its_answers_is_read_from_no_more_and_goes(echo: Echo, peers: Peers):
    """A request is answered, another is not read before the answer was taken."""
    large = frame(msgspec.msgpack.encode(bytes(200_000)))
    deaf = peers.raw()
    deaf.setblocking(False)
    stream = bytearray(HELLO + large * 20)
    for _ in range(200):
        with suppress(BlockingIOError):
            del stream[: deaf.send(stream)]
        echo.turn()
    assert stream  # it was stopped
    assert len(echo.peers) < 5
    reads = peers.raw(HELLO + ASK)
    echo.settle()
    assert reads.recv(1000) == OPENING_OF_ROUTER + ASK
    assert not echo.turn()  # nothing spins
    echo.now += UNREAD_SECONDS_MAX
    echo.turn()
    assert open_ones([deaf, reads]) == [False, True]


def test_a_peer_that_takes_its_answer_late_is_answered_what_it_asked_meanwhile(
    echo: Echo, peers: Peers
):
    large = frame(msgspec.msgpack.encode(bytes(250_000)))
    late = peers.raw()
    late.setblocking(False)
    stream = bytearray(HELLO + large + ASK * 3)
    while stream:
        with suppress(BlockingIOError):
            del stream[: late.send(stream)]
        echo.turn()
    echo.settle()
    assert len(echo.peers) == 1  # the others are not looked at before that is taken
    expected = OPENING_OF_ROUTER + large + ASK * 3
    found = b""
    for _ in range(1000):
        with suppress(BlockingIOError):
            found += late.recv(100_000)
        echo.turn()
    assert found == expected


def test_what_is_left_unread_is_bounded_for_one_and_for_all(
    echo: Echo, peers: Peers, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "UNREAD_BYTES_MAX", 1_000_000)
    monkeypatch.setattr(module, "UNREAD_BYTES_IN_ALL_MAX", 2_000_000)
    for _ in range(4):
        peers.raw(HELLO + ASK)
    echo.settle()
    first, *rest = (peer.routing_id for peer in echo.peers)
    assert not echo.router.send(first, bytes(1_500_000))
    sent = [echo.router.send(each, bytes(900_000 + n)) for n, each in enumerate(rest)]
    assert sent == [True, True, False]  # the one for which the most waits
    assert len(echo.router) == 2


def test_who_leaves_most_unread_pays_for_it_in_however_many_connections(
    echo: Echo, peers: Peers, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "UNREAD_BYTES_IN_ALL_MAX", 2_000_000)
    ours = peers.raw(HELLO + ASK)
    with others(echo.router.path, STRANGER, 3, HELLO + ASK) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"connected\n"
        echo.settle()
        by_user = {peer.uid: peer.routing_id for peer in echo.peers}
        theirs = [peer.routing_id for peer in echo.peers if peer.uid == STRANGER]
        assert echo.router.send(by_user[os.getuid()], bytes(1_000_000))
        for each in theirs:
            echo.router.send(each, bytes(700_000))
        assert (len(theirs), len(echo.router)) == (3, 3)
        assert is_open(ours)
        stranger.communicate(timeout=10)


def test_without_descriptors_those_who_are_there_are_served_and_others_wait(
    echo: Echo, peers: Peers, caplog: pytest.LogCaptureFixture
):
    there = peers.raw(HELLO)
    echo.settle()
    late = peers.raw(HELLO + ASK)
    there.sendall(ASK)
    with no_descriptors():
        for _ in range(2):
            echo.settle()  # which fails if it spins
            assert len(echo.router) == len(echo.peers) == 1
            assert echo.router.next_deadline() == echo.now + ACCEPT_AGAIN_SECONDS
            echo.now += ACCEPT_AGAIN_SECONDS
        assert there.recv(1000) == OPENING_OF_ROUTER + ASK
    assert [record.event for record in caplog.records] == ["accept-failed"]
    echo.settle()
    assert late.recv(1000) == OPENING_OF_ROUTER + ASK
