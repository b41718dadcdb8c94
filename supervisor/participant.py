"""The contract of a part of the loop: what it does in each turn, and when it needs the next.

The loop holds a tuple of participants and knows no more of most of them. In each turn they
gather, in their order; what they found is decided and committed; then they are told that the
turn is over. The loop waits for the least of their deadlines, so that a part which is added
cannot be forgotten.
"""

from abc import ABC, abstractmethod

import msgspec

from .core.model import Instant


class News(msgspec.Struct):
    """Changes among the child processes since the last turn, by their names.

    `forked` has their pids; `failed` were never there. The first participant, `Children`,
    fills it in; the others read it.
    """

    forked: dict[str, int] = msgspec.field(default_factory=dict)
    gone: list[str] = msgspec.field(default_factory=list)
    failed: list[str] = msgspec.field(default_factory=list)


class Participant(ABC):
    """A part of the loop. One that does not name its deadline cannot be made; the other two
    are hooks that it may leave out."""

    def gather(self, news: News, now: Instant) -> None:
        """Take in what came since the last turn. Never waits (law 2)."""

    @abstractmethod
    def next_deadline(self, now: Instant) -> float | None:
        """Return the instant of the next turn it needs, in seconds of the monotonic clock:
        not after `now` where it needs one at once, None where it needs none."""

    def after_turn(self, now: Instant) -> None:
        """Go on once what was decided is committed, or could not be."""
