"""daemonDB, the transactional store of actions, runs, events and reports, on LMDB.

The only access to the store for the rest of the daemon. Owns the LMDB environment and its
transactions; the rows are the subject of `tables/`. Decides nothing about statuses. Each call
is one transaction, none outlives it, and a value that cannot be read costs that one value.
`StoreError.fatal` tells the errors that end the daemon from those that are waited out. The
file was examined before it is opened here, by `open.py`.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from ...ipc.actions import ExecutionStatus
from ..core.model import Change, Record, RunRow
from . import files, lmdb_env
from .errors import StoreError, StoreErrorKind
from .lmdb_env import Room
from .outcomes import Committed, Forgotten, Known
from .py_lmdb import Environment
from .repair import incidents, salvage
from .repair.salvage import Salvage
from .tables import create, rebuild
from .tables.actions import ActionRows, page_cursor
from .tables.codec import STATUSES, action_key, edge_key
from .tables.ended import EndedRows
from .tables.history import Event, History
from .tables.meta import Meta, MetaUpdate, put_meta, read_or_make
from .tables.outbox import OUTBOX_ROWS_MAX, Outbox, Reports, Result, Verdicts
from .tables.schema import Damage, Tables, Transaction

__all__ = ["Committed", "DaemonDB", "Meta", "MetaUpdate", "Verdicts"]

log = logging.getLogger(__name__)

MAP_BYTES = 64 * 1024**2


class DaemonDB:
    """The store of one daemon; one process, one thread. Every method may raise `StoreError`.

    Made by `open` or `at`. `full_size`: its file has all the blocks it may ever need.
    `reports` is what operators may do with reports.
    """

    def __init__(
        self,
        env: Environment,
        store_dir: Path,
        tables: Tables,
        *,
        outbox_rows_max: int,
        full_size: bool,
    ) -> None:
        self.store_dir = store_dir
        self.full_size = full_size
        self._outbox_rows_max = outbox_rows_max
        self._data_identity, self._damage = files.data_identity(store_dir), Damage()
        self._use(env, tables)
        self._edge_known: tuple[int, int] | None = None
        self._next_edge: int | None = None
        self._depth_known, self._depth = -1, 0
        self._known = self._write(self._load)

    def _use(self, env: Environment, tables: Tables) -> None:
        self._env = env
        self._tables = tables
        self._actions = ActionRows(tables, self._damage)
        self._ended = EndedRows(tables, self._damage)
        self._history = History(tables, self._damage)
        self._outbox = Outbox(tables, self._damage, self._outbox_rows_max)
        self.reports = Reports(self._outbox, self._read, self._write)

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        map_bytes: int = MAP_BYTES,
        outbox_rows_max: int = OUTBOX_ROWS_MAX,
    ) -> "DaemonDB":
        """Open the store below `state_dir`, or make it where there is none.

        Raises `StoreError` where it is lost, newer than this software, or on a file system
        that cannot hold it; it is never written over.
        """
        paths = files.StorePaths(state_dir)
        with lmdb_env.errors(state_dir, otherwise=StoreErrorKind.UNUSABLE):
            paths.prepare()
        db = cls.at(paths.store, map_bytes=map_bytes, outbox_rows_max=outbox_rows_max)
        files.warn_if_forgetful(paths.store)
        return db

    @classmethod
    def at(
        cls, store_dir: Path, *, map_bytes: int = MAP_BYTES, outbox_rows_max: int = OUTBOX_ROWS_MAX
    ) -> "DaemonDB":
        """Open or make the store in this directory, which exists. Raises `StoreError`."""
        unusable = StoreErrorKind.UNUSABLE
        with lmdb_env.errors(store_dir, otherwise=unusable), contextlib.ExitStack() as undo:
            files.ready(store_dir)
            env = lmdb_env.open_for_writing(store_dir, map_bytes)
            undo.callback(env.close)
            tables = create.create_or_migrate(env, store_dir)
            full_size = files.give_blocks(store_dir, map_bytes)
            files.mark_initialised(store_dir)
            env.reader_check()
            db = cls(env, store_dir, tables, outbox_rows_max=outbox_rows_max, full_size=full_size)
            undo.pop_all()
        return db

    def close(self) -> None:
        """Close the environment: nothing may be called any more."""
        self._env.close()

    @property
    def removed(self) -> bool:
        """The open file is not at its path any more: what is written is lost with this process.
        Where nobody can look, it counts as there: a commit will tell of a disk that fails."""
        try:
            return files.data_identity(self.store_dir) != self._data_identity
        except OSError:
            return False

    def check_readers(self) -> None:
        """Remove readers that died from LMDB's table: they would pin pages (fact 7)."""
        with lmdb_env.errors(self.store_dir):
            self._env.reader_check()

    def room(self) -> Room:
        """Measure how full it is."""
        every = [getattr(self._tables, name) for name in Tables.__struct_fields__]
        return self._read(lambda txn: lmdb_env.room(self._env, txn, every))

    @property
    def last_transaction(self) -> int:
        """Number of the newest transaction that wrote anything."""
        return int(self._env.info()["last_txnid"])

    # --- the one way a status changes ---------------------------------------------------

    def commit(
        self,
        changes: Sequence[Change],
        *,
        report: bool,
        meta: MetaUpdate | None = None,
        absences: Mapping[bytes, bool] | None = None,
        verdicts: Verdicts | None = None,
    ) -> Committed:
        """Write all changes of one turn, each by compare-and-swap, in one transaction.

        A change wins if the stored record has the status and the revision of its
        `before`, or is not there where that is None. With `report` each change of status
        is put into the outbox too (S18). `absences` are rows of `ended_page`: true where the
        newest snapshot lacks the action, false where it has it again. `verdicts` are on reports.
        With nothing to write there is no transaction. `StoreError`: nothing has changed.
        """
        unchanged = meta is None or meta.applied_to(self.meta) == self.meta
        if not changes and not absences and not verdicts and unchanged:
            return Committed((), ())

        def work(txn: Transaction) -> tuple[Committed, Known]:
            self._ended.mark(txn, absences or {})
            if verdicts is not None:
                self._outbox.settle(txn, verdicts.accepted, verdicts.refused)
            return self._commit(txn, changes, report, meta)

        committed, self._known = self._write(work)
        return committed

    def _commit(
        self, txn: Transaction, changes: Sequence[Change], report: bool, update: MetaUpdate | None
    ) -> tuple[Committed, Known]:
        counts = self._known.counts.copy()
        won = [self._swap(txn, change, counts) for change in changes]
        winners = [change for change, swapped in zip(changes, won, strict=True) if swapped]
        events = self._put_events(txn, winners)
        forgotten = self._history.put_runs(txn, winners)
        meta = self.meta if update is None else update.applied_to(self.meta)
        if report:
            dropped = self._record_reports(txn, events)
            meta = replace(meta, outbox_dropped=meta.outbox_dropped + dropped)
        if meta != self.meta:
            put_meta(txn, self._tables, meta)
        known = Known(meta, counts, self._known.last_sequence + len(events))
        return Committed(tuple(won), events, tuple(forgotten)), known

    def _put_events(self, txn: Transaction, winners: Sequence[Change]) -> tuple[Event, ...]:
        """Put and return the events of changes that won; actions then over get a row in `ended`."""
        events: list[Event] = []
        for change in winners:
            event = change.status_change()
            if event is None:
                continue
            events.append((self._known.last_sequence + len(events) + 1, event))
            if event.new.terminal:
                key = action_key(change.after.action.id)
                self._ended.put(txn, key, change.after, events[-1][0])
        self._history.put_events(txn, events)
        return tuple(events)

    def _swap(self, txn: Transaction, change: Change, counts: Counter[ExecutionStatus]) -> bool:
        swap = self._actions.swap(txn, change)
        if not swap.won:
            return False
        if swap.was is not None:
            counts[swap.was] -= 1
        counts[change.after.status] += 1
        return True

    def _record_reports(self, txn: Transaction, events: Sequence[Event]) -> int:
        """Put reports, in the transaction that changes the status (S18); return how many were
        dropped for them."""
        for sequence, event in events:
            if event.new is not ExecutionStatus.NULL:
                self._outbox.append(txn, sequence, event)
        return self._outbox.trim(txn)

    # --- actions ------------------------------------------------------------------------

    @property
    def meta(self) -> Meta:
        """The store's own row."""
        return self._known.meta

    @property
    def damaged(self) -> int:
        """Number of values that could not be read since the store was opened."""
        return len(self._damage)

    def read(self, action_id: str) -> Record | None:
        """Return an action's record; None where there is none, or where it is damaged."""
        return self.read_keys([action_key(action_id)])[0]

    def read_keys(self, keys: Sequence[bytes]) -> list[Record | None]:
        """Return the record under each key; None where there is none, or where it is damaged."""
        return self._read(lambda txn: [self._actions.record(txn, key) for key in keys])

    def counts(self) -> Counter[ExecutionStatus]:
        """Return the number of records of each status."""
        return self._known.counts.copy()

    def summary(self) -> str:
        """Return a line for people: the counts, and the last incident not acknowledged yet."""
        counts = ", ".join(f"{self._known.counts[status]} {status.value}" for status in STATUSES)
        newest = incidents.read(self.store_dir)[-1:]
        return "; ".join([counts, *(f"daemonDB: {incident.detail}" for incident in newest)])

    def started(self) -> list[Record]:
        """Return every STARTED record, by edge."""
        count = self._known.counts[ExecutionStatus.STARTED]
        return self._read(lambda txn: self._actions.started(txn, count))

    def page(
        self, cursor: str, limit: int, statuses: Collection[ExecutionStatus]
    ) -> tuple[list[Record], str]:
        """Return at most `limit` records with one of the statuses, and the next cursor.

        The order means nothing. "" is the first cursor, and the next one at the end; a page
        before the end may hold few records or none, because the rows read at once, and the
        names in them, are bounded. Raises `ValueError` for a cursor that is not one of ours.
        """
        after = page_cursor(cursor)
        records, last = self._read(lambda txn: self._actions.page(txn, after, limit, statuses))
        return records, last.hex()

    # --- the index of edges -------------------------------------------------------------

    def due(
        self, after: tuple[int, bytes] | None, until_us: int, limit: int
    ) -> list[tuple[int, bytes]]:
        """Return edges after `after`, `until_us` at the latest: (edge, key), earliest first."""
        start = b"" if after is None else edge_key(*after) + b"\0"
        return self._read(lambda txn: self._actions.edges(txn, start, limit, until_us))

    def next_edge_after(self, instant_us: int) -> int | None:
        """Return the first edge later than an instant, in us; None for none. It is looked up once
        in each state of the store."""
        known = (self.last_transaction, instant_us)
        if known != self._edge_known:
            start = edge_key(instant_us + 1, b"")
            edges = self._read(lambda txn: self._actions.edges(txn, start, 1))
            self._edge_known, self._next_edge = known, edges[0][0] if edges else None
        return self._next_edge

    def open_page(self, cursor: str, limit: int) -> tuple[list[Record], str]:
        """Return at most `limit` records that are not terminal, by edge, and the next cursor.

        "" is the first cursor, and the next one at the end. A record whose edge moves on
        may come twice.
        """
        start = bytes.fromhex(cursor)
        records, following = self._read(lambda txn: self._actions.open_page(txn, start, limit))
        return records, following.hex()

    def open_keys(self, cursor: str, limit: int) -> tuple[list[bytes], str]:
        """Return the keys of the records that `open_page` returns, and the next cursor."""
        start = bytes.fromhex(cursor)
        keys, following = self._read(lambda txn: self._actions.open_keys(txn, start, limit))
        return keys, following.hex()

    # --- runs, events, outbox -----------------------------------------------------------

    def run(self, action_id: str, attempt: int) -> RunRow | None:
        """Return a run of an action; None where it is not kept, or is damaged."""
        return self._read(lambda txn: self._history.run(txn, action_key(action_id), attempt))

    def runs(self, action_id: str, limit: int) -> list[RunRow]:
        """Return the newest runs of an action that are kept, newest first."""
        return self._read(lambda txn: self._history.runs(txn, action_key(action_id), limit))

    def events(self, after: int) -> list[Event]:
        """Return those of the last hundred events that are after a sequence number."""
        return self._read(lambda txn: self._history.events(txn, after))

    def outbox_pending(self, limit: int) -> list[Event]:
        """Return the reports that may be sent now, oldest first; of each action its oldest."""
        return self._read(lambda txn: self._outbox.pending(txn, limit))

    def settle_reports(self, accepted: Collection[int], refused: Collection[int]) -> None:
        """Record which reports the backend has accepted and refused, by sequence number."""
        if accepted or refused:
            self.commit((), report=False, verdicts=Verdicts((*accepted,), (*refused,)))

    @property
    def outbox_depth(self) -> int:
        """Number of pending reports; those set aside do not count. It is looked up once in each
        state of the store."""
        known = self.last_transaction
        if known != self._depth_known:
            self._depth_known, self._depth = known, self._read(self._outbox.depth)
        return self._depth

    @property
    def outbox_oldest_us(self) -> int | None:
        """Instant of the oldest pending change."""
        return self._read(self._outbox.oldest_us)

    @property
    def outbox_dropped(self) -> int:
        """Number of reports dropped beyond the bound of the outbox since the store was made."""
        return self.meta.outbox_dropped

    # --- actions that are over ----------------------------------------------------------

    def ended_page(self, start: bytes) -> tuple[list[tuple[bytes, bool]], bytes]:
        """Return (row, the newest snapshot lacks it) of actions that are over, and the next
        `start`; b"" begins and ends. A row ends in its action's key."""
        return self._read(lambda txn: self._ended.page(txn, start))

    def forget(self, start: bytes, until_us: int) -> Forgotten:
        """Remove a bounded number of actions that ended up to `until_us`, that the backend does
        not send any more and whose status it was told; with none, nothing is written."""
        found = self._read(lambda txn: self._ended.forgettable(txn, start, until_us))
        rows, following = found
        if not rows:
            return Forgotten(0, (), following)
        runs, self._known = self._write(lambda txn: self._forget(txn, rows))
        return Forgotten(len(rows), tuple(runs), following)

    def _forget(self, txn: Transaction, rows: Sequence[bytes]) -> tuple[list[str], Known]:
        counts = self._known.counts.copy()
        runs: list[str] = []
        for row in rows:
            status, gone = self._ended.forget(txn, row)
            if status is not None:
                counts[status] -= 1
            runs += self._history.ids_of(gone)
        return runs, replace(self._known, counts=counts)

    # --- after damage -------------------------------------------------------------------

    def put_aside(self, damaged: Sequence[tuple[str, bytes]], *, now_us: int) -> None:
        """Move damaged values, by table and key, to the table `damaged`; rebuild the indexes."""

        def work(txn: Transaction) -> Known:
            salvage.put_aside(txn, self._tables, damaged, now_us=now_us)
            return self._rebuilt(txn)

        self._known = self._write(work)

    def adopt(self, saved: Salvage, *, now_us: int) -> None:
        """Merge the rows salvaged from a store that this one replaces; rebuild the indexes."""

        def work(txn: Transaction) -> Known:
            salvage.adopt(txn, self._tables, saved, now_us=now_us)
            return self._rebuilt(txn)

        self._known = self._write(work)

    def _rebuilt(self, txn: Transaction) -> Known:
        rebuild.rebuild_indexes(txn, self._tables, self._ended, self._outbox)
        return self._load(txn)

    # --- transactions -------------------------------------------------------------------

    def _read(self, work: Callable[[Transaction], Result]) -> Result:
        with lmdb_env.errors(self.store_dir), self._env.begin() as txn:
            return work(txn)

    def _write(self, work: Callable[[Transaction], Result]) -> Result:
        """Do work in a write transaction. Its commit may be what fails for want of room (facts 6,
        L14)."""
        before = self.last_transaction
        try:
            with lmdb_env.errors(self.store_dir), self._env.begin(write=True) as txn:
                return work(txn)
        except StoreError as error:
            if not error.fatal:
                self._reopen_if_given_up(before)
            raise

    def _reopen_if_given_up(self, before: int) -> None:
        """Open an environment anew that LMDB takes no more transactions in, because it could not
        write the page that names the newest one, which was `before` (fact L38)."""
        with lmdb_env.errors(self.store_dir):
            if not lmdb_env.given_up(self._env):
                return
            map_bytes = int(self._env.info()["map_size"])
            self._env.close()
            env = lmdb_env.open_for_writing(self.store_dir, map_bytes)
            self._use(env, create.create_or_migrate(env, self.store_dir))
        if self.last_transaction != before:  # what failed is there all the same
            detail = "a transaction that failed is there all the same"
            raise StoreError(f"cannot use {self.store_dir}: {detail}", kind=StoreErrorKind.IO)

    def _load(self, txn: Transaction) -> Known:
        """Read the part held in memory; set damaged reports aside."""
        self._outbox.remove_damaged(txn)
        meta = read_or_make(txn, self._tables)
        last = max(self._history.last_sequence(txn), meta.sequence_floor)
        return Known(meta, self._actions.count(txn), last)
