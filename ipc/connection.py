"""One connection of a router: what its peer has sent, and what it has not taken yet.

No call waits, nor does one for the end of descriptors that the peer attaches.
"""

import select
import socket

from . import unwanted_descriptors, zmtp
from .sockets import Peer

#: Read from one peer in one turn.
PIECE_BYTES_MAX = 64 * 1024


class Connection:
    """One peer: its socket, what it has sent, and what it has not taken yet."""

    def __init__(
        self, opened: socket.socket, peer: Peer, message_bytes_max: int, now_monotonic: float
    ):
        self.socket = opened
        self.peer = peer
        self.decoder = zmtp.Decoder(message_bytes_max=message_bytes_max)
        self.unsent = bytearray(zmtp.OPENING_OF_ROUTER)
        self.wanted = select.EPOLLIN
        self.ended = False  # nothing more comes from the peer
        self.attached = False  # it sent descriptors, which nobody has asked for
        self.unread = False  # may hold messages that were not taken yet
        self.opened_monotonic = now_monotonic
        self.asked_monotonic = now_monotonic
        self.taken_monotonic = now_monotonic  # when it last took some of what was sent

    def receive(self) -> bool:
        """Read what has come, at most `PIECE_BYTES_MAX`. False where there was nothing."""
        try:
            with unwanted_descriptors.interrupted():
                data, _, flags, _ = self.socket.recvmsg(PIECE_BYTES_MAX)
        except BlockingIOError:
            return False
        except OSError:
            data, flags = b"", 0  # its end
        self.decoder.feed(data)
        self.ended = not data
        self.attached |= bool(flags & socket.MSG_CTRUNC)
        return True

    def left(self) -> bool:
        """The peer has left, and nothing that it sent is there."""
        try:
            with unwanted_descriptors.interrupted():
                return not self.socket.recv(1, socket.MSG_PEEK)
        except OSError as error:
            return not isinstance(error, BlockingIOError)

    def flush(self, now_monotonic: float) -> bool:
        """Send what the peer takes. False where it is gone."""
        self.unsent += self.decoder.answers
        self.decoder.answers.clear()
        try:
            while self.unsent:
                with memoryview(self.unsent) as unsent:
                    sent = self.socket.send(unsent, socket.MSG_NOSIGNAL)
                del self.unsent[:sent]
                self.taken_monotonic = now_monotonic
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True
