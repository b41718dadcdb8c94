"""Incremental application of a snapshot, a slice a turn, so that the loop goes on (DESIGN 3).

All entries are looked at first, which writes nothing: a snapshot with few changes costs one
transaction. Then additions and changes are decided, absences last. The snapshot's mark is
committed with the last slice; after a crash before that, it is merely pulled again.
"""

import enum
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import msgspec

from ...ipc.actions import Action
from ..core.model import Change, Instant, Record
from ..core.reconcile import Verdict, reconcile_absent, reconcile_sent
from ..core.turn import Turn
from ..store.tables.codec import KEY_BYTES, action_key, edge_of
from .packed_snapshot import PackedSnapshot, pack, unpack, unpack_ids

#: Entries of a slice while something is due soon: some milliseconds of work.
ENTRIES_PER_TURN_MIN = 200
ENTRIES_PER_TURN_MAX = 2_000
#: Of absences that are decided first, as the store did not take what is new: a small commit needs
#: little room.
ENTRIES_PER_TURN_SHORT = 10
#: Bounds of a turn: its processor time, and its elapsed time with the wait for the disk.
TURN_CPU_SECONDS_MAX = 0.05
TURN_SECONDS_MAX = 0.125
#: Slices grow only while nothing else is due for this long: twice what a turn may take.
CALM_SECONDS = 0.25
QUARANTINE_SHOWN_MAX = 10
_SIZE_BYTES = 4


class Pace:
    """Size of the slices, adapted to the time that each takes.

    A commit writes each page anew that it changes, and waits for the disk: few large ones cost
    a fraction of many small ones.
    """

    def __init__(self, cpu_seconds: Callable[[], float] = time.thread_time) -> None:
        self._cpu_seconds = cpu_seconds
        self._entries = ENTRIES_PER_TURN_MIN
        self._since: tuple[float, float] | None = None

    def entries(self, now: Instant, calm_seconds: float) -> int:
        """Return the size of the next slice. Nothing else is due for `calm_seconds`."""
        if calm_seconds < CALM_SECONDS:
            self._since = None
            return ENTRIES_PER_TURN_MIN
        here = now.monotonic_seconds, self._cpu_seconds()
        if self._since is not None:
            took, used = (until - since for until, since in zip(here, self._since, strict=True))
            if took > TURN_SECONDS_MAX or used > TURN_CPU_SECONDS_MAX:
                self._entries = max(self._entries // 2, ENTRIES_PER_TURN_MIN)
            elif took < TURN_SECONDS_MAX / 2 and used < TURN_CPU_SECONDS_MAX / 2:
                self._entries *= 2
        self._since = here
        self._entries = min(self._entries, ENTRIES_PER_TURN_MAX)
        return self._entries


class Undecided:
    """Queue of the entries that differ from daemonDB, in the order of their keys.

    Neighbours in that order share a page of the store, so that a slice changes few pages. The
    queue is sorted in parts, because sorting all at once takes too long. Each part is one block of
    memory: ten thousand small ones would hold arenas that are never given back (fact P27).
    """

    def __init__(self) -> None:
        self._by_first_byte: dict[int, bytearray] = {}  # each entry: its size, key, packed action
        self._sorted: deque[bytes] = deque()

    def __bool__(self) -> bool:
        return bool(self._sorted or self._by_first_byte)

    def add(self, key: bytes, action: Action) -> None:
        entry = key + pack(action)
        part = self._by_first_byte.setdefault(key[0], bytearray())
        part += len(entry).to_bytes(_SIZE_BYTES) + entry

    def take(self, entries_max: int) -> list[tuple[bytes, Action]]:
        """Remove and return the next entries."""
        while self._by_first_byte and len(self._sorted) < entries_max:
            self._sorted += sorted(_entries(self._by_first_byte.pop(min(self._by_first_byte))))
        taken = [self._sorted.popleft() for _ in range(min(entries_max, len(self._sorted)))]
        return [(entry[:KEY_BYTES], _unpack_action(entry[KEY_BYTES:])) for entry in taken]


def _entries(part: bytearray) -> Iterator[bytes]:
    at = 0
    while at < len(part):
        begin = at + _SIZE_BYTES
        at = begin + int.from_bytes(part[at:begin])
        yield bytes(part[begin:at])


_unpack_action: Callable[[bytes], Action] = msgspec.msgpack.Decoder(Action).decode


class Phase(enum.Enum):
    """Phases of applying a snapshot, in their order."""

    SENT = enum.auto()  # the entries of the snapshot are looked at
    ABSENT = enum.auto()  # open actions that it lacks are looked for
    ENDED = enum.auto()  # ended actions that it lacks are marked (S6)
    DECIDING = enum.auto()  # what was found is decided
    DONE = enum.auto()


class Applying(msgspec.Struct):
    """A snapshot that is being applied to daemonDB; `counts` are the verdicts so far.

    `read` returns the records under keys, `open_keys(cursor, limit)` pages through the keys of
    all records that are not terminal, `ended(cursor)` through the rows of terminal ones, each
    with a flag that the last snapshot lacked it. `seen` and `missing` are keys of actions. With
    `short` the store did not take the snapshot before: absences are decided first, which what is
    new may leave no room for, in small slices.
    """

    snapshot: PackedSnapshot
    read: Callable[[Sequence[bytes]], list[Record | None]]
    open_keys: Callable[[str, int], tuple[list[bytes], str]]
    ended: Callable[[bytes], tuple[list[tuple[bytes, bool]], bytes]]
    short: bool = False
    counts: dict[Verdict, int] = msgspec.field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    seen: set[bytes] = msgspec.field(default_factory=set)
    undecided: Undecided = msgspec.field(default_factory=Undecided)
    missing: deque[bytes] = msgspec.field(default_factory=deque)
    cursor: str = ""
    ended_cursor: bytes = b""
    phase: Phase = Phase.SENT
    looking_pace: Pace = msgspec.field(default_factory=Pace)
    deciding_pace: Pace = msgspec.field(default_factory=Pace)

    @property
    def done(self) -> bool:
        """Nothing is left but to commit the last slice."""
        return self.phase is Phase.DONE

    def slice(self, turn: Turn, calm_seconds: float = 0.0) -> None:
        """Look at the next entries, or decide them. Nothing else is due for `calm_seconds`."""
        if self.phase is Phase.SENT:
            self._look_at_sent(turn, self.looking_pace.entries(turn.now, calm_seconds))
        elif self.phase is Phase.ABSENT:
            self._look_at_absent(self.looking_pace.entries(turn.now, calm_seconds))
        elif self.phase is Phase.ENDED:
            self._take_ended(turn)
        if self.phase is Phase.DECIDING:
            entries_max = self.deciding_pace.entries(turn.now, calm_seconds)
            absences_first = self.short and self.missing
            self._decide(turn, ENTRIES_PER_TURN_SHORT if absences_first else entries_max)

    @property
    def _unclear(self) -> bool:
        """Some id cannot be read: it could be any, so no absence is certain (S8)."""
        return self.snapshot.told.unreadable_ids > 0

    def _look_at_sent(self, turn: Turn, entries_max: int) -> None:
        sent: list[Action] = []
        while self.snapshot.pages and len(sent) < entries_max:
            sent += unpack(self.snapshot.pages.popleft())
        keys = [action_key(action.id) for action in sent]
        self.seen.update(keys)
        for key, action, stored in zip(keys, sent, self.read(keys), strict=True):
            record = turn.newest(stored) if stored else turn.decided(action.id)
            if record is None:
                self.undecided.add(key, action)
                continue
            verdict, change = reconcile_sent(record, action, turn.now, turn.rules)
            if change is None:
                self.counts[verdict] += 1
            else:
                self.undecided.add(key, action)
        looked_at = len(sent)
        while not self.snapshot.pages and self.snapshot.set_aside_ids and looked_at < entries_max:
            ids = unpack_ids(self.snapshot.set_aside_ids.popleft())
            self.seen.update(map(action_key, ids))
            looked_at += len(ids)
        if not self.snapshot.pages and not self.snapshot.set_aside_ids:
            self.phase = Phase.ENDED if self._unclear else Phase.ABSENT

    def _look_at_absent(self, entries_max: int) -> None:
        keys, self.cursor = self.open_keys(self.cursor, entries_max)
        self.missing += [key for key in keys if key not in self.seen]
        if not self.cursor:
            self.phase = Phase.ENDED

    def _decide(self, turn: Turn, entries_max: int) -> None:
        """Decide entries by the present records, which other turns may have changed since."""
        sent = [] if self.short and self.missing else self.undecided.take(entries_max)
        for (_, action), stored in zip(sent, self.read([key for key, _ in sent]), strict=True):
            record = turn.newest(stored) if stored else turn.decided(action.id)
            self._take(turn, *reconcile_sent(record, action, turn.now, turn.rules))
        left = min(entries_max - len(sent), len(self.missing))
        for missed in self.read([self.missing.popleft() for _ in range(left)]):
            if missed is not None:  # else it was damaged meanwhile
                self._take(turn, *reconcile_absent(turn.newest(missed), turn.now, turn.rules))
        if not self.undecided and not self.missing:
            self.phase = Phase.DONE

    def _take(self, turn: Turn, verdict: Verdict, change: Change | None) -> None:
        self.counts[verdict] += 1
        turn.take(change)

    def _take_ended(self, turn: Turn) -> None:
        """Mark terminal actions that the snapshot lacks, or has again; their status stays (S6).

        Only an action that the backend no longer sends may be forgotten.
        """
        rows, self.ended_cursor = self.ended(self.ended_cursor)
        for row, was_absent in rows:
            absent = edge_of(row)[1] not in self.seen
            if absent is not was_absent and not (absent and self._unclear):
                turn.absences[row] = absent
        if not self.ended_cursor:
            self.phase = Phase.DECIDING

    @property
    def quarantine(self) -> tuple[str, ...]:
        """The entries that were set aside, for people: at most ten lines."""
        shown = self.snapshot.told.set_aside[:QUARANTINE_SHOWN_MAX]
        return tuple(f"{entry.id or 'unreadable id'}: {entry.reason}" for entry in shown)
