"""What is said of the file of a store: the words between who looks at it and who asked."""

import enum
from collections.abc import Callable

import msgspec


class Condition(enum.StrEnum):
    NEW = "new"  # nothing was ever kept here
    SOUND = "sound"
    OLDER = "older"  # sound, and of a format that will be migrated
    NEWER = "newer"  # not to be touched by this software
    LOST = "lost"  # a store was here, and is no more
    DAMAGED = "damaged"


class Examination(msgspec.Struct, frozen=True):
    """`detail` is for people. `damaged` are values that are not what was written, by table
    and key: they cost themselves, and not the store. `faults` are rows of indexes that do not
    agree with the records; the indexes are made anew then."""

    condition: Condition
    detail: str = ""
    damaged: tuple[tuple[str, bytes], ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return self.condition in (Condition.SOUND, Condition.OLDER)


def both(structure: Examination, contents: Callable[[], Examination]) -> Examination:
    """What is said of a file by its structure and, where that is good, by its contents. The
    two may be looked at at once, in two processes."""
    return contents() if structure.usable else structure
