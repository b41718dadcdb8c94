"""Rates of records of the log: how many of a kind may come at once, and how many were left out.

Pure. Most of the log is what happened once; what others can cause as often as they like would
fill a disk, and hide everything else.
"""

from typing import NamedTuple, TypeAlias


class Rate(NamedTuple):
    """So many records at once, and so many each second from then on."""

    at_once: int
    per_second: float


#: A message, before anything is filled in, and the user that has caused it, if one has.
Kind: TypeAlias = tuple[str, str | None]

#: Of one message of ours, whatever is filled in: more than happens when hundreds of runs begin.
OF_A_MESSAGE = Rate(2000, 200.0)
#: Of one message that one user has caused who may not act, or whose request cannot be read.
OF_A_USER = Rate(10, 0.1)
#: Of what a process without rights says, which its brokers count (`sync/allowance.py`): a few
#: traces, and what it may say in a day.
OF_A_PROCESS = Rate(200, 0.1)
#: Between two records of what was left out of a kind.
TELL_AGAIN_SECONDS = 10.0
#: Kinds that are counted at a time; beyond that the one that came first is forgotten.
KINDS_MAX = 512


class _Records:
    """Records of one kind: how many may still come, and how many did not."""

    def __init__(self, rate: Rate, now: float) -> None:
        self.left = float(rate.at_once)
        self.at = now
        self.left_out = 0
        self.tell_at = now

    def admits(self, rate: Rate, now: float) -> bool:
        self.left = min(rate.at_once, self.left + (now - self.at) * rate.per_second)
        self.at = now
        if self.left < 1.0:
            if not self.left_out:
                self.tell_at = now + TELL_AGAIN_SECONDS
            self.left_out += 1
            return False
        self.left -= 1.0
        return True


class Rates:
    """Records by their kinds. `now` is in monotonic seconds."""

    def __init__(self) -> None:
        self._kinds: dict[Kind, _Records] = {}

    def admits(self, kind: Kind, rate: Rate, now: float) -> bool:
        """One more record of a kind may be written; else it is counted."""
        found = self._kinds.get(kind)
        if found is None:
            while len(self._kinds) >= KINDS_MAX:
                del self._kinds[next(iter(self._kinds))]
            found = self._kinds[kind] = _Records(rate, now)
        return found.admits(rate, now)

    def left_out(self, now: float) -> list[tuple[Kind, int]]:
        """Return what is to be told by now: the kinds of which records were left out, and how many
        since it was last told."""
        found = []
        for name, kind in self._kinds.items():
            if kind.left_out and now >= kind.tell_at:
                found.append((name, kind.left_out))
                kind.left_out = 0
        return found

    def next_deadline(self) -> float | None:
        """Return when something is to be told, or None."""
        waiting = (kind.tell_at for kind in self._kinds.values() if kind.left_out)
        return min(waiting, default=None)
