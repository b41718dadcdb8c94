"""What daemonDB costs: run it directly, with a directory on the disk to be measured.

    python tests/benchmarks/bench_daemondb.py [DIRECTORY]

Prints CPU and wall-clock times of this process. Commits wait for the disk, so on flash the
second is a multiple of the first.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from geosched.ipc.actions import Action
from geosched.ipc.instants import SECOND_US
from geosched.supervisor.core.lifecycle import Rules, decide, first_seen
from geosched.supervisor.core.model import Change, Due, Instant
from geosched.supervisor.core.reconcile import reconcile_sent
from geosched.supervisor.daemondb import DaemonDB, MetaUpdate

ACTIONS = 10_000
SLICE = 200
HOUR_US = 3600 * SECOND_US
NOW = Instant(1_795_420_800 * SECOND_US)
RULES = Rules("0123456789abcdef")


def actions() -> list[Action]:
    return [
        Action(
            f"6f1c{number:08}-action",
            NOW.wall_us + number * SECOND_US,
            NOW.wall_us + number * SECOND_US + HOUR_US,
            True,
            ("Chrome", "Facebook", "Steam"),
            "block",
            '{"strict":true}',
        )
        for number in range(ACTIONS)
    ]


def measured(what: str, count: int, work: Callable[[], object]) -> None:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    each = cpu / count * 1e6
    print(f"{what:<46} {cpu * 1e3:8.1f} ms CPU {wall * 1e3:8.1f} ms wall {each:8.1f} us each")


def commit(db: DaemonDB, changes: Iterable[Change]) -> None:
    every = list(changes)
    for start in range(0, len(every), SLICE):
        db.commit(every[start : start + SLICE], report=True, meta=MetaUpdate(clock_mark_us=start))


def started(db: DaemonDB, entries: list[Action]) -> Iterable[Change]:
    later = Instant(NOW.wall_us + HOUR_US // 2)
    for entry in entries:
        record = db.read(entry.id)
        change = decide(record, Due(slot_free=True), later, RULES) if record else None
        if change is not None:
            yield change


def compare(db: DaemonDB, entries: list[Action]) -> None:
    for entry in entries:
        assert reconcile_sent(db.read(entry.id), entry, NOW, RULES)[1] is None


def single(db: DaemonDB, changes: list[Change]) -> None:
    for change in changes:
        db.commit([change], report=True)


def main(directory: str | None) -> None:
    entries = actions()
    with tempfile.TemporaryDirectory(dir=directory) as place:
        state_dir = Path(place) / "state"
        db = DaemonDB.open(state_dir)
        new = [first_seen(entry, NOW, RULES) for entry in entries]
        measured(f"store {ACTIONS} new actions, {SLICE} a turn", ACTIONS, lambda: commit(db, new))
        measured(f"compare {ACTIONS} unchanged ones", ACTIONS, lambda: compare(db, entries))
        changes = list(started(db, entries[:1000]))
        measured("start 100 actions, one a turn", 100, lambda: single(db, changes[:100]))
        measured("start 900 actions, 200 a turn", 900, lambda: commit(db, changes[100:]))
        measured("look for what is due, 1000 times", 1000, lambda: ask_for_due(db))
        db.close()
        data = state_dir / "daemondb" / "data.mdb"
        print(f"{'size of the file':<46} {data.stat().st_size / 1024**2:8.1f} MiB")
        measured(f"open with {ACTIONS} actions", 1, lambda: DaemonDB.open(state_dir).close())


def ask_for_due(db: DaemonDB) -> None:
    for _ in range(1000):
        db.due(None, NOW.wall_us, 500)
        db.next_edge_after(NOW.wall_us)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
