"""A sender of descriptors whose last close waits: a TCP socket with a full queue and SO_LINGER."""

import contextlib
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .second_user import as_user

LINGER_SECONDS = 4
#: Far less than that, and far more than a host that is busy takes.
AT_ONCE_SECONDS = 1.0

_SENDS = """
import os, socket, struct, sys
become()
path, kind, linger_seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
listener, lingering = socket.socket(), socket.socket()
listener.bind((b"127.0.0.1", 0))
listener.listen()
lingering.connect((b"127.0.0.1", listener.getsockname()[1]))
never_reads, _ = listener.accept()
lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, linger_seconds))
lingering.setblocking(False)
try:
    while True:
        lingering.send(bytes(65536))
except BlockingIOError:
    pass
told = socket.socket(socket.AF_UNIX, kind)
told.connect(path)
try:
    socket.send_fds(told, [b"\\xff"], [lingering.fileno()])
    lingering.close()
    print("sent", flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
sys.stdin.readline()
told.close()
print("left", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def lingering(
    path: Path | str, kind: socket.SocketKind, uid: int
) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """A process of `uid` that has sent one to the Unix socket at `path`, and what came of it. It
    leaves for `leave`."""
    arguments = str(path), str(int(kind)), str(LINGER_SECONDS)
    with as_user(uid, _SENDS, *arguments) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()


def leave(process: "subprocess.Popen[str]") -> None:
    """Have its Unix socket closed, and wait for that."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "left\n"


@contextlib.contextmanager
def full_socket() -> Iterator[socket.socket]:
    """One of this process, for it to send and to close."""
    with socket.socket() as listener, socket.socket() as waits:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        waits.connect(listener.getsockname())
        never_reads, _ = listener.accept()
        waits.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_SECONDS))
        waits.setblocking(False)
        with never_reads:
            with contextlib.suppress(BlockingIOError):
                while True:
                    waits.send(bytes(65536))
            yield waits
