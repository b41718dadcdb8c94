"""A disk with a volatile cache, for a virtual machine: a server of NBD, in whose image a write
counts only once it is flushed (FLUSH, FUA).

    volatile_disk.py SOCKET IMAGE SEED

Where its client vanishes, as by a power cut, half of the sectors that were written since the last
flush are kept, whichever the seed has it, and the others are lost. It serves one client, prints
what became of its sectors, and leaves.
"""

import os
import random
import socket
import struct
import sys

SECTOR_BYTES = 512
READ, WRITE, DISCONNECT, FLUSH = range(4)
FORCE_UNIT_ACCESS = 1
#: has flags, can flush, knows FUA
TRANSMISSION_FLAGS = 1 | 4 | 8
OPTION_GO, OPTION_INFO, OPTION_EXPORT_NAME = 7, 6, 1
REPLY_ACK, REPLY_INFO, REPLY_UNSUPPORTED = 1, 3, 0x80000001
INVALID = 22


class VolatileDisk:
    """Sectors of an image, and those that it would lose."""

    def __init__(self, image: str, seed: int) -> None:
        self._image = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        self.size_bytes = os.fstat(self._image).st_size
        self._cache: dict[int, bytes] = {}
        self._random = random.Random(seed)
        self.flushes = 0

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray(os.pread(self._image, length, offset))
        if self._cache:
            for at in range(0, length, SECTOR_BYTES):
                cached = self._cache.get((offset + at) // SECTOR_BYTES)
                if cached is not None:
                    data[at : at + SECTOR_BYTES] = cached
        return bytes(data)

    def write(self, offset: int, data: bytes, *, at_once: bool) -> None:
        for at in range(0, len(data), SECTOR_BYTES):
            sector = (offset + at) // SECTOR_BYTES
            self._cache[sector] = data[at : at + SECTOR_BYTES]
            if at_once:
                self._keep(sector)

    def flush(self) -> None:
        self.flushes += 1
        for sector in sorted(self._cache):
            self._keep(sector)

    def lose(self) -> tuple[int, int]:
        """What a power cut does; returns how many sectors were kept and lost."""
        sectors = list(self._cache)
        kept = [sector for sector in sectors if self._random.random() < 0.5]
        for sector in kept:
            self._keep(sector)
        self._cache.clear()
        os.fsync(self._image)
        return len(kept), len(sectors) - len(kept)

    def _keep(self, sector: int) -> None:
        os.pwrite(self._image, self._cache.pop(sector), sector * SECTOR_BYTES)


class Session:
    """One client, in NBD's fixed newstyle."""

    def __init__(self, connection: socket.socket, disk: VolatileDisk) -> None:
        self._connection = connection
        self._disk = disk

    def serve(self) -> bool:
        """Whether the client took its leave. Raises `EOFError` where it vanished."""
        self._connection.sendall(b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 3))
        (flags,) = struct.unpack(">I", self._take(4))
        while not self._negotiated(no_zeroes=bool(flags & 2)):
            pass
        while self._request():
            pass
        return True

    def _negotiated(self, *, no_zeroes: bool) -> bool:
        _, option, length = struct.unpack(">8sII", self._take(16))
        self._take(length)
        size = self._disk.size_bytes
        if option == OPTION_EXPORT_NAME:
            answer = struct.pack(">QH", size, TRANSMISSION_FLAGS)
            self._connection.sendall(answer + (b"" if no_zeroes else bytes(124)))
            return True
        if option not in (OPTION_GO, OPTION_INFO):
            self._reply(option, REPLY_UNSUPPORTED)
            return False
        self._reply(option, REPLY_INFO, struct.pack(">HQH", 0, size, TRANSMISSION_FLAGS))
        self._reply(option, REPLY_INFO, struct.pack(">HIII", 3, SECTOR_BYTES, 4096, 1 << 25))
        self._reply(option, REPLY_ACK)
        return bool(option == OPTION_GO)

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        head = struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data))
        self._connection.sendall(head + data)

    def _request(self) -> bool:
        _, flags, kind, handle, offset, length = struct.unpack(">IHHQQI", self._take(28))
        error, data = 0, b""
        if kind == READ:
            data = self._disk.read(offset, length)
        elif kind == WRITE:
            at_once = bool(flags & FORCE_UNIT_ACCESS)
            self._disk.write(offset, self._take(length), at_once=at_once)
        elif kind == FLUSH:
            self._disk.flush()
        elif kind == DISCONNECT:
            return False
        else:
            error = INVALID
        self._connection.sendall(struct.pack(">IIQ", 0x67446698, error, handle) + data)
        return True

    def _take(self, length: int) -> bytes:
        taken = bytearray()
        while len(taken) < length:
            more = self._connection.recv(length - len(taken))
            if not more:
                raise EOFError
            taken += more
        return bytes(taken)


def main() -> None:
    path, image, seed = sys.argv[1:4]
    disk = VolatileDisk(image, int(seed))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        connection, _ = listener.accept()
    with connection:
        try:
            Session(connection, disk).serve()
        except (EOFError, ConnectionError):
            kept, lost = disk.lose()
            print(f"cut: {kept} sectors kept, {lost} lost, {disk.flushes} flushes", flush=True)
            return
    disk.flush()
    print(f"clean: {disk.flushes} flushes", flush=True)


if __name__ == "__main__":
    main()
