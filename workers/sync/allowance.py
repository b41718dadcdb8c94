"""Allowances for what file brokers do on the word of processes without rights.

A process that was taken over can have itself replaced as often as it likes, and its broker with
it. So what is allowed is counted in memory that all brokers of a daemon share, which one after
the other inherits of the zygote.
"""

import mmap
import struct
import time
from collections.abc import Callable
from typing import NamedTuple, Self

from ..host.log_rate import OF_A_PROCESS, Rate

#: Renewals of tokens, each of which is written to the disk twice.
RENEWALS = Rate(at_once=30, per_second=0.1)
_COUNTED = struct.Struct("dd")  # how many are left, and when that was so, monotonic


class Allowance:
    """So many at once, and so many each second from then on, in this process and all that are
    forked from it."""

    def __init__(self, rate: Rate, monotonic_seconds: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._monotonic_seconds = monotonic_seconds
        self._shared = mmap.mmap(-1, _COUNTED.size)
        _COUNTED.pack_into(self._shared, 0, rate.at_once, monotonic_seconds())

    @property
    def left(self) -> float:
        left, at_monotonic = _COUNTED.unpack_from(self._shared)
        more = (self._monotonic_seconds() - at_monotonic) * self._rate.per_second
        return float(min(self._rate.at_once, left + more))

    def take(self) -> bool:
        """Take one. False where none is left."""
        left = self.left
        if left < 1:
            return False
        _COUNTED.pack_into(self._shared, 0, left - 1, self._monotonic_seconds())
        return True

    def close(self) -> None:
        """Give up the memory, in a process that may not change it."""
        self._shared.close()


class Allowances(NamedTuple):
    """What brokers may do: write records of the log, and renew tokens."""

    records: Allowance
    renewals: Allowance

    @classmethod
    def make(cls) -> Self:
        return cls(Allowance(OF_A_PROCESS), Allowance(RENEWALS))

    def close(self) -> None:
        for allowance in self:
            allowance.close()
