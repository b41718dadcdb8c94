"""What the flash of a device is worn by: bytes that reach the disk, counted by the kernel.

    python tests/benchmarks/bench_flash.py [--json FILE] [--idle-seconds 60] [--actions 10000]

Needs root: it makes an ext4 of its own on a loop device, in a temporary directory. Counted
is what the block device was given to write, whoever gave it: LMDB's pages, and what ext4
writes for itself. What a drive writes besides, because its blocks are large, is not seen.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from block_device import Device, Written, device, why_not
from figures import Figure, machine
from geosched.ipc.actions import Action
from geosched.ipc.instants import SECOND_US
from geosched.ipc.messages.runs import EndCause, RunResult
from geosched.supervisor.core.lifecycle import Rules, decide, first_seen
from geosched.supervisor.core.model import Change, Due, Event, Instant, RunEnded, Running
from geosched.supervisor.store.daemondb import DaemonDB, MetaUpdate
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for

SINGLE = 200
BATCH = 100
RUNS = 10
HOUR_SECONDS = 3600
HOUR_US = HOUR_SECONDS * SECOND_US
NOW_US = 1_795_420_800 * SECOND_US
RULES = Rules("0123456789abcdef")


# --- of daemonDB alone ------------------------------------------------------------------


def bench_changes(device: Device, count: int) -> Iterator[Figure]:
    """In a store of so many actions, each with the configuration of a usual one."""
    db = DaemonDB.open(device.place / "changes")
    try:
        new = [first_seen(action(number), Instant(NOW_US - 1), RULES) for number in range(count)]
        for start in range(0, count, 200):
            commit(db, new[start : start + 200])
        # Not one beside the other: they lie on as many pages as they do in real life.
        ids = [change.after.action.id for change in new[:: max(1, count // (SINGLE + BATCH))]]
        alone, together = ids[:SINGLE], ids[SINGLE : SINGLE + BATCH]
        yield from alone_figures(device, db, "a start", alone, lambda _: Due(slot_free=True))
        yield from alone_figures(device, db, "an end", alone, lambda each: ended(db, each))
        yield from settle_figures(device, db)
        yield from batch_figures(device, db, "starts", together, lambda _: Due(slot_free=True))
        yield from batch_figures(device, db, "ends", together, lambda each: ended(db, each))
    finally:
        db.close()


def alone_figures(
    device: Device, db: DaemonDB, what: str, ids: list[str], event: Callable[[str], Event]
) -> Iterator[Figure]:
    at_once, later = [], []
    for each in ids:
        change = decided(db, each, event(each))
        before = device.settled()
        commit(db, [change])
        at_once.append(device.written() - before)
        later.append(device.settled() - before)
    yield from median_and_mean(f"{what} committed alone", at_once)
    flushes = statistics.median(each.flushes for each in at_once)
    yield Figure(f"  flushes, median of {len(ids)}", flushes, "")
    yield from median_and_mean("  with what ext4 writes later", later)


def settle_figures(device: Device, db: DaemonDB) -> Iterator[Figure]:
    at_once = []
    for sequence, _ in db.outbox_pending(SINGLE // 2):
        before = device.settled()
        db.settle_reports([sequence], [])
        at_once.append(device.written() - before)
    yield from median_and_mean("a report that was taken, forgotten alone", at_once)


def batch_figures(
    device: Device, db: DaemonDB, what: str, ids: list[str], event: Callable[[str], Event]
) -> Iterator[Figure]:
    changes = [decided(db, each, event(each)) for each in ids]
    before = device.settled()
    commit(db, changes)
    at_once, later = device.written() - before, device.settled() - before
    each = at_once.bytes / len(ids)
    yield Figure(f"{len(ids)} {what} in one commit, each", each / 1000, "kB")
    yield Figure("  flushes of all of them", at_once.flushes, "")
    each = later.bytes / len(ids)
    yield Figure("  each, with what ext4 writes later", each / 1000, "kB")


def median_and_mean(name: str, written: list[Written]) -> Iterator[Figure]:
    sizes = [each.bytes / 1000 for each in written]
    yield Figure(f"{name}, median of {len(sizes)}", statistics.median(sizes), "kB")
    yield Figure("  mean", statistics.fmean(sizes), "kB")


def action(number: int) -> Action:
    start_us = NOW_US - 1 + number % 2
    names = ("Chrome", "Facebook", "Steam")
    return Action(
        f"6f1c{number:08}-action",
        start_us,
        start_us + HOUR_US,
        True,
        names,
        "block",
        '{"strict":true}',
    )


def decided(db: DaemonDB, action_id: str, event: Event) -> Change:
    record = db.read(action_id)
    assert record is not None
    change = decide(record, event, Instant(NOW_US + SECOND_US), RULES)
    assert change is not None
    assert change.changes_status
    return change


def ended(db: DaemonDB, action_id: str) -> RunEnded:
    record = db.read(action_id)
    assert record is not None
    assert isinstance(record.state, Running)
    run_id = record.state.run.run_id
    return RunEnded(RunResult(run_id, EndCause.EXITED, NOW_US + 2 * SECOND_US, exit_code=0))


def commit(db: DaemonDB, changes: list[Change]) -> None:
    """As a turn of the daemon does: the time that was seen is written with it."""
    mark = MetaUpdate(clock_mark_us=db.meta.clock_mark_us + SECOND_US)
    assert all(db.commit(changes, report=True, meta=mark).won)


# --- of a whole daemon ------------------------------------------------------------------


def bench_daemon(device: Device, count: int, idle_seconds: float) -> Iterator[Figure]:
    """Its `state_dir` is on the device; what it logs and what it holds while it runs is not."""
    state = device.place / "state"
    with daemon_installation() as daemon:
        daemon.configure(
            scripts={"default": {"command": ["/bin/true"]}},
            backend={"poll_interval": "60s"},
            state_dir=str(state),
        )
        daemon.start()
        count -= RUNS  # a backend may send ten thousand, and no more
        waiting = [entry(f"waits-{n:05}", 86_400 + n, 90_000 + n) for n in range(count)]
        before = device.settled()
        daemon.send(waiting)
        daemon.json("sync")
        wait_for(lambda: daemon.json("status")["counts"]["NULL"] == count, seconds=60)
        pulled = device.settled() - before
        yield Figure(f"{count} new actions pulled and stored, each", pulled.bytes / count, "B")
        yield from run_figures(device, daemon, waiting)
        yield from idle_figures(device, daemon, count, idle_seconds)
        assert daemon.terminate() == 0


def run_figures(device: Device, daemon: Daemon, sent: list[dict[str, object]]) -> Iterator[Figure]:
    """From the backend's change until it has taken the last report, one action at a time."""
    written = []
    for n in range(RUNS):
        before = device.settled()
        sent.append(entry(f"runs-{n}", -1, HOUR_SECONDS))
        daemon.send(sent)
        daemon.json("sync")
        daemon.wait_status(f"runs-{n}", "FINISHED")
        wait_for(lambda: not daemon.json("status")["outbox"]["depth"], what="the reports taken")
        written.append(device.settled() - before)
    yield from median_and_mean("an action: pulled, run, ended, reported", written)
    flushes = statistics.median(each.flushes for each in written)
    yield Figure(f"  flushes, median of {RUNS}", flushes, "")


def idle_figures(
    device: Device, daemon: Daemon, count: int, idle_seconds: float
) -> Iterator[Figure]:
    logged = bytes_beside(daemon)
    idle = over(device, idle_seconds)
    logged = bytes_beside(daemon) - logged
    hours = idle_seconds / HOUR_SECONDS
    yield Figure(f"an idle hour, {count} waiting: daemonDB", idle.bytes / hours / 1000, "kB")
    yield Figure("  flushes", idle.flushes / hours, "")
    yield Figure("  its logs and other files grow by", logged / hours / 1000, "kB")


def bench_baseline(device: Device, idle_seconds: float) -> Iterator[Figure]:
    """The same file system while nobody uses it."""
    idle = over(device, idle_seconds)
    hours = idle_seconds / HOUR_SECONDS
    yield Figure("an idle hour of the file system alone", idle.bytes / hours / 1000, "kB")
    yield Figure("  flushes", idle.flushes / hours, "")


def over(device: Device, seconds: float) -> Written:
    """So long a time, which is the figure itself and no wait for anything."""
    before = device.settled()
    time.sleep(seconds)
    flushes = device.written().flushes  # to settle is one more, and ours
    return Written(device.settled().bytes, flushes) - before


def bytes_beside(daemon: Daemon) -> int:
    """The files of an installation that are not on the device."""
    total = 0
    for directory, _, names in os.walk(daemon.root):
        for name in names:
            path = Path(directory, name)
            if path.is_file():
                total += path.stat().st_size
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--actions", type=int, default=10_000, help="how many wait")
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    chosen = parser.parse_args()
    if reason := why_not():
        print(f"nothing measured: {reason}")
        return

    host = machine()
    print(", ".join(f"{key} {value}" for key, value in host.items()))
    print(
        f"counted on a loop device with ext4; an idle hour is {chosen.idle_seconds:g} s, scaled: "
        "a backend that is\nasked every minute and has nothing new is in it, the mark of the "
        "clock, one commit a day, is not",
        flush=True,
    )
    print(f"\n{'figure':<58} {'value':>9} {'':<5} {'goal':>9}")
    figures: list[Figure] = []
    with device() as disk:
        for bench in (
            bench_baseline(disk, chosen.idle_seconds),
            bench_changes(disk, chosen.actions),
            bench_daemon(disk, chosen.actions, chosen.idle_seconds),
        ):
            for figure in bench:
                figures.append(figure)
                print(figure, flush=True)
    if chosen.json is not None:
        rows = [asdict(figure) | {"met": figure.met} for figure in figures]
        measured = {"idleSeconds": chosen.idle_seconds, "actions": chosen.actions}
        document = {"schemaVersion": 1, "host": host, "measured": measured, "figures": rows}
        chosen.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
