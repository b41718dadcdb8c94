"""Executability of a program's file, by what the kernel would make of it (execve(2)).

Reads files and changes nothing. `geoschedd --check` asks before a program is executed, a worker
when that has failed, for an errno does not tell the missing interpreter of a script from the
missing script.
"""

import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ...ipc.foreign_text import visible
from .execution import Credentials
from .files import open_regular
from .lookup import find_program

#: The kernel follows this many interpreters, and reads this much of a file.
INTERPRETERS_MAX = 5
HEAD_BYTES = 256
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ELF = b"\x7fELF"
_BINFMT = "/proc/sys/fs/binfmt_misc"
_ET_EXECUTABLE = (2, 3)
_PT_INTERP = 3
_PROGRAM_HEADERS_MAX = 100
#: Machines of ELF files that a kernel executes, by its name; others are not judged.
_MACHINES = {
    "x86_64": (62, 3),
    "i686": (3,),
    "aarch64": (183, 40),
    "armv7l": (40,),
    "riscv64": (243,),
}


class Surroundings(NamedTuple):
    """What a program is executed in: its directory, its environment, and its user (None for the
    user of this process)."""

    cwd: str
    environment: Mapping[str, str]
    who: Credentials | None


def why_not(program: str, within: Surroundings, *, depth: int = 0) -> str:
    """Say why a file cannot be executed; "" where nothing is known against it. A path that is
    relative is so to the directory of `within`."""
    path = os.path.join(within.cwd, program)
    try:
        found = os.stat(path)
        if reason := _no_program(path, found, within.who):
            return reason
        head = _head(path)
    except OSError as error:
        dangling = isinstance(error, FileNotFoundError) and os.path.islink(path)
        return "it is a link to nothing" if dangling else _lower(error.strerror or str(error))
    if head is None:
        return ""  # it may be executed and not read
    if head.startswith(b"#!"):
        return _script(head, within, depth)
    if head.startswith(_ELF):
        return _elf(path, head, within, depth)
    return "" if _other_formats() else _no_format(head)


def may_search(directory: str, who: Credentials | None) -> bool:
    """Whether a user may enter a directory; access control lists are believed to allow it."""
    if who is None or who.uid == 0:
        return os.access(directory, os.X_OK, effective_ids=True)
    try:
        return not any(_forbidden(path, who) for path in _with_parents(directory))
    except OSError:
        return False  # not even this process may look at it


def _no_program(path: str, found: os.stat_result, who: Credentials | None) -> str:
    if stat.S_ISDIR(found.st_mode):
        return "it is a directory"
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file"
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return "its file system is mounted with noexec"
    return _not_permitted(path, who)


def _not_permitted(path: str, who: Credentials | None) -> str:
    if who is None or who.uid == 0:
        return "" if os.access(path, os.X_OK, effective_ids=True) else "it is not executable"
    name = who.environment.get("USER", str(who.uid))
    for place in _with_parents(path):
        if _forbidden(place, who):
            directory = place != os.path.realpath(path)
            told = f"{place} cannot be entered by" if directory else "it is not executable for"
            return f"{told} user {name}"
    return ""


def _with_parents(path: str) -> Iterator[str]:
    """Yield the directories above a file as it is found without links, the topmost first, then
    the file."""
    real = Path(os.path.realpath(path))
    yield from map(str, reversed(real.parents))
    yield str(real)


def _forbidden(path: str, who: Credentials) -> bool:
    """The mode of a file or directory lets `who` not execute or search it."""
    found = os.stat(path)
    if found.st_uid == who.uid:
        return not found.st_mode & stat.S_IXUSR
    if _has_access_list(path):
        return False
    if found.st_gid in {who.gid, *who.groups}:
        return not found.st_mode & stat.S_IXGRP
    return not found.st_mode & stat.S_IXOTH


def _has_access_list(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "system.posix_acl_access"))
    except OSError:
        return False


def _head(path: str) -> bytes | None:
    """Return the part of a file by which the kernel knows its format; None where this process may
    not read it. Raises `OSError`."""
    try:
        with open_regular(path) as file:
            return file.read(HEAD_BYTES)
    except PermissionError:
        return None


def _no_format(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head.startswith(_BYTE_ORDER_MARK + b"#!"):
        return "a byte order mark stands before its #!"
    return "it is no executable and has no #! line"


def _other_formats() -> bool:
    """Somebody has taught the kernel formats that are not known here (binfmt_misc)."""
    try:
        return bool({*os.listdir(_BINFMT)} - {"register", "status"})
    except OSError:
        return False


# --- scripts ----------------------------------------------------------------------------


def _script(head: bytes, within: Surroundings, depth: int) -> str:
    """Judge the first line as the kernel reads it: one interpreter, and one argument."""
    line, end, _ = head[2:].partition(b"\n")
    interpreter, argument = _split(line)
    if not end and len(head) == HEAD_BYTES and not argument:
        return f"its #! line is longer than the {HEAD_BYTES - 1} bytes that the kernel reads"
    if not interpreter:
        return "its #! line names no interpreter"
    shown = visible(os.fsdecode(interpreter))
    if line.endswith(b"\r") and (argument or not os.path.exists(interpreter)):
        return f"its first line ends with CR LF: {visible(os.fsdecode(b'#!' + line))}"
    if depth >= INTERPRETERS_MAX:
        return f"the interpreter in its first line, {shown}, is one of too many"
    if reason := why_not(os.fsdecode(interpreter), within, depth=depth + 1):
        return f"the interpreter in its first line, {shown}: {reason}"
    if os.path.basename(interpreter) == b"env":
        return _by_env(os.fsdecode(argument), within, depth)
    return ""


def _split(line: bytes) -> tuple[bytes, bytes]:
    """Return interpreter and argument of a first line."""
    words = line.partition(b"\0")[0].strip(b" \t").replace(b"\t", b" ")
    interpreter, _, argument = words.partition(b" ")
    return interpreter, argument.strip(b" ")


def _by_env(argument: str, within: Surroundings, depth: int) -> str:
    """Judge the program that `env` would execute; "" where its options are not known here."""
    splits = re.match(r"(-S|--split-string=)\s*", argument)
    words = argument[splits.end() :].split() if splits else [argument]
    name = next((word for word in words if "=" not in word), "")
    if not name or name.startswith("-"):
        return ""
    found = name if "/" in name else find_program(name, within.environment)
    if found is None:
        return f"the interpreter in its first line, {visible(name)}, is not in its PATH"
    if reason := why_not(found, within, depth=depth + 1):
        return f"the interpreter in its first line, {visible(found)}: {reason}"
    return ""


# --- executables ------------------------------------------------------------------------


def _elf(path: str, head: bytes, within: Surroundings, depth: int) -> str:
    try:
        order = "<" if head[5] == 1 else ">"
        kind, machine = struct.unpack_from(f"{order}HH", head, 16)
        loader = _loader(path, head, order)
    except (struct.error, IndexError):
        return "it is an executable that is cut off"
    if kind not in _ET_EXECUTABLE:
        return "it is an object file, not an executable"
    ours = _MACHINES.get(os.uname().machine)
    if ours is not None and machine not in ours and not _other_formats():
        return f"it is an executable for another machine (ELF machine {machine})"
    if not loader or depth >= INTERPRETERS_MAX:
        return ""
    reason = why_not(loader, within, depth=depth + 1)
    return f"its loader, {visible(loader)}: {reason}" if reason else ""


def _loader(path: str, head: bytes, order: str) -> str:
    """Return the program that loads a dynamic executable, "" for none. Raises `struct.error`,
    `IndexError`, `OSError`."""
    wide = head[4] == 2
    (offset,) = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", head, 32 if wide else 28)
    size, count = struct.unpack_from(f"{order}HH", head, 54 if wide else 42)
    with open_regular(path) as file:
        file.seek(offset)
        table = file.read(size * min(count, _PROGRAM_HEADERS_MAX))
        for at in range(0, len(table), size or 1):
            (kind,) = struct.unpack_from(f"{order}I", table, at)
            if kind == _PT_INTERP:
                begin, length = _segment(table, at, order, wide=wide)
                file.seek(begin)
                return os.fsdecode(file.read(min(length, os.pathconf("/", "PC_PATH_MAX"))))[:-1]
    return ""


def _segment(table: bytes, at: int, order: str, *, wide: bool) -> tuple[int, int]:
    """Return place and length in the file of a program header's segment."""
    if wide:
        begin, _, _, length = struct.unpack_from(f"{order}QQQQ", table, at + 8)
    else:
        begin, _, _, length = struct.unpack_from(f"{order}IIII", table, at + 4)
    return begin, length


def _lower(text: str) -> str:
    """Return the system's word for an error as a part of a sentence."""
    return {"No such file or directory": "no such file"}.get(text, text[:1].lower() + text[1:])
