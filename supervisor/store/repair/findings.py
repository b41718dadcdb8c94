"""Findings of an examination, as they pass from the examining process to the daemon.

Apart from `examine.py`, and small: the daemon imports it at start, and need not import what
examines, for memory and start-up time.
"""

import enum
from collections.abc import Callable

import msgspec


class Condition(enum.StrEnum):
    """The state of a store's file as a whole."""

    NEW = "new"  # there was never a store here
    SOUND = "sound"
    OLDER = "older"  # sound, and of a format that will be migrated
    NEWER = "newer"  # not to be touched by this software
    LOST = "lost"  # a store was here, and is no more
    DAMAGED = "damaged"


class Examination(msgspec.Struct, frozen=True):
    """The result of an examination.

    `detail` is for people. `damaged` are values that are not as they were written, by table
    and key: they cost themselves, and not the store. `faults`, a line each, are rows of indexes
    that do not agree with the records; the indexes are rebuilt then.
    """

    condition: Condition
    detail: str = ""
    damaged: tuple[tuple[str, bytes], ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """The store can be opened, with the loss of what is `damaged` at most."""
        return self.condition in (Condition.SOUND, Condition.OLDER)


def both(structure: Examination, contents: Callable[[], Examination]) -> Examination:
    """Return the finding about structure or, where that is good, about contents. The two may
    be examined at the same time, in two processes."""
    return contents() if structure.usable else structure
