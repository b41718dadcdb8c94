"""Oracle of a fuzzed edge: only its own errors come out, in bounded time and memory, and it
leaves nothing behind."""

import contextlib
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from .mutator import Mutator

#: Of processor time for one input. The largest is 64 KiB.
INPUT_SECONDS_MAX = 1.0
#: Address space that all inputs of a target together may add, and memory that stays.
MEMORY_BYTES_MAX = 512 * 1024**2
KEPT_BYTES_MAX = 48 * 1024**2
_SHOWN_BYTES_MAX = 3000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

#: Takes one input. True where it was read, False where it was refused by a value.
Feed = Callable[[bytes], bool]


class Target(NamedTuple):
    """A decoder of bytes from outside. `begin` makes it, with a directory of its own; `errors`
    are those that it may raise. `share` of the inputs are as many as its time allows."""

    name: str
    samples: tuple[bytes, ...]
    begin: Callable[[Path], Feed]
    errors: tuple[type[Exception], ...] = ()
    words: tuple[bytes, ...] = ()
    share: float = 1.0


class Figures(NamedTuple):
    name: str
    inputs: int
    refused: int
    seconds: float

    def __str__(self) -> str:
        each_us = self.seconds / self.inputs * 1e6
        return (
            f"{self.name:<28} {self.inputs:>9,} inputs {self.refused:>9,} refused"
            f" {self.seconds:>8.1f} s {each_us:>7.0f} us each"
        )


class TookTooLongError(BaseException):
    """An input used more processor time than any may; not an `Exception`, so that nobody
    swallows it."""


def fuzz(target: Target, seed: int, inputs: int, directory: Path) -> Figures:
    """Feed a target, and return the figures. Raises `AssertionError` with the input at fault."""
    feed = target.begin(directory)
    made = Mutator(f"{target.name}-{seed}", target.samples, target.words).inputs(inputs)
    number = refused = 0
    data = b""
    begun = time.monotonic()
    with within_bounds(target.name) as arm:
        try:
            for data in made:
                number += 1
                arm()
                try:
                    refused += not feed(data)
                except target.errors:
                    refused += 1
        except (Exception, TookTooLongError) as error:
            raise AssertionError(_told(target.name, seed, number, data, error)) from error
    assert refused < inputs, f"{target.name}: nothing was read"
    return Figures(target.name, inputs, refused, time.monotonic() - begun)


@contextlib.contextmanager
def within_bounds(name: str, kept_bytes_max: int = KEPT_BYTES_MAX) -> Iterator[Callable[[], None]]:
    """Bound time and memory of a block, and see what it leaves. Yield what begins an input."""

    def arm() -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, INPUT_SECONDS_MAX)

    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise TookTooLongError(f"more than {INPUT_SECONDS_MAX} s of processor time")

    before = _descriptors(), _resident_bytes()
    usual = signal.signal(signal.SIGVTALRM, too_long)
    limit = resource.getrlimit(resource.RLIMIT_AS)
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_mapped_bytes() + MEMORY_BYTES_MAX, limit[1]))
    try:
        yield arm
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, usual)
        resource.setrlimit(resource.RLIMIT_AS, limit)
        logging.disable(logging.NOTSET)
    gc.collect()
    assert _descriptors() <= before[0], f"{name}: descriptors stay open"
    assert _resident_bytes() - before[1] < kept_bytes_max, f"{name}: memory stays"


def _told(name: str, seed: int, number: int, data: bytes, error: BaseException) -> str:
    shown = repr(data[:_SHOWN_BYTES_MAX]) + ("..." if len(data) > _SHOWN_BYTES_MAX else "")
    return f"{name}, seed {seed}, input {number}: {type(error).__name__}: {error}\n{shown}"


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE_BYTES


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
