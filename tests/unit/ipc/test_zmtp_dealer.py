"""The DEALER's side of ZMTP: what it opens with, and whom it accepts."""

import pytest
from geosched.ipc.zmtp import (
    OPENING_OF_ROUTER,
    PEERS_OF_DEALER,
    Decoder,
    ZmtpError,
    frame,
    opening,
)

GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)


def decoder(fed: bytes) -> Decoder:
    made = Decoder(message_bytes_max=1000, peers=PEERS_OF_DEALER)
    made.feed(fed)
    return made


@pytest.mark.parametrize("name", [b"", b"worker-1", bytes(range(1, 256))])
def test_what_a_dealer_opens_with_is_what_libzmq_sends(name: bytes):
    ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity" + len(name).to_bytes(4) + name
    assert opening(b"DEALER", name) == GREETING + frame(ready, command=True)


def test_a_dealer_accepts_a_router_and_is_accepted_by_it():
    ours = decoder(OPENING_OF_ROUTER + frame(b"a"))
    assert ours.take() == [b"a"]
    theirs = Decoder(message_bytes_max=1000)
    theirs.feed(opening(b"DEALER", b"worker-1") + frame(b"a"))
    assert theirs.take() == [b"a"]


@pytest.mark.parametrize("kind", [b"DEALER", b"REQ", b"REP", b"PUB", b""])
def test_a_dealer_accepts_no_other_socket(kind: bytes):
    with pytest.raises(ZmtpError, match="a peer of type"):
        decoder(opening(kind)).take()
