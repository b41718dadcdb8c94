"""What daemonDB costs: run it directly, with a directory on the disk to be measured.

    python tests/benchmarks/bench_daemondb.py [DIRECTORY] [--actions N]

Prints CPU and wall-clock times of this process. Commits wait for the disk, so on flash the
second is a multiple of the first.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from geosched.ipc.actions import Action
from geosched.ipc.instants import SECOND_US
from geosched.supervisor.core.lifecycle import Rules, decide, first_seen
from geosched.supervisor.core.model import Change, Due, Instant
from geosched.supervisor.core.reconcile import reconcile_sent
from geosched.supervisor.store.daemondb import DaemonDB, MetaUpdate
from geosched.supervisor.store.open import open_store
from geosched.supervisor.store.tables.codec import action_key
from geosched.supervisor.sync.apply import ENTRIES_PER_TURN_MAX

#: What of a large snapshot is stored in a turn, in the order of the keys.
SLICE = ENTRIES_PER_TURN_MAX
MAP_BYTES = 1024**3
HOUR_US = 3600 * SECOND_US
NOW = Instant(1_795_420_800 * SECOND_US)
RULES = Rules("0123456789abcdef")


def actions(count: int) -> list[Action]:
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
        for number in range(count)
    ]


def measured(what: str, count: int, work: Callable[[], object]) -> None:
    cpu, wall = cpu_seconds(), time.perf_counter()
    work()
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    each = cpu / count * 1e6
    print(f"{what:<46} {cpu * 1e3:8.1f} ms CPU {wall * 1e3:8.1f} ms wall {each:8.1f} us each")


def cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


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


def opened(state_dir: Path) -> DaemonDB:
    return open_store(state_dir, now_us=NOW.wall_us, map_bytes=MAP_BYTES)


def main(directory: str | None, count: int) -> None:
    entries = actions(count)
    with tempfile.TemporaryDirectory(dir=directory) as place:
        state_dir = Path(place) / "state"
        db = opened(state_dir)
        in_order = sorted(entries, key=lambda entry: action_key(entry.id))
        new = [first_seen(entry, NOW, RULES) for entry in in_order]
        measured(f"store {count} new actions, {SLICE} a turn", count, lambda: commit(db, new))
        measured(f"compare {count} unchanged ones", count, lambda: compare(db, entries))
        changes = list(started(db, entries[:1000]))
        measured("start 100 actions, one a turn", 100, lambda: single(db, changes[:100]))
        measured("start 900 actions, in one turn", 900, lambda: commit(db, changes[100:]))
        measured("look for what is due, 1000 times", 1000, lambda: ask_for_due(db))
        print(f"{'used of the map':<46} {db.room().used_bytes / 1024**2:8.1f} MiB")
        db.close()
        for _ in range(3):
            what = f"verify and open with {count} actions"
            measured(what, 1, lambda: opened(state_dir).close())


def ask_for_due(db: DaemonDB) -> None:
    for _ in range(1000):
        db.due(None, NOW.wall_us, 500)
        db.next_edge_after(NOW.wall_us)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", nargs="?", help="on the disk to be measured")
    parser.add_argument("--actions", type=int, default=100_000)
    chosen = parser.parse_args()
    main(chosen.directory, chosen.actions)
