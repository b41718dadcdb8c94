"""The contract of a part of the loop: its work in each turn, and its deadline for the next.

The loop has a tuple of participants and knows no more of most of them. In each turn they
gather, in their order; what they found is decided and committed; then they are told that the
turn is over. The loop waits for the earliest of their deadlines, so that a part that is added
cannot be forgotten.
"""

from abc import ABC, abstractmethod

import msgspec

from .core.model import Instant


class News(msgspec.Struct):
    """Changes among the child processes since the last turn, by their names.

    `forked` has their pids; `failed` has the reasons why others could not be forked. The first
    participant, `Children`, fills it in; the others read it.
    """

    forked: dict[str, int] = msgspec.field(default_factory=dict)
    gone: list[str] = msgspec.field(default_factory=list)
    failed: dict[str, str] = msgspec.field(default_factory=dict)


class Participant(ABC):
    """A part of the loop. A class without `next_deadline` cannot be instantiated; the other two
    methods may be left out."""

    def gather(self, news: News, now: Instant) -> None:
        """Process what arrived since the last turn, without waiting (law 2)."""

    @abstractmethod
    def next_deadline(self, now: Instant) -> float | None:
        """Return the instant of the next turn it needs, in seconds of the monotonic clock:
        not after `now` where it needs one at once, None where it needs none."""

    def after_turn(self, now: Instant) -> None:
        """Continue once the decisions are committed, or could not be."""
