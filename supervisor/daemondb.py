"""daemonDB: the one door to what is on disk, and the only importer of `lmdb`.

Owns the environment, its transactions and its errors; what is in the tables is
`actionrows.py`'s, `history.py`'s and `outbox.py`'s. Decides nothing about statuses. One
transaction a call, none outlives it, and what cannot be read costs that one value. Which
errors end the daemon and which are waited out is `StoreError.fatal`.
"""

import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import lmdb
import lmdb.verify
from msgspec.structs import replace

from ..ipc.actions import ExecutionStatus
from . import migrations, storefile, storemeta
from .actionrows import ActionRows, page_cursor
from .core.model import Change, Record, RunRow
from .history import Event, History
from .outbox import OUTBOX_ROWS_MAX, Outbox
from .records import STATUSES, action_key, edge_key
from .storefile import StoreError, StoreErrorKind
from .storemeta import Meta, MetaUpdate
from .tables import Damage, Tables, Transaction

__all__ = ["Committed", "DaemonDB", "Meta", "MetaUpdate", "StoreError", "StoreErrorKind"]

log = logging.getLogger(__name__)

MAP_BYTES = 256 * 1024**2
#: A full map is doubled, up to here: about what a 32-bit process can map (fact L4).
MAP_BYTES_MAX = 1024**3
TABLES_MAX = 16
READERS_MAX = 8


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Committed:
    """Which changes won their compare-and-swap, and the events that came of them."""

    won: tuple[bool, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    """What is held in memory of the store; replaced when a transaction is committed."""

    meta: Meta
    counts: Counter[ExecutionStatus]
    last_sequence: int


class DaemonDB:
    """Open it with `open`; one process, one thread. Every method may raise `StoreError`."""

    def __init__(
        self,
        env: "lmdb.Environment",
        place: Path,
        tables: Tables,
        outbox_rows_max: int,
        map_bytes_max: int,
    ) -> None:
        self._env = env
        self._place = place
        self._tables = tables
        self._map_bytes_max = map_bytes_max
        self._damage = Damage()
        self._actions = ActionRows(tables, self._damage)
        self._history = History(tables, self._damage)
        self._outbox = Outbox(tables, self._damage, outbox_rows_max)
        self._known = self._write(self._look_through)

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        map_bytes: int = MAP_BYTES,
        map_bytes_max: int = MAP_BYTES_MAX,
        outbox_rows_max: int = OUTBOX_ROWS_MAX,
    ) -> "DaemonDB":
        """Open the store below `state_dir`, making it where there is none.

        Raises `StoreError` where it is damaged, lost, newer than this software, or on a
        file system that cannot hold it; it is never written over.
        """
        try:
            place = storefile.prepare(state_dir)
            with contextlib.ExitStack() as undo:
                env = _opened(place, map_bytes)
                undo.callback(env.close)
                storefile.close_on_exec(place)
                tables = _founded(env, place)
                storefile.mark_initialised(place)
                env.reader_check()
                db = cls(env, place, tables, outbox_rows_max, map_bytes_max)
                undo.pop_all()
        except (lmdb.Error, OSError) as error:
            raise _store_error(state_dir, error, otherwise=StoreErrorKind.UNUSABLE) from error
        storefile.warn_if_forgetful(place)
        return db

    def close(self) -> None:
        self._env.close()

    def check_readers(self) -> None:
        """Forget readers that died: they would pin pages (fact 7)."""
        try:
            self._env.reader_check()
        except lmdb.Error as error:
            raise _store_error(self._place, error) from error

    # --- the one way a status changes ---------------------------------------------------

    def commit(
        self, changes: Sequence[Change], *, report: bool, meta: MetaUpdate | None = None
    ) -> Committed:
        """All changes of one turn, each by compare-and-swap, in one transaction.

        A change wins if the stored record has the status and the revision of its
        `before`, or is not there where that is None. With `report` each change of status
        is put into the outbox too (S18). With nothing to write there is no transaction.
        When `StoreError` is raised nothing is changed.
        """
        if not changes and (meta is None or meta.applied_to(self.meta) == self.meta):
            return Committed((), ())
        committed, self._known = self._write(lambda txn: self._commit(txn, changes, report, meta))
        return committed

    def _commit(
        self, txn: Transaction, changes: Sequence[Change], report: bool, update: MetaUpdate | None
    ) -> tuple[Committed, _Known]:
        counts = self._known.counts.copy()
        won = [self._swap(txn, change, counts) for change in changes]
        winners = [change for change, swapped in zip(changes, won, strict=True) if swapped]
        told = [event for event in map(Change.status_change, winners) if event is not None]
        events = tuple(enumerate(told, self._known.last_sequence + 1))
        self._history.put_events(txn, events)
        meta = self.meta if update is None else update.applied_to(self.meta)
        if report:
            dropped = self._record_reports(txn, events)
            meta = replace(meta, outbox_dropped=meta.outbox_dropped + dropped)
        if meta != self.meta:
            storemeta.put(txn, self._tables, meta)
        known = _Known(meta, counts, self._known.last_sequence + len(events))
        return Committed(tuple(won), events), known

    def _swap(self, txn: Transaction, change: Change, counts: Counter[ExecutionStatus]) -> bool:
        swap = self._actions.swap(txn, change)
        if not swap.won:
            return False
        if swap.was is not None:
            counts[swap.was] -= 1
        counts[change.after.status] += 1
        if change.run is not None:
            self._history.put_run(txn, action_key(change.after.action.id), change.run)
        return True

    def _record_reports(self, txn: Transaction, events: Sequence[Event]) -> int:
        """S18: in the transaction that changes the status. How many made room for them."""
        for sequence, event in events:
            if event.new is not ExecutionStatus.NULL:
                self._outbox.append(txn, sequence, event)
        return self._outbox.trim(txn)

    # --- actions ------------------------------------------------------------------------

    @property
    def meta(self) -> Meta:
        return self._known.meta

    @property
    def damaged(self) -> int:
        """Values that could not be read since the store was opened."""
        return len(self._damage)

    def read(self, action_id: str) -> Record | None:
        return self.read_key(action_key(action_id))

    def read_key(self, key: bytes) -> Record | None:
        """The record under a key; None where there is none, or where it is damaged."""
        return self._read(lambda txn: self._actions.record(txn, key))

    def counts(self) -> Counter[ExecutionStatus]:
        """How many records have each status."""
        return self._known.counts.copy()

    def counts_line(self) -> str:
        """The counts as a line for people."""
        return ", ".join(f"{self._known.counts[status]} {status.value}" for status in STATUSES)

    def started(self) -> list[Record]:
        """Every STARTED record, by the index of what is not terminal."""
        return self._read(self._actions.started)

    def page(
        self, cursor: str, limit: int, statuses: Collection[ExecutionStatus]
    ) -> tuple[list[Record], str]:
        """At most `limit` records with one of the statuses, and the cursor to go on with.

        In no order that means anything. "" begins and ends; a page before the end may
        hold few records or none, because what is looked through at once is bounded.
        Raises `ValueError` for a cursor that is none.
        """
        after = page_cursor(cursor)
        records, last = self._read(lambda txn: self._actions.page(txn, after, limit, statuses))
        return records, last.hex()

    # --- the index of edges -------------------------------------------------------------

    def due(
        self, after: tuple[int, bytes] | None, until_us: int, limit: int
    ) -> list[tuple[int, bytes]]:
        """Edges up to and including `until_us`, behind `after`: (edge, key), earliest first."""
        start = b"" if after is None else edge_key(*after) + b"\0"
        return self._read(lambda txn: self._actions.edges(txn, start, limit, until_us))

    def next_edge_after(self, instant_us: int) -> int | None:
        """The first edge later than an instant."""
        start = edge_key(instant_us + 1, b"")
        edges = self._read(lambda txn: self._actions.edges(txn, start, 1))
        return edges[0][0] if edges else None

    def open_page(self, cursor: str, limit: int) -> tuple[list[Record], str]:
        """Records that are not terminal, by edge; one whose edge moves on may come twice."""
        start = bytes.fromhex(cursor)
        records, following = self._read(lambda txn: self._actions.open_page(txn, start, limit))
        return records, following.hex()

    # --- runs, events, outbox -----------------------------------------------------------

    def run(self, action_id: str, attempt: int) -> RunRow | None:
        return self._read(lambda txn: self._history.run(txn, action_key(action_id), attempt))

    def runs(self, action_id: str, limit: int) -> list[RunRow]:
        """The runs of an action that are kept, newest first."""
        return self._read(lambda txn: self._history.runs(txn, action_key(action_id), limit))

    def events(self, after: int) -> list[Event]:
        """The events later than a sequence number, of the last hundred."""
        return self._read(lambda txn: self._history.events(txn, after))

    def outbox_pending(self, limit: int) -> list[Event]:
        """The reports that may be sent now, oldest first; of each action its oldest."""
        return self._read(lambda txn: self._outbox.pending(txn, limit))

    def settle_reports(self, accepted: Collection[int], refused: Collection[int]) -> None:
        """The backend's durable word on reports, by sequence number."""
        if accepted or refused:
            self._write(lambda txn: self._outbox.settle(txn, accepted, refused))

    @property
    def outbox_depth(self) -> int:
        """Reports not taken yet, those set aside not counted."""
        return self._read(self._outbox.depth)

    @property
    def outbox_oldest_us(self) -> int | None:
        return self._read(self._outbox.oldest_us)

    @property
    def outbox_refused(self) -> int:
        """Reports set aside after too many refusals; the newest thousand are kept."""
        return self._read(self._outbox.refused)

    @property
    def outbox_dropped(self) -> int:
        """Reports dropped beyond the bound of the outbox since the store was made."""
        return self.meta.outbox_dropped

    # --- transactions -------------------------------------------------------------------

    def _read(self, work: Callable[[Transaction], Result]) -> Result:
        try:
            with self._env.begin() as txn:
                return work(txn)
        except lmdb.Error as error:
            raise _store_error(self._place, error) from error

    def _write(self, work: Callable[[Transaction], Result]) -> Result:
        """`work` in a write transaction; again, from its beginning, where the map was full:
        a commit may be what finds that out (facts 6, L14)."""
        try:
            return self._write_once(work)
        except StoreError as error:
            if error.kind is not StoreErrorKind.MAP_FULL or not self._grow():
                raise
        return self._write_once(work)

    def _write_once(self, work: Callable[[Transaction], Result]) -> Result:
        try:
            with self._env.begin(write=True) as txn:
                return work(txn)
        except lmdb.Error as error:
            raise _store_error(self._place, error) from error

    def _grow(self) -> bool:
        size = int(self._env.info()["map_size"])
        if size >= self._map_bytes_max:
            return False
        larger = min(2 * size, self._map_bytes_max)
        try:
            self._env.set_mapsize(larger)
        except lmdb.Error as error:  # no room for it in memory
            raise _store_error(self._place, error) from error
        log.info("daemonDB may grow to %d bytes", larger, extra={"event": "store-grows"})
        return True

    def _look_through(self, txn: Transaction) -> _Known:
        """What is kept in memory, from what is on disk."""
        self._outbox.remove_damaged(txn)
        meta = storemeta.read_or_make(txn, self._tables)
        return _Known(meta, self._actions.count(txn), self._history.last_sequence(txn))


# --- opening ----------------------------------------------------------------------------


def _opened(place: Path, map_bytes: int) -> "lmdb.Environment":
    if storefile.data_bytes(place) and sys.maxsize > 2**32:
        _verify(place)
    return lmdb.open(
        str(place),
        map_size=max(map_bytes, storefile.data_bytes(place)),
        max_dbs=TABLES_MAX,
        max_readers=READERS_MAX,
        max_spare_txns=1,
        mode=0o600,
        lib_version=0,  # never by the environment's choice (fact L1)
    )


def _verify(place: Path) -> None:
    """Find what would kill the process when LMDB meets it (fact 3, L17). 64-bit only."""
    check: Callable[[str], list[str]] = lmdb.verify.verify
    try:
        problems = check(str(place))
    except lmdb.verify.VerifyError as error:
        problems = [str(error)]
    if problems:
        raise StoreError(f"cannot use {place}: it is damaged ({problems[0]})")


def _founded(env: "lmdb.Environment", place: Path) -> Tables:
    """The tables, made in a new store and migrated in an old one; all or nothing."""
    number = _format(env, place)

    def opener(txn: "lmdb.Transaction[bytes]") -> Callable[[bytes], object]:
        return lambda name: env.open_db(name, txn=txn)

    with env.begin(write=True) as txn:
        tables = Tables.open(opener(txn))
        if number is not None:
            migrations.migrate(txn, opener(txn), number)
        if number != migrations.FORMAT:
            storemeta.put_format(txn, tables, migrations.FORMAT)
    return tables


def _format(env: "lmdb.Environment", place: Path) -> int | None:
    """The format of what is there, None where nothing is; the store is not touched."""
    try:
        table = env.open_db(b"meta", create=False)
    except lmdb.NotFoundError:
        if env.stat()["entries"] or storefile.initialised(place):
            raise StoreError(f"cannot use {place}: what it holds is no daemonDB") from None
        return None
    try:
        with env.begin() as txn:
            number = storemeta.read_format(txn, table)
        migrations.check(number)
    except ValueError as error:
        raise StoreError(f"cannot use {place}: {error}") from None
    return number


# --- errors -----------------------------------------------------------------------------


def _store_error(
    place: Path, error: lmdb.Error | OSError, *, otherwise: StoreErrorKind = StoreErrorKind.IO
) -> StoreError:
    """Their error as ours, by code and not by class (facts 5, 8, L14 to L16)."""
    # LMDB's errors have a code, but for those that py-lmdb raises itself.
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
    kind = storefile.kind_of_code(code or 0, place) or otherwise
    return StoreError(f"cannot use {place}: {error}", kind=kind)
