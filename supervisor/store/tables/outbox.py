"""Outbox of status reports that the backend has not taken yet: ordered per action, bounded (S18).

`Outbox` works inside the transaction it is given, and nothing outlives that; `Reports` carries
out operators' requests, each in its own transaction. `supervisor/sync` decides when to send.
"""

from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from ....ipc.messages.base import Count
from ...core.model import StatusChange
from .codec import Codec, action_key, kind_of, number_key, number_of
from .schema import Damage, Tables, Transaction, entries, rows_from, scan, set_aside

OUTBOX_ROWS_MAX = 100_000
#: A report that was refused this often is set aside.
REFUSALS_MAX = 10
REFUSED_ROWS_MAX = 1_000
#: Rows read for each report of a batch: several may be of one action.
ROWS_PER_REPORT_MAX = 10

#: Kind bytes, by which a full outbox chooses the rows to drop.
_PASSING, _FINAL = 0, 1

Result = TypeVar("Result")


class Pending(msgspec.Struct, frozen=True, array_like=True):
    """A report, and the number of times the backend has refused it."""

    change: StatusChange
    refusals: Count = 0


_PENDING = Codec(Pending)


class Verdicts(msgspec.Struct, frozen=True):
    """What a backend has said of reports, by their sequence numbers."""

    accepted: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()


class Outbox:
    """Rows of the tables `outbox` and `refused`, by sequence number.

    A report is pending in `outbox` until the backend takes it; one refused `REFUSALS_MAX`
    times moves to `refused`, where it stays until an operator puts it back or drops it. Beyond
    `rows_max` pending reports, `trim` drops some.
    """

    def __init__(self, tables: Tables, damage: Damage, rows_max: int = OUTBOX_ROWS_MAX) -> None:
        self._tables = tables
        self._damage = damage
        self._rows_max = rows_max

    def depth(self, txn: Transaction) -> int:
        """Count the pending reports."""
        return entries(txn, self._tables.outbox)

    def refused(self, txn: Transaction) -> int:
        """Count the reports set aside; the newest `REFUSED_ROWS_MAX` are kept."""
        return entries(txn, self._tables.refused)

    def oldest_us(self, txn: Transaction) -> int | None:
        """Return the instant of the oldest pending change, None where none is pending."""
        oldest = self.pending(txn, 1)
        return oldest[0][1].at_us if oldest else None

    def append(self, txn: Transaction, sequence: int, change: StatusChange) -> None:
        """Add a report."""
        kind = _FINAL if change.new.terminal else _PASSING
        txn.put(
            number_key(sequence), _PENDING.encode(Pending(change), kind), db=self._tables.outbox
        )

    def trim(self, txn: Transaction) -> int:
        """Drop reports beyond the bound; return their number.

        The oldest of non-terminal statuses go first: the end of an action matters more. A
        full outbox drops a hundredth at once, because finding them means reading all of it.
        """
        beyond = self.depth(txn) - self._rows_max
        if beyond <= 0:
            return 0
        count = max(beyond, self._rows_max // 100)
        passing: list[bytes] = []
        others: list[bytes] = []
        with txn.cursor(self._tables.outbox) as at:
            for key, value in rows_from(at):
                chosen = passing if kind_of(value) == _PASSING else others
                if len(chosen) < count:
                    chosen.append(key)
                if len(passing) == count:
                    break
        dropped = (passing + others)[:count]
        for key in dropped:
            txn.delete(key, db=self._tables.outbox)
        return len(dropped)

    def pending(self, txn: Transaction, limit: int) -> list[tuple[int, StatusChange]]:
        """Return the reports that may be sent now: the oldest of each action, oldest first.

        One of each action: if the first were refused and the second taken, the first
        could never be sent in order again.
        """
        found: dict[str, tuple[int, StatusChange]] = {}
        for key, value in scan(txn, self._tables.outbox, b"", ROWS_PER_REPORT_MAX * limit):
            row = self._read(key, value)
            if row is not None:
                found.setdefault(row.change.action_id, (number_of(key), row.change))
            if len(found) == limit:
                break
        return list(found.values())

    def last_of_each(self, txn: Transaction) -> dict[bytes, int]:
        """Return the number of each action's newest pending report, by the action's key."""
        with txn.cursor(self._tables.outbox) as at:
            rows = ((key, self._read(key, value)) for key, value in rows_from(at))
            return {action_key(r.change.action_id): number_of(k) for k, r in rows if r is not None}

    def settle(self, txn: Transaction, accepted: Collection[int], refused: Collection[int]) -> None:
        """Forget reports that the backend accepted; count the refusals of those it refused."""
        for sequence in accepted:
            txn.delete(number_key(sequence), db=self._tables.outbox)
        for sequence in refused:
            self._count_refusal(txn, number_key(sequence))

    # --- for operators ------------------------------------------------------------------

    def page(
        self, txn: Transaction, set_aside: bool, after: int, limit: int
    ) -> tuple[list[tuple[int, Pending]], int]:
        """Return rows after a sequence number, and the next `after`, 0 at the end."""
        table = self._tables.refused if set_aside else self._tables.outbox
        rows = scan(txn, table, number_key(after + 1), limit)
        found = [(number_of(key), self._read(key, value)) for key, value in rows]
        last = found[-1][0] if len(rows) == limit else 0
        return [(number, row) for number, row in found if row is not None], last

    def put_back(self, txn: Transaction) -> int:
        """Make reports that were set aside pending again, as if never refused, as many as there
        is room for; return their number."""
        room = max(0, self._rows_max - self.depth(txn))
        rows = scan(txn, self._tables.refused, b"", room)
        for key, value in rows:
            row = self._read(key, value)
            if row is not None:
                again = _PENDING.encode(replace(row, refusals=0), kind_of(value) or _PASSING)
                txn.put(key, again, db=self._tables.outbox)
            txn.delete(key, db=self._tables.refused)
        return len(rows)

    def not_set_aside(self, txn: Transaction, sequences: Collection[int]) -> list[int]:
        """Return those of the numbers under which no report was set aside."""
        keys = {number: number_key(number) for number in sequences}
        return [n for n, key in keys.items() if txn.get(key, db=self._tables.refused) is None]

    def drop(self, txn: Transaction, sequences: Collection[int]) -> None:
        """Forget reports that were set aside."""
        for sequence in sequences:
            txn.delete(number_key(sequence), db=self._tables.refused)

    def drop_all(self, txn: Transaction) -> int:
        """Forget all reports that were set aside; return their number."""
        rows = scan(txn, self._tables.refused, b"", REFUSED_ROWS_MAX)
        self.drop(txn, [number_of(key) for key, _ in rows])
        return len(rows)

    # --- damage, refusals ---------------------------------------------------------------

    def remove_damaged(self, txn: Transaction) -> None:
        """Move rows that cannot be read to `damaged`: they would count as pending for ever."""
        with txn.cursor(self._tables.outbox) as at:
            bad = [row for row in rows_from(at) if self._read(*row) is None]
        for key, value in bad:
            set_aside(txn, self._tables, "outbox", key, value)
            txn.delete(key, db=self._tables.outbox)

    def _count_refusal(self, txn: Transaction, key: bytes) -> None:
        value = txn.get(key, db=self._tables.outbox)
        row = None if value is None else self._read(key, value)
        if value is None or row is None:
            return  # accepted before, or lost
        row = replace(row, refusals=row.refusals + 1)
        encoded = _PENDING.encode(row, kind_of(value) or _PASSING)
        if row.refusals < REFUSALS_MAX:
            txn.put(key, encoded, db=self._tables.outbox)
            return
        txn.delete(key, db=self._tables.outbox)
        txn.put(key, encoded, db=self._tables.refused)
        beyond = entries(txn, self._tables.refused) - REFUSED_ROWS_MAX
        for old, _ in scan(txn, self._tables.refused, b"", max(0, beyond)):
            txn.delete(old, db=self._tables.refused)

    def _read(self, key: bytes, value: bytes) -> Pending | None:
        return self._damage.decoded(_PENDING.decode, "outbox", key, value)


class Transact(Protocol):
    """A function that does work in a transaction and returns its result. Raises `StoreError`."""

    def __call__(self, work: Callable[[Transaction], Result], /) -> Result: ...


class Reports:
    """Operations on reports for operators; each call is one transaction of daemonDB."""

    def __init__(self, outbox: Outbox, read: Transact, write: Transact) -> None:
        self._outbox = outbox
        self._read = read
        self._write = write

    @property
    def refused(self) -> int:
        """Number of reports set aside after too many refusals; the newest thousand are kept."""
        return self._read(self._outbox.refused)

    def page(
        self, *, set_aside: bool, after: int, limit: int
    ) -> tuple[list[tuple[int, Pending]], int]:
        """Return at most `limit` reports after a sequence number, oldest first, and the next
        `after`; 0 begins and ends."""
        return self._read(lambda txn: self._outbox.page(txn, set_aside, after, limit))

    def put_back(self) -> int:
        """Make reports that were set aside pending again, in their old order and as if never
        refused, as many as there is room for; return their number."""
        if not self.refused:
            return 0
        return self._write(self._outbox.put_back)

    def drop(self, sequences: Collection[int]) -> list[int]:
        """Forget reports that were set aside; where some were not, return these and forget none."""
        unknown = self._read(lambda txn: self._outbox.not_set_aside(txn, sequences))
        if sequences and not unknown:
            self._write(lambda txn: self._outbox.drop(txn, sequences))
        return unknown

    def drop_all(self) -> int:
        """Forget all reports that were set aside; return their number."""
        return self._write(self._outbox.drop_all) if self.refused else 0
