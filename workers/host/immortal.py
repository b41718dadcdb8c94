"""Immortal objects (PEP 683): they live as long as the process, and nobody counts their references.

A forked interpreter gets a copy of each page in which it counts a reference (fact P26). To an
object whose count says that it is immortal, as that of None does, CPython counts none from 3.12
on. It offers no way to make an object so; the count is written here, in the form that each minor
version gives it, after a test of both. Where that fails nothing is changed.
"""

import gc
import io
import os
import resource
import select
import signal
import socket
import struct
import sys
import types
import weakref
from typing import NamedTuple

from .linux import own_memory

#: The first word of an immortal object of 64-bit CPython, by the minor version. 3.12, 3.13:
#: `_Py_IMMORTAL_REFCNT` in Include/object.h; `Py_INCREF` compares with it, and `Py_DECREF` looks
#: at the sign of its lower half. 3.14: `_Py_IMMORTAL_INITIAL_REFCNT` in Include/refcount.h, with
#: `_Py_IMMORTAL_FLAGS` of Include/object.h in the uppermost 16 bits: without that, references on
#: the stack of the interpreter are counted all the same (Include/internal/pycore_stackref.h).
_WORDS = {(3, 12): 0xFFFF_FFFF, (3, 13): 0xFFFF_FFFF, (3, 14): 3 << 30 | 1 << 48}
_COUNT = 0xFFFF_FFFF
#: A count with this bit is that of an immortal object, in all of them.
_IMMORTAL = 1 << 31
_WORD_BYTES = 8
#: Objects whose references are asked for at once.
_AT_ONCE = 1000
#: What a memoryview holds. When it is released, it leaves the collector's lists, which in 3.14 an
#: immortal object has left before: a SIGSEGV.
_BUFFER = type(gc.get_referents(memoryview(b""))[0])
#: Kinds of objects that are never made immortal, since their end does something: it closes a
#: descriptor, gives a buffer back, or drops what a function or an error still holds.
_ENDING = frozenset(
    (
        io.IOBase.__base__,
        socket.socket,
        memoryview,
        _BUFFER,
        BaseException,
        types.AsyncGeneratorType,
        types.CoroutineType,
        types.FrameType,
        types.GeneratorType,
        types.TracebackType,
        weakref.ReferenceType,
    )
)
#: Bytes of an object that the C library gives pages of its own; hardly more than it takes, for
#: once it is freed it makes a rule of its size (mallopt(3), M_MMAP_THRESHOLD).
_PROBE_BYTES = 132 * 1024
_PROBE_USES = 100
#: A page may be copied by chance while a child is watched: another one is asked then.
_CHILDREN_MAX = 3
_CHILD_MILLISECONDS_MAX = 5000
_SHARED, _COPIED, _UNSEEN = range(3)


class MortalError(Exception):
    """Objects cannot be made immortal here; the message is for the log and for `status`. It is
    `surprising` where the version of Python lets one expect otherwise."""

    def __init__(self, reason: str, *, surprising: bool = True) -> None:
        super().__init__(reason)
        self.surprising = surprising


class Interpreter(NamedTuple):
    """What the layout of an object depends on."""

    name: str = sys.implementation.name
    version: tuple[int, int] = sys.version_info[:2]
    abiflags: str = sys.abiflags
    bits: int = 8 * struct.calcsize("P")


def check() -> int:
    """Return the word that makes an object of this process immortal, after a test that it does.
    Raises `MortalError`."""
    word, memory = word_of(Interpreter()), own_memory()
    of_none = memory[id(None) // _WORD_BYTES]
    if of_none & _COUNT != word & _COUNT:
        raise MortalError(f"the count of None is {of_none:#x}, not {word:#x}")
    probe: list[object] = [bytes(_PROBE_BYTES)]
    place = id(probe[0]) // _WORD_BYTES
    if memory[place + 1] != id(bytes):
        raise MortalError("an object does not begin with its count and its type")
    # For good: nobody knows how many refer to it when the test is over.
    memory[place] = word
    _use(probe)
    if memory[place] != word:
        raise MortalError(f"a count of {word:#x} moves")
    _watch_fork(probe)
    return word


def make_immortal(word: int) -> int:
    """Make immortal all that the collector knows and has not frozen, and what is reached from
    there through objects that were not immortal before, but for objects of `_ENDING` kinds.
    Returns how many are made so. `word` is from `check`. Call it where nothing is to be freed any
    more."""
    memory, made = own_memory(), 0
    ends: dict[type, bool] = {}
    found = gc.get_objects()
    while found:
        new: list[object] = []
        for one in found:
            place = id(one) // _WORD_BYTES
            if memory[place] & _IMMORTAL:
                continue
            kind = type(one)
            if kind not in ends:
                ends[kind] = not _ENDING.isdisjoint(kind.__mro__)
            if not ends[kind]:
                memory[place] = word
                new.append(one)
        made += len(new)
        found = []
        for first in range(0, len(new), _AT_ONCE):
            found += gc.get_referents(*new[first : first + _AT_ONCE])
        for one in new:
            if type(one) is types.CodeType:
                found += _parts(one)
    return made


def _parts(code: types.CodeType) -> list[object]:
    """Return what a code object refers to, which the collector cannot see."""
    return [
        code.co_consts,
        code.co_names,
        code.co_filename,
        code.co_name,
        code.co_qualname,
        code.co_linetable,
        code.co_exceptiontable,
    ]


def word_of(interpreter: Interpreter) -> int:
    """Return the word that makes an object of an interpreter immortal. Raises `MortalError`."""
    name, version, abiflags, bits = interpreter
    text = f"{name} {version[0]}.{version[1]}"
    word = _WORDS.get(version)
    if name != "cpython":
        reason = f"it is known for CPython only, and this is {text}"
    elif version < (3, 12):
        reason = f"it needs Python 3.12 or later, and this is {text}"
    elif abiflags:  # free-threaded, or for debugging: other layouts, and other rules
        reason = f"it is not known for builds of the kind {abiflags!r}"
    elif bits != 8 * _WORD_BYTES:
        reason = f"it is known for 64 bits only, and this has {bits}"
    elif word is None:
        reason = f"it is not known for {text}"
    else:
        return word
    raise MortalError(reason, surprising=False)


def _use(box: list[object]) -> None:
    """Count references to the object in a box in the ways of the interpreter: by its stack, and in
    bulk. To hand the object itself over would count one before."""
    for _ in range(_PROBE_USES):
        held = box[0]
    several = [held] * _PROBE_USES
    several.clear()


def _watch_fork(probe: list[object]) -> None:
    """Use an immortal object in a child, which must not copy its page. Raises `MortalError`."""
    for _ in range(_CHILDREN_MAX):
        seen = _seen_in_child(probe)
        if seen == _SHARED:
            return
    raise MortalError(
        "a forked process copies its page" if seen == _COPIED else "no fork can be watched"
    )


def _seen_in_child(probe: list[object]) -> int:
    first: list[object] = [bytes(_PROBE_BYTES)]
    ordinary: list[object] = [bytes(_PROBE_BYTES)]
    try:
        child = os.fork()
    except OSError as error:
        raise MortalError(f"cannot fork for the test: {error.strerror}") from None
    if child == 0:
        status = _UNSEEN
        try:
            _faults(first)  # what is touched besides is copied here
            if _faults(probe):
                status = _COPIED
            elif _faults(ordinary):
                status = _SHARED
        finally:
            os._exit(status)
    pidfd = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_CHILD_MILLISECONDS_MAX):
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(pidfd)
        status = os.waitpid(child, 0)[1]
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else _UNSEEN


def _faults(box: list[object]) -> int:
    """Return how many pages were copied, or first touched, while an object was used."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    _use(box)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
