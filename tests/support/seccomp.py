"""Commands under a seccomp filter that refuses one system call, as old profiles do."""

import sys
from pathlib import Path

#: The same numbers on every architecture.
CLONE3, PIDFD_OPEN, PIDFD_SEND_SIGNAL = 435, 434, 424

_LAUNCHER = """
import ctypes, os, struct, sys
number, error, *command = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
rows = ((LOAD, 0, 0, 0), (EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | error),
        (RETURN, 0, 0, ALLOW))
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))
program = Program(len(rows), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
for option, value, more in ((38, 1, 0), (22, 2, ctypes.addressof(program))):
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_void_p(more), ctypes.c_ulong(0),
                  ctypes.c_ulong(0)):
        sys.exit(f"prctl {option}: {os.strerror(ctypes.get_errno())}")
os.execv(command[0], command)
"""


def refusing(call: int, error: int, *command: str | Path) -> list[str]:
    """The command, to be run where the system call `call` fails with `error`."""
    return [sys.executable, "-c", _LAUNCHER, str(call), str(error), *map(str, command)]
