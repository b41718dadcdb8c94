"""Index of the actions that are over, by their end, and the rule for forgetting them.

The table `ended` is an index of `actions` as `due` is, with a row for each action whose
status is terminal. An action may be forgotten when the backend does not send it any more and
has been told of its status; how long after its end, the setting `retention` says. Nothing
outlives the transaction it is given.
"""

from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

import msgspec

from ....ipc.actions import ExecutionStatus
from ....ipc.messages.base import Sequence
from ...core.model import Record
from .codec import Codec, edge_key, edge_of, number_key, status_of
from .schema import Damage, Tables, Transaction, rows_from, scan

#: Rows read in one turn.
ROWS_PER_TURN_MAX = 500


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """The newest snapshot lacks the action if `absent`; `sequence` is that of its last report."""

    absent: bool
    sequence: Sequence


_ENDED = Codec(Ended)


def end_us(record: Record) -> int:
    """Return the later of `toDate` and the action's end, in us: until then its id could come
    back with an open window, and run twice."""
    return max(record.action.to_us, record.changed_us)


def row_of(record: Record, key: bytes) -> bytes:
    """Return the key of the row in `ended` for an action."""
    return edge_key(end_us(record), key)


encode_ended = _ENDED.encode


class EndedRows:
    """Rows of the table `ended`; a row ends in the key of its action."""

    def __init__(self, tables: Tables, damage: Damage) -> None:
        self._tables = tables
        self._damage = damage

    def put(self, txn: Transaction, key: bytes, record: Record, sequence: int) -> None:
        """Add an action that is over from now on. One that the backend still sends as not to
        be executed must not be taken for one that is gone (S8)."""
        absent = not record.wanted and record.action.should_be_executed
        txn.put(row_of(record, key), encode_ended(Ended(absent, sequence)), db=self._tables.ended)

    def all(self, txn: Transaction) -> Iterator[tuple[bytes, Ended]]:
        """Yield every row that can be read."""
        with txn.cursor(self._tables.ended) as at:
            for row, value in rows_from(at):
                ended = self._read(row, value)
                if ended is not None:
                    yield row, ended

    def page(self, txn: Transaction, start: bytes) -> tuple[list[tuple[bytes, bool]], bytes]:
        """Return (row, absent) from `start` on, and the next `start`, b"" at the end."""
        rows = scan(txn, self._tables.ended, start, ROWS_PER_TURN_MAX + 1)
        following = rows[ROWS_PER_TURN_MAX][0] if len(rows) > ROWS_PER_TURN_MAX else b""
        found = ((row, self._read(row, value)) for row, value in rows[:ROWS_PER_TURN_MAX])
        return [(row, ended.absent) for row, ended in found if ended is not None], following

    def mark(self, txn: Transaction, absences: Mapping[bytes, bool]) -> None:
        """Record which actions the newest snapshot lacks, by row."""
        for row, absent in absences.items():
            value = txn.get(row, db=self._tables.ended)
            ended = None if value is None else self._read(row, value)
            if ended is not None:
                txn.put(row, encode_ended(Ended(absent, ended.sequence)), db=self._tables.ended)

    def forgettable(
        self, txn: Transaction, start: bytes, until_us: int
    ) -> tuple[list[bytes], bytes]:
        """Return rows up to `until_us` that are absent and reported, and the next `start`."""
        last = number_key(until_us)
        rows = scan(txn, self._tables.ended, start, ROWS_PER_TURN_MAX + 1)
        old = [(row, value) for row, value in rows if row[: len(last)] <= last]
        following = old[ROWS_PER_TURN_MAX][0] if len(old) > ROWS_PER_TURN_MAX else b""
        return list(self._reported(txn, old[:ROWS_PER_TURN_MAX])), following

    def forget(self, txn: Transaction, row: bytes) -> tuple[ExecutionStatus | None, list[bytes]]:
        """Remove an action with all its rows; return the status it was counted as, and the
        values of its runs."""
        _, key = edge_of(row)
        record = txn.get(key, db=self._tables.actions)
        runs: list[tuple[bytes, bytes]] = []
        with txn.cursor(self._tables.runs) as at:
            runs += takewhile(lambda run: run[0].startswith(key), rows_from(at, key))
        for run, _ in runs:
            txn.delete(run, db=self._tables.runs)
        txn.delete(row, db=self._tables.ended)
        txn.delete(key, db=self._tables.actions)
        txn.delete(key, db=self._tables.details)
        return None if record is None else status_of(record), [run for _, run in runs]

    def _reported(self, txn: Transaction, rows: list[tuple[bytes, bytes]]) -> Iterator[bytes]:
        """Yield absent rows whose last report was taken: those of one action are taken in order."""
        for row, value in rows:
            ended = self._read(row, value)
            if ended is None or not ended.absent:
                continue
            if txn.get(number_key(ended.sequence), db=self._tables.outbox) is None:
                yield row

    def _read(self, row: bytes, value: Any) -> Ended | None:
        return self._damage.decoded(_ENDED.decode, "ended", row, value)
