"""A file system that never answers: FUSE, whose server takes each request and says nothing.

Whoever asks it for anything waits, and not even SIGKILL ends that: the kernel has handed the
request over. When the disk comes back, every wait ends with an error.
"""

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .mounts import undo

_IN = struct.Struct("IIQQIIII")  # len opcode unique nodeid uid gid pid padding
_OUT = struct.Struct("IiQ")  # len error unique
_INIT_OUT = struct.Struct("IIIIHHIIHHI28x")
_FUSE_INIT = 26
_MAJOR, _MINOR = 7, 31
_REQUEST_BYTES_MAX = 256 * 1024


@contextmanager
def hanging(directory: Path) -> Iterator[None]:
    """All below `directory` hangs meanwhile."""
    if os.geteuid() != 0:
        pytest.skip("file systems are mounted by root only")
    try:
        server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"this host has no FUSE: {error}")
    os.set_inheritable(server, True)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0,allow_other"
    _mount(server, directory, options)
    taker = threading.Thread(target=_take_requests, args=(server,), daemon=True)
    taker.start()
    try:
        yield
    finally:
        undo("umount", "--force", "--lazy", directory)  # which ends the requests, too
        taker.join(10)
        os.close(server)


def _mount(server: int, directory: Path, options: str) -> None:
    pid = os.posix_spawnp(
        "mount", ["mount", "-i", "-t", "fuse", "hanging", str(directory), "-o", options], os.environ
    )
    os.set_inheritable(server, False)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        os.close(server)
        pytest.skip("this host does not let us mount FUSE")


def _take_requests(server: int) -> None:
    while True:
        try:
            request = os.read(server, _REQUEST_BYTES_MAX)
        except OSError:  # ENODEV: it was unmounted
            return
        _, opcode, unique, *_ = _IN.unpack_from(request)
        if opcode == _FUSE_INIT:
            body = _INIT_OUT.pack(_MAJOR, _MINOR, 0, 0, 12, 9, 128 * 1024, 1, 0, 0, 0)
            os.write(server, _OUT.pack(_OUT.size + len(body), 0, unique) + body)
