"""daemonDB: the tables, and compare-and-swap as the only way a status changes.

The only importer of `lmdb`. Owns what is on disk; decides nothing about statuses. One
write transaction a call, none outlives it, and what cannot be read costs that one value.
Which errors end the daemon and which are waited out is `StoreError.fatal`.
"""

import contextlib
import errno
import logging
import os
import secrets
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import msgspec
from msgspec.structs import replace

from ..ipc.actions import ExecutionStatus
from . import migrations, storefile
from .core.model import Change, Record, RunRow, StatusChange
from .records import (
    KIND_OF_STATUS,
    STATUSES,
    Codec,
    DamagedRecordError,
    action_key,
    status_of,
)
from .storefile import StoreError

__all__ = ["Committed", "DaemonDB", "Meta", "MetaUpdate", "StoreError"]

log = logging.getLogger(__name__)

MAP_BYTES = 64 * 1024**2
#: A full map grows by doubling, up to here (a 32-bit process maps about as much, fact L4).
MAP_BYTES_MAX = 1024**3
RUNS_KEPT = 20
EVENTS_KEPT = 100
OUTBOX_ROWS_MAX = 100_000
REFUSALS_MAX = 10
#: Configuration longer than this goes into a table of its own: a change of status must
#: not rewrite kilobytes of it (fact L12: over 2 kB a value takes whole pages).
DETAILS_BYTES_MIN = 300

_SEQUENCE = struct.Struct(">Q")
_ATTEMPT = struct.Struct(">I")
_NO_DETAILS = ((), "")

Result = TypeVar("Result")


class Meta(msgspec.Struct, frozen=True):
    """What daemonDB knows of itself. `generation` is new whenever a store is made."""

    format: int
    generation: str
    device: str
    etag: str = ""
    digest: str = ""
    source: str = ""
    clock_mark_us: int = 0
    last_sequence: int = 0
    outbox_dropped: int = 0


class MetaUpdate(msgspec.Struct, frozen=True):
    """What a turn changes of `Meta`; None stays as it is."""

    etag: str | None = None
    digest: str | None = None
    source: str | None = None
    clock_mark_us: int | None = None


class _Pending(msgspec.Struct, frozen=True, array_like=True):
    """A status change the backend has not taken yet."""

    change: StatusChange
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class Committed:
    """Which changes won their compare-and-swap, and the events that came of them."""

    won: tuple[bool, ...]
    events: tuple[tuple[int, StatusChange], ...]


class DaemonDB:
    """Open it with `open`; one process, one thread."""

    def __init__(self, env: "lmdb.Environment", meta: Meta) -> None:
        self._env = env
        self._actions = env.open_db(b"actions")
        self._details = env.open_db(b"details")
        self._due = env.open_db(b"due")
        self._runs = env.open_db(b"runs")
        self._events = env.open_db(b"events")
        self._outbox = env.open_db(b"outbox")
        self._meta = env.open_db(b"meta")
        self._records = Codec(Record)
        self._rows = Codec(RunRow)
        self._changes = Codec(StatusChange)
        self._pending = Codec(_Pending)
        self._long = Codec(tuple[tuple[str, ...], str])
        self.meta = meta
        self.damaged = 0
        self.outbox_refused = 0  # set aside after too many refusals
        self._counts: Counter[ExecutionStatus] = Counter()
        self._recount()

    @classmethod
    def open(cls, state_dir: Path) -> "DaemonDB":
        """Open the store below `state_dir`, making it where there is none.

        Raises `StoreError` where it is damaged, newer than this software, or on a file
        system that cannot hold it; it is never written over.
        """
        place = storefile.prepare(state_dir)
        with _translated(place):
            env = lmdb.open(
                str(place),
                map_size=max(MAP_BYTES, storefile.data_bytes(place)),
                max_dbs=16,
                mode=0o600,
                lib_version=0,  # never by the environment's choice (fact L1)
                max_readers=8,
            )
        try:
            storefile.close_on_exec(place)
            with _translated(place):
                meta = _opened_meta(env, place)
                storefile.mark_initialised(place)
                return cls(env, meta)
        except BaseException:
            env.close()
            raise

    def close(self) -> None:
        self._env.close()

    def check_readers(self) -> None:
        """Forget readers that died: they would pin pages (fact 7)."""
        self._env.reader_check()

    # --- the one way a status changes ---------------------------------------------------

    def commit(
        self, changes: Sequence[Change], *, report: bool, meta: MetaUpdate | None = None
    ) -> Committed:
        """All changes of one turn, each by compare-and-swap, in one transaction.

        A change wins if the stored record has the status and the revision of its
        `before`. With nothing to write there is no transaction. Raises `StoreError`;
        then nothing is changed.
        """
        if not changes and (meta is None or self._updated(meta) == self.meta):
            return Committed((), ())
        done, counts, newer = self._write(lambda txn: self._commit(txn, changes, report, meta))
        self.meta, self._counts = newer, counts
        return done

    def _commit(
        self,
        txn: "lmdb.Transaction",
        changes: Sequence[Change],
        report: bool,
        meta: MetaUpdate | None,
    ) -> tuple[Committed, Counter[ExecutionStatus], Meta]:
        counts, newer = self._counts.copy(), self._updated(meta or MetaUpdate())
        won: list[bool] = []
        events: list[tuple[int, StatusChange]] = []
        for change in changes:
            won.append(self._compare_and_swap(txn, change))
            if not won[-1]:
                log.info("Lost a compare-and-swap on %s", change.after.action.id)
                continue
            if change.before is not None:
                counts[change.before.status] -= 1
            counts[change.after.status] += 1
            if change.run is not None:
                self._put_run(txn, change.after, change.run)
            event = change.status_change()
            if event is not None:
                newer = replace(newer, last_sequence=newer.last_sequence + 1)
                events.append((newer.last_sequence, event))
                newer = self._put_event(txn, newer, event, report)
        txn.put(b"meta", msgspec.msgpack.encode(newer), db=self._meta)
        return Committed(tuple(won), tuple(events)), counts, newer

    def _compare_and_swap(self, txn: "lmdb.Transaction", change: Change) -> bool:
        key = action_key(change.after.action.id)
        stored = self._record(txn, key)
        before, after = change.before, change.after
        if before is None:
            if txn.get(key, db=self._actions) is not None:
                return False
        elif stored is None or (stored.status, stored.revision) != (before.status, before.revision):
            return False
        old_edge = None if stored is None else stored.edge_us
        if old_edge != after.edge_us:
            if old_edge is not None:
                txn.delete(_edge(old_edge, key), db=self._due)
            if after.edge_us is not None:
                txn.put(_edge(after.edge_us, key), b"", db=self._due)
        self._put_record(txn, key, after, stored)
        return True

    def _put_record(
        self, txn: "lmdb.Transaction", key: bytes, record: Record, stored: Record | None
    ) -> None:
        action = record.action
        long = (action.app_names, action.args)
        size = sum(len(name) + 5 for name in action.app_names) + len(action.args)
        if size < DETAILS_BYTES_MIN:
            if stored is not None:
                txn.delete(key, db=self._details)
        else:
            known = (stored.action.app_names, stored.action.args) if stored else _NO_DETAILS
            if known != long:
                txn.put(key, self._long.encode(long), db=self._details)
            record = replace(record, action=replace(action, app_names=(), args=_ELSEWHERE))
        kind = KIND_OF_STATUS[record.status]
        txn.put(key, self._records.encode(record, kind), db=self._actions)

    def _put_run(self, txn: "lmdb.Transaction", record: Record, row: RunRow) -> None:
        key = action_key(record.action.id)
        txn.put(key + _ATTEMPT.pack(row.attempt), self._rows.encode(row), db=self._runs)
        if row.attempt > RUNS_KEPT:
            txn.delete(key + _ATTEMPT.pack(row.attempt - RUNS_KEPT), db=self._runs)

    def _put_event(
        self, txn: "lmdb.Transaction", meta: Meta, event: StatusChange, report: bool
    ) -> Meta:
        """S18: what is to be reported is recorded with what changed."""
        sequence = meta.last_sequence
        txn.put(_SEQUENCE.pack(sequence), self._changes.encode(event), db=self._events)
        if sequence > EVENTS_KEPT:
            txn.delete(_SEQUENCE.pack(sequence - EVENTS_KEPT), db=self._events)
        if not report or event.new is ExecutionStatus.NULL:
            return meta
        row = self._pending.encode(_Pending(event))
        txn.put(_SEQUENCE.pack(sequence), row, db=self._outbox)
        if txn.stat(self._outbox)["entries"] <= OUTBOX_ROWS_MAX:
            return meta
        return self._drop_oldest(txn, meta)

    def _drop_oldest(self, txn: "lmdb.Transaction", meta: Meta) -> Meta:
        """Beyond the bound the oldest report goes: the newest say how it ended."""
        with txn.cursor(self._outbox) as cursor:
            if cursor.first():
                cursor.delete()
        return replace(meta, outbox_dropped=meta.outbox_dropped + 1)

    def _updated(self, update: MetaUpdate) -> Meta:
        new = msgspec.structs.asdict(update)
        return replace(self.meta, **{key: value for key, value in new.items() if value is not None})

    # --- actions ------------------------------------------------------------------------

    def read(self, action_id: str) -> Record | None:
        return self.read_key(action_key(action_id))

    def read_key(self, key: bytes) -> Record | None:
        """The record under a key; None where there is none, or where it is damaged."""
        with self._env.begin() as txn:
            return self._record(txn, key)

    def counts(self) -> Counter[ExecutionStatus]:
        """How many records have each status."""
        return self._counts

    def counts_line(self) -> str:
        """The counts as a line for people."""
        return ", ".join(f"{self._counts[status]} {status.value}" for status in STATUSES)

    def started(self) -> list[Record]:
        """Every STARTED record, by the index of what is not terminal."""
        with self._env.begin() as txn:
            open_count = txn.stat(self._due)["entries"]
            found = [self._record(txn, key) for _, key in self._edges(txn, b"", open_count)]
            return [r for r in found if r is not None and r.status is ExecutionStatus.STARTED]

    def page(
        self, cursor: str, limit: int, statuses: Collection[ExecutionStatus]
    ) -> tuple[list[Record], str]:
        """Records with one of the statuses, in the order of their keys; "" ends and begins.

        At most `limit` of them, and at most fifty times as many looked at.
        """
        records: list[Record] = []
        with self._env.begin() as txn, txn.cursor(self._actions) as at:
            more = at.set_range(bytes.fromhex(cursor)) if cursor else at.first()
            for _ in range(50 * limit):
                if not more:
                    return records, ""
                if len(records) == limit:
                    break
                key, stored = (bytes(part) for part in at.item())
                if status_of(stored) in statuses:
                    record = self._record(txn, key)
                    if record is not None:
                        records.append(record)
                more = at.next()
            return records, bytes(at.key()).hex() if more else ""

    # --- the index of edges -------------------------------------------------------------

    def due(
        self, after: tuple[int, bytes] | None, until_us: int, limit: int
    ) -> list[tuple[int, bytes]]:
        """Edges up to and including `until_us`, behind `after`: (edge, key), earliest first."""
        start = b"" if after is None else _edge(*after) + b"\0"
        with self._env.begin() as txn:
            edges = self._edges(txn, start, limit)
        return [(edge_us, key) for edge_us, key in edges if edge_us <= until_us]

    def next_edge_after(self, instant_us: int) -> int | None:
        """The first edge later than an instant."""
        with self._env.begin() as txn:
            edges = self._edges(txn, _edge(instant_us + 1, b""), 1)
        return edges[0][0] if edges else None

    def open_page(self, cursor: str, limit: int) -> tuple[list[Record], str]:
        """Records that are not terminal, by edge; a record that moves may come twice."""
        with self._env.begin() as txn:
            edges = self._edges(txn, bytes.fromhex(cursor), limit + 1)
            found = [self._record(txn, key) for _, key in edges[:limit]]
        following = _edge(*edges[limit]).hex() if len(edges) > limit else ""
        return [record for record in found if record is not None], following

    # --- runs, events, outbox -----------------------------------------------------------

    def run(self, action_id: str, attempt: int) -> RunRow | None:
        with self._env.begin() as txn:
            stored = txn.get(action_key(action_id) + _ATTEMPT.pack(attempt), db=self._runs)
            return None if stored is None else self._decoded(self._rows, stored, "a run")

    def runs(self, action_id: str, limit: int) -> list[RunRow]:
        """The runs of an action that are kept, newest first."""
        rows: list[RunRow] = []
        prefix = action_key(action_id)
        with self._env.begin() as txn, txn.cursor(self._runs) as at:
            more = at.set_range(prefix)
            while more and bytes(at.key()).startswith(prefix):
                row = self._decoded(self._rows, bytes(at.value()), "a run")
                if row is not None:
                    rows.append(row)
                more = at.next()
        return rows[::-1][:limit]

    def events(self, after: int) -> list[tuple[int, StatusChange]]:
        """The events later than a sequence number, of the last hundred."""
        with self._env.begin() as txn:
            rows = self._scan(txn, self._events, _SEQUENCE.pack(after + 1), EVENTS_KEPT)
        events = (
            (_SEQUENCE.unpack(key)[0], self._decoded(self._changes, value, "an event"))
            for key, value in rows
        )
        return [(sequence, event) for sequence, event in events if event is not None]

    def outbox_pending(self, limit: int) -> list[tuple[int, StatusChange]]:
        """The oldest reports not yet taken and not set aside."""
        found: list[tuple[int, StatusChange]] = []
        start = 0
        with self._env.begin() as txn:
            while len(found) < limit and (rows := self._reports(txn, start, limit)):
                start = rows[-1][0] + 1
                found += [
                    (sequence, row.change)
                    for sequence, row in rows
                    if row is not None and row.refusals < REFUSALS_MAX
                ]
        return found[:limit]

    @property
    def outbox_depth(self) -> int:
        """Reports not taken yet, those set aside not counted."""
        with self._env.begin() as txn:
            return int(txn.stat(self._outbox)["entries"]) - self.outbox_refused

    @property
    def outbox_oldest_us(self) -> int | None:
        pending = self.outbox_pending(1)
        return pending[0][1].at_us if pending else None

    @property
    def outbox_dropped(self) -> int:
        return self.meta.outbox_dropped

    def settle_reports(self, accepted: Collection[int], refused: Collection[int]) -> None:
        """The backend's durable word: what it took is forgotten, what it refused counted."""
        if accepted or refused:
            self.outbox_refused += self._write(lambda txn: self._settle(txn, accepted, refused))

    def _settle(
        self, txn: "lmdb.Transaction", accepted: Collection[int], refused: Collection[int]
    ) -> int:
        set_aside = 0
        for sequence in accepted:
            txn.delete(_SEQUENCE.pack(sequence), db=self._outbox)
        for sequence in refused:
            key = _SEQUENCE.pack(sequence)
            stored = txn.get(key, db=self._outbox)
            row = None if stored is None else self._decoded(self._pending, stored, "a report")
            if row is not None:
                row = replace(row, refusals=row.refusals + 1)
                set_aside += row.refusals == REFUSALS_MAX
                txn.put(key, self._pending.encode(row), db=self._outbox)
        return set_aside

    # --- below --------------------------------------------------------------------------

    def _write(self, work: Callable[["lmdb.Transaction"], Result]) -> Result:
        """One write transaction; a full map grows around the whole of it (fact L14)."""
        while True:
            try:
                with _translated(Path(self._env.path())), self._env.begin(write=True) as txn:
                    return work(txn)
            except storefile.MapFullError as error:
                size = int(self._env.info()["map_size"])
                if size >= MAP_BYTES_MAX:
                    raise StoreError(str(error), fatal=False) from error
                self._env.set_mapsize(min(2 * size, MAP_BYTES_MAX))

    def _record(self, txn: "lmdb.Transaction", key: bytes) -> Record | None:
        stored = txn.get(key, db=self._actions)
        record = None if stored is None else self._decoded(self._records, stored, "an action")
        if record is None or record.action.args != _ELSEWHERE:
            return record
        long = txn.get(key, db=self._details)
        details = None if long is None else self._decoded(self._long, long, "an action")
        if details is None:
            return None
        return replace(record, action=replace(record.action, app_names=details[0], args=details[1]))

    def _decoded(
        self, codec: Codec[Result], stored: bytes | memoryview, what: str
    ) -> Result | None:
        try:
            return codec.decode(bytes(stored))
        except DamagedRecordError as error:
            self.damaged += 1
            log.error("Lost %s: %s", what, error, extra={"event": "damaged-record"})
            return None

    def _scan(
        self, txn: "lmdb.Transaction", table: Any, start: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Rows from `start` on, copied out: nothing may yield inside a transaction (fact L25)."""
        found: list[tuple[bytes, bytes]] = []
        with txn.cursor(table) as at:
            more = at.set_range(start) if start else at.first()
            while more and len(found) < limit:
                key, value = at.item()
                found.append((bytes(key), bytes(value)))
                more = at.next()
        return found

    def _edges(self, txn: "lmdb.Transaction", start: bytes, limit: int) -> list[tuple[int, bytes]]:
        rows = self._scan(txn, self._due, start, limit)
        return [(_SEQUENCE.unpack_from(key)[0], key[_SEQUENCE.size :]) for key, _ in rows]

    def _reports(
        self, txn: "lmdb.Transaction", start: int, limit: int
    ) -> list[tuple[int, _Pending | None]]:
        rows = self._scan(txn, self._outbox, _SEQUENCE.pack(start), limit)
        return [
            (_SEQUENCE.unpack(key)[0], self._decoded(self._pending, value, "a report"))
            for key, value in rows
        ]

    def _recount(self) -> None:
        with self._env.begin() as txn:
            with txn.cursor(self._actions) as at:
                found = Counter(status_of(bytes(v)) for v in at.iternext(keys=False, values=True))
            reports = self._reports(txn, 0, txn.stat(self._outbox)["entries"])
        self.damaged += found.pop(None, 0)
        self._counts = Counter({status: found[status] for status in STATUSES})
        self.outbox_refused = sum(row is None or row.refusals >= REFUSALS_MAX for _, row in reports)


#: Stands in the place of `args` where a record's long configuration is in `details`;
#: no JSON text is like it.
_ELSEWHERE = "\0"


def _edge(edge_us: int, key: bytes) -> bytes:
    return _SEQUENCE.pack(max(0, min(edge_us, 2**63 - 1))) + key


def _opened_meta(env: "lmdb.Environment", place: Path) -> Meta:
    """The store's own word about itself, migrated to this format; new for a new store."""
    table = env.open_db(b"meta")
    with env.begin(write=True) as txn:
        stored = txn.get(b"meta", db=table)
        if stored is None:
            meta = Meta(migrations.FORMAT, secrets.token_hex(8), secrets.token_hex(8))
            txn.put(b"meta", msgspec.msgpack.encode(meta), db=table)
            return meta
        try:
            meta = msgspec.msgpack.decode(stored, type=Meta)
        except msgspec.MsgspecError as error:
            raise StoreError(f"cannot read {place}: its meta row is damaged ({error})") from None
        number = migrations.migrate(txn, meta.format, place)
        if number != meta.format:
            meta = replace(meta, format=number, etag="", digest="", source="")
            txn.put(b"meta", msgspec.msgpack.encode(meta), db=table)
        return meta


@contextlib.contextmanager
def _translated(place: Path) -> Iterator[None]:
    """LMDB's errors as ours, by code and not by class (facts 5, 8, L14 to L16)."""
    try:
        yield
    except lmdb.MapFullError as error:
        raise storefile.MapFullError(f"cannot write {place}: its map is full") from error
    except lmdb.Error as error:
        code = getattr(error, "code", 0)
        full = code in (errno.ENOSPC, errno.EDQUOT) or storefile.is_full(place)
        waits = full or code == errno.EROFS
        reason = "the disk is full" if full else str(error)
        raise StoreError(f"cannot use {place}: {reason}", fatal=not waits) from error
    except OSError as error:
        raise StoreError(f"cannot use {place}: {os.strerror(error.errno or 0)}") from error
