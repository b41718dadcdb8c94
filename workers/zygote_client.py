"""The supervisor's end of the zygote: its process, requests to it and its answers.

No call waits, except `leave`. A zygote that is gone shows as `EOFError` from `receive`, one
that is stuck as silence, which the caller judges.
"""

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping

import msgspec

from ..ipc.environment import child_environment
from ..ipc.messages.zygote import Forked, FromZygote, ToZygote
from ..ipc.wire import ProtocolError, decoded

MESSAGES_PER_TURN_MAX = 256
_MESSAGE_BYTES_MAX = 8192
_STDIN = 0
#: With none at all no process gets a title (fact P38).
_LEAST_ENVIRONMENT = {"PATH": os.defpath}


_decode: Callable[[bytes | memoryview], FromZygote] = msgspec.msgpack.Decoder(FromZygote).decode


class Given(msgspec.Struct, frozen=True):
    """What a zygote is given, as the first message on its socket: anybody may read arguments, and
    the mark is a secret.

    `lifeline` is the reading end of a pipe whose other end, marked close-on-exec, only the
    supervisor holds. `runtime_dir` is absolute. `instance` names the control groups of this boot
    and state directory, `mark` is in the environment of its scripts. `open_files` is the soft limit
    of scripts, 0 to leave it. With `immortal_heap` it makes its objects immortal, where it can.
    """

    lifeline: int
    runtime_dir: str
    instance: str
    mark: str
    log_level: str = "info"
    log_style: str = "text"
    open_files: int = 0
    immortal_heap: bool = True


class ZygoteClient:
    """A zygote process. `pidfd` is readable once it has ended."""

    def __init__(self, given: Given, environment: Mapping[str, str] = os.environ) -> None:
        """Start it. Raises `OSError`."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with contextlib.ExitStack() as opened, theirs:
            opened.callback(self._socket.close)
            self._socket.send(msgspec.json.encode(given))
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-P", "-m", "geosched.workers.zygote", str(theirs.fileno())],
                child_environment(environment) or _LEAST_ENVIRONMENT,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, _STDIN, os.devnull, os.O_RDONLY, 0),
                    # Onto itself: that removes the close-on-exec mark, in the child only.
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), theirs.fileno()),
                    (os.POSIX_SPAWN_DUP2, given.lifeline, given.lifeline),
                ],
                setsigmask=(),
            )
            opened.pop_all()
        self.pidfd = os.pidfd_open(self.pid)

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to `receive`."""
        return self._socket.fileno()

    def receive(self) -> list[tuple[FromZygote, int | None]]:
        """Return its messages, each with the pidfd that came along, for the caller to close.
        Raises `EOFError` when the zygote is gone, `ProtocolError`, `OSError`.
        """
        heard: list[tuple[FromZygote, int | None]] = []
        while len(heard) < MESSAGES_PER_TURN_MAX:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, _MESSAGE_BYTES_MAX, 1)
            except BlockingIOError:
                break
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)  # CPython 3.11 drops MSG_CMSG_CLOEXEC
            if not data and heard:
                break  # the next call raises
            if not data:
                raise EOFError("the zygote closed its socket")
            message = decoded([data], _decode)
            if isinstance(message, ProtocolError):
                _close_all(descriptors)
                raise message
            heard.append(_with_pidfd(message, descriptors))
        return heard

    def kill(self) -> None:
        """Send SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def leave(self, seconds_max: float) -> None:
        """Close its socket and wait until it has left; kill one that hangs or is too slow, and
        wait as long for its end."""
        self._socket.close()
        gone = select.poll()
        gone.register(self.pidfd, select.POLLIN)
        if not gone.poll(seconds_max * 1000):
            self.kill()
            gone.poll(seconds_max * 1000)
        self.close()

    def close(self) -> None:
        """Close its socket, at which it leaves, and its pidfd. The supervisor reaps it."""
        self._socket.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def ask(self, request: ToZygote, *descriptors: int) -> bool:
        """Send a request, and with it descriptors for the child. False where it was not taken; the
        answer comes by `receive`."""
        try:
            socket.send_fds(self._socket, [msgspec.msgpack.encode(request)], descriptors)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False  # stuck or gone, as its silence or its end will show
        return True


def _with_pidfd(message: FromZygote, descriptors: list[int]) -> tuple[FromZygote, int | None]:
    if isinstance(message, Forked) and descriptors:
        return message, descriptors[0]
    _close_all(descriptors)
    return message, None


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
