"""A process whose memory nobody can read, however long they wait: it maps a file whose pages a
file system of its user's keeps locked (FUSE), and holds the lock of its memory meanwhile."""

import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .mounts import undo
from .wait import wait_for

_IN = struct.Struct("IIQQIIII")  # len opcode unique nodeid uid gid pid padding
_OUT = struct.Struct("IiQ")  # len error unique
_INIT_OUT = struct.Struct("IIIIHHIIHHI28x")
_ATTRIBUTES = struct.Struct("6Q10I")
_LOOKUP, _GETATTR, _OPEN, _READ, _INIT, _DESTROY = 1, 3, 14, 15, 26, 38
_SILENT_ABOUT = (_READ, _DESTROY)
_ROOT, _FILE = 1, 2
_SECONDS = 3600
_DIRECT_IO_KEEP_CACHE = 1 | 2
_NOT_IMPLEMENTED = -38

#: To be run with the path of a file in `holding_back`.
HOLDS_BACK = """
import mmap, os, sys, threading, time
cached = os.open(sys.argv[1], os.O_RDONLY)
threading.Thread(target=os.pread, args=(cached, 4096, 0), daemon=True).start()
time.sleep(0.3)
direct = os.open(sys.argv[1], os.O_RDONLY)
thread = threading.Thread(target=mmap.mmap, args=(direct, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ))
thread.daemon = True
print("holds back", flush=True)
thread.start()
sys.stdin.read()
"""


@contextmanager
def holding_back(directory: Path) -> Iterator[Path]:
    """A file whose pages are never read, and whose second opening is past the cache."""
    if os.geteuid() != 0:
        pytest.skip("file systems are mounted by root only")
    try:
        server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"this host has no FUSE: {error}")
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0,allow_other"
    command = ["mount", "-i", "-t", "fuse", "holding-back", str(directory), "-o", options]
    if subprocess.run(command, pass_fds=[server], check=False).returncode:
        os.close(server)
        pytest.skip("this host does not let us mount FUSE")
    taker = threading.Thread(target=_serve, args=(server,), daemon=True)
    taker.start()
    try:
        yield directory / "file"
    finally:
        undo("umount", "--force", "--lazy", directory)  # which ends the requests, too
        taker.join(10)
        os.close(server)


def wait_until_held_back(process: "subprocess.Popen[bytes]") -> None:
    """Skips the test on a kernel where the memory can be read all the same."""
    assert process.stdout is not None
    assert process.stdout.readline() == b"holds back\n"
    threads = Path(f"/proc/{process.pid}/task")

    def waits_in_the_kernel() -> bool:
        lines = [(one / "stat").read_text() for one in threads.iterdir()]
        return any(line.rpartition(")")[2].split()[0] == "D" for line in lines)

    try:
        wait_for(waits_in_the_kernel, seconds=3)
    except AssertionError:
        pytest.skip("this kernel does not hold the lock of the memory meanwhile")


def _serve(server: int) -> None:
    opened = 0
    while True:
        try:
            request = os.read(server, 256 * 1024)
        except OSError:  # ENODEV: it was unmounted
            return
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        if opcode in _SILENT_ABOUT:
            continue
        error, body = 0, b""
        if opcode == _INIT:
            body = _INIT_OUT.pack(7, 31, 0, 0, 12, 9, 128 * 1024, 1, 0, 0, 0)
        elif opcode == _LOOKUP:
            body = struct.pack("QQQQII", _FILE, 0, _SECONDS, _SECONDS, 0, 0) + _attributes(_FILE)
        elif opcode == _GETATTR:
            body = struct.pack("QII", _SECONDS, 0, 0) + _attributes(node)
        elif opcode == _OPEN:
            body = struct.pack("QII", 0, _DIRECT_IO_KEEP_CACHE if opened else 0, 0)
            opened += 1
        else:
            error = _NOT_IMPLEMENTED
        os.write(server, _OUT.pack(_OUT.size + len(body), error, unique) + body)


def _attributes(node: int) -> bytes:
    mode, size = (0o40755, 0) if node == _ROOT else (0o100644, 1 << 20)
    return _ATTRIBUTES.pack(node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
