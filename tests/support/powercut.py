"""A disk whose power can be cut, somebody who writes to it, and what must be left then.

The cut is ext4's own: from one instant on nothing that the kernel still holds reaches the
disk, its journal included. What it cannot show is a drive that forgets what it has said to
have written.
"""

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple, Self

import msgspec
import pytest
from geosched.ipc.actions import ExecutionStatus
from geosched.supervisor.core.lifecycle import decide
from geosched.supervisor.core.model import (
    Absent,
    Change,
    Due,
    Event,
    Null,
    Record,
    RunEnded,
    Running,
    RunRow,
    Sent,
)
from geosched.supervisor.store.daemondb import DaemonDB, MetaUpdate
from geosched.supervisor.store.tables.codec import Codec, action_key, number_of
from geosched.supervisor.store.tables.history import EVENTS_KEPT
from geosched.supervisor.store.tables.outbox import Pending
from msgspec.structs import replace

from .build import NOW, RULES, result
from .mounts import call, ext4, undo
from .paths import TESTS
from .store import LONG_NAMES, contents, seen
from .wait import wait_for

#: EXT4_IOC_SHUTDOWN, and of its flags the one that does not write the journal out first.
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
_RUNS = Codec(RunRow)
_PENDING = Codec(Pending)


class Disk:
    """An ext4 in a file, mounted at `place` for as long as the power is on."""

    def __init__(self, image: Path, place: Path) -> None:
        self._image = image
        self.place = place

    def cut(self) -> None:
        descriptor = os.open(self.place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def power_on(self) -> None:
        """Mount again what is left; nobody may have a file open any more."""
        undo("umount", self.place)
        # A mount of the same device, before it is let go of, would find the dead file system.
        wait_for(lambda: not self._attached(), seconds=30, what=f"{self._image} to be let go of")
        undo("mount", "-o", "loop", self._image, self.place)

    def _attached(self) -> bool:
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                if backing.read_text().strip() == str(self._image):
                    return True
            except OSError:
                continue  # it was let go of meanwhile
        return False


@contextmanager
def disk(root: Path, size: int) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("the power of a disk is cut by root only")
    image, place = ext4(root / "disk", size), root / "mounted"
    place.mkdir(exist_ok=True)
    call("mount", "-o", "loop", image, place)
    try:
        yield Disk(image, place)
    finally:
        undo("umount", "--lazy", place)
        image.unlink()


# --- what must be there -----------------------------------------------------------------


class Written(NamedTuple):
    """A record as it was written: enough to know it again."""

    status: str
    revision: int
    crc: int


class Wrote(msgspec.Struct, frozen=True):
    """One change of a turn, in the words of the one who made it."""

    action_id: str
    was: str
    now: Written
    attempt: int
    run_crc: int | None


class Turn(msgspec.Struct, frozen=True):
    """One transaction; `said_ns` is when it was announced, by the monotonic clock."""

    number: int
    said_ns: int
    mark: int = 0
    changes: list[Wrote] = []
    settled: list[int] = []


@dataclass
class Known:
    """What a store holds, or has to hold. Reports and events by sequence number."""

    mark: int = 0
    last: int = 0
    records: dict[str, Written] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    events: dict[int, tuple[str, str]] = field(default_factory=dict)
    outbox: dict[int, tuple[str, str]] = field(default_factory=dict)

    def and_then(self, turn: Turn) -> "Known":
        known = Known(
            self.mark,
            self.last,
            self.records.copy(),
            self.runs.copy(),
            self.events.copy(),
            self.outbox.copy(),
        )
        known.take(turn)
        return known

    def take(self, turn: Turn) -> None:
        """What is there once the transaction of a turn is."""
        self.mark = turn.mark or self.mark
        for change in turn.changes:
            self.records[change.action_id] = change.now
            if change.run_crc is not None:
                self.runs[_run_name(action_key(change.action_id), change.attempt)] = change.run_crc
            if change.was != change.now.status:
                self.last += 1
                self.events[self.last] = self.outbox[self.last] = (
                    change.action_id,
                    change.now.status,
                )
                self.events.pop(self.last - EVENTS_KEPT, None)
        for sequence in turn.settled:
            del self.outbox[sequence]

    @classmethod
    def of(cls, db: DaemonDB) -> "Known":
        """What is there."""
        rows = contents(db._env)
        known = cls(mark=db.meta.clock_mark_us, last=db._known.last_sequence)
        known.records = {record.action.id: written(record) for record in all_records(db)}
        for key, value in rows["runs"].items():
            known.runs[_run_name(key[:-4], int.from_bytes(key[-4:]))] = crc(_RUNS.decode(value))
        for sequence, change in db.events(0):
            known.events[sequence] = (change.action_id, change.new.value)
        for key, value in rows["outbox"].items():
            report = _PENDING.decode(value).change
            known.outbox[number_of(key)] = (report.action_id, report.new.value)
        return known

    def unlike(self, found: "Known") -> list[str]:
        """What of this a store does not have, has otherwise, or has besides."""
        told = []
        for name in ("records", "runs", "events", "outbox"):
            mine, there = getattr(self, name), getattr(found, name)
            told += [
                f"{name} {key}: {mine.get(key)} is {there.get(key)}"
                for key in mine | there
                if mine.get(key) != there.get(key)
            ]
        return told


def all_records(db: DaemonDB) -> Iterator[Record]:
    cursor = ""
    while True:
        records, cursor = db.page(cursor, 1000, frozenset(ExecutionStatus))
        yield from records
        if not cursor:
            return


def inconsistencies(db: DaemonDB) -> list[str]:
    """Where what is derived from the records is not what the records say."""
    records = list(all_records(db))
    counts = Counter(record.status for record in records)
    edges = sorted(
        (record.edge_us, action_key(record.action.id))
        for record in records
        if record.edge_us is not None
    )
    found = []
    if +db.counts() != counts:
        found.append(f"counts: {db.counts()} of {counts}")
    if db.due(None, 2**63 - 1, 10**6) != edges:
        found.append("the index of edges")
    if db.damaged:
        found.append(f"{db.damaged} damaged values")
    return found


def written(record: Record) -> Written:
    return Written(record.status.value, record.revision, crc(record))


def crc(value: msgspec.Struct) -> int:
    return zlib.crc32(msgspec.msgpack.encode(value))


def _run_name(key: bytes, attempt: int) -> str:
    return f"{key.hex()}-{attempt}"


# --- who writes -------------------------------------------------------------------------


class Writer:
    """A process that commits turn after turn: it announces each, and acknowledges it once
    `commit` has returned."""

    def __init__(self, state_dir: Path, seed: int, log: Path) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.powercut", state_dir, str(seed)],
                cwd=TESTS,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        self._text = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._pipe.close()

    def read_until(self, line: bytes, *, seconds: float = 20) -> None:
        """Until it has written a line that begins like that."""

        def reached() -> bool:
            alive = self._read(0.05)
            there = self._text.startswith(line) or b"\n" + line in self._text
            assert alive or there, self._log.read_text()
            return there

        wait_for(reached, seconds=seconds, what=f"{line!r} of the one who writes")

    def read_for(self, seconds: float) -> None:
        """It must not end meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            assert self._read(left), self._log.read_text()

    def read_until_in_flight(self) -> None:
        """Until what it said last is a turn that it has not acknowledged."""
        while True:
            last = self._text[self._text.rfind(b"\n", 0, -1) + 1 :]
            if last.startswith(b"turn") and last.endswith(b"\n"):
                return
            assert self._read(5), self._log.read_text()

    def _read(self, seconds: float) -> bool:
        """False at the end of what it writes."""
        if not select.select([self._pipe], [], [], seconds)[0]:
            return True
        text = os.read(self._pipe.fileno(), 65536)
        self._text += text
        return bool(text)

    def kill(self) -> None:
        self._process.kill()
        while self._read(10):
            pass
        self._process.wait(10)

    def turns(self) -> tuple[list[Turn], list[Turn]]:
        """Those that were acknowledged, and those that were announced only: at most one."""
        whole = self._text[: self._text.rfind(b"\n") + 1].splitlines()
        said = [line.partition(b" ") for line in whole]
        turns = [msgspec.json.decode(text, type=Turn) for word, _, text in said if word == b"turn"]
        done = {int(text) for word, _, text in said if word == b"done"}
        return [t for t in turns if t.number in done], [t for t in turns if t.number not in done]


def write(state_dir: Path, seed: int) -> None:
    """What the process of a `Writer` does, until it is stopped."""
    random = Random(seed)
    say("opening")
    db = DaemonDB.open(state_dir)
    still_open = {record.action.id: record for record in all_records(db) if _is_open(record)}
    number = 0
    while True:
        number += 1
        if number % 8 == 0:
            settled = [sequence for sequence, _ in db.outbox_pending(random.randint(1, 60))]
            announce(Turn(number, time.monotonic_ns(), settled=settled))
            db.settle_reports(settled, [])
        else:
            changes = turn_of(random, f"{seed}-{number}", still_open)
            mark = random.randrange(1, 2**40)
            wrote = [_wrote(change) for change in changes]
            announce(Turn(number, time.monotonic_ns(), mark, wrote))
            committed = db.commit(changes, report=True, meta=MetaUpdate(clock_mark_us=mark))
            assert all(committed.won)
        say(f"done {number}")


def turn_of(random: Random, name: str, still_open: dict[str, Record]) -> list[Change]:
    """Changes as a turn of the daemon makes them; at most one of each action."""
    changes: list[Change] = []
    for n in range(random.choice((1, 1, 1, 1, 2, 5, 20))):
        if still_open and random.random() < 0.7:
            before = still_open.pop(random.choice(list(still_open)))
            change = decide(before, event_for(random, before), NOW, RULES)
            assert change is not None
        else:
            names = random.choice((("Chrome",), ("Chrome", "Steam"), LONG_NAMES))
            change = seen(f"{name}-{n}", app_names=names)
        changes.append(change)
    for change in changes:
        if _is_open(change.after):
            still_open[change.after.action.id] = change.after
    return changes


def event_for(random: Random, record: Record) -> Event:
    match record.state:
        case Null() if random.random() < 0.8:
            return Due(slot_free=True, worker_free=True)
        case Running(run) if run.stop is not None or random.random() < 0.6:
            exit_code = random.choice((0, 1))
            return RunEnded(result(run_id=run.run_id, exit_code=exit_code))
        case Running() if random.random() < 0.5:
            return Sent(replace(record.action, app_names=(*record.action.app_names, "another")))
        case _:
            return Absent()


def _is_open(record: Record) -> bool:
    return not record.status.terminal


def _wrote(change: Change) -> Wrote:
    was = ExecutionStatus.NULL if change.before is None else change.before.status
    row = None if change.run is None else crc(change.run)
    after = change.after
    return Wrote(after.action.id, was.value, written(after), after.attempt, row)


def announce(turn: Turn) -> None:
    say(f"turn {msgspec.json.encode(turn).decode()}")


def say(line: str) -> None:
    """At once, and by one call: what is not written to its end was not said."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
