"""daemonDB where the power goes: a real file system, cut off while commits are in flight.

`GEOSCHED_POWER_CUTS=100` cuts more often than a suite has time for, and
`GEOSCHED_POWER_CUTS_SEED` takes the steps of another run again; how far the one who writes
had come when the power went, no seed repeats.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from geosched.supervisor.store import py_lmdb
from geosched.supervisor.store.daemondb import DaemonDB
from support.powercut import Disk, Known, Turn, Writer, disk, inconsistencies

CUTS = int(os.environ.get("GEOSCHED_POWER_CUTS", "12"))
SEED = int(os.environ.get("GEOSCHED_POWER_CUTS_SEED") or secrets.randbelow(10**6))
DISK_BYTES = 256 * 1024**2
SMALL_DISK_BYTES = 24 * 1024**2
#: How long the one who writes is let alone, at most, before the power goes.
LIFE_SECONDS_MAX = 0.6
#: About what one commit takes here: the power goes at any instant of it.
COMMIT_SECONDS = 0.0006
#: The opening of a new store, from its first step to some commits behind its last one.
OPENING_SECONDS = 0.01

pytestmark = [pytest.mark.timeout(60 + 5 * CUTS), pytest.mark.alone]


@dataclass
class Tally:
    cuts: int = 0
    idle_cuts: int = 0  # the power went between two commits: checked, but not counted
    acknowledged: int = 0
    changes: int = 0  # in what was acknowledged, settled reports included
    arrived: int = 0  # transactions that were in flight, and were there afterwards

    def __str__(self) -> str:
        return (
            f"power cuts: {self.cuts} with a commit in flight, {self.idle_cuts} others; "
            f"{self.changes} changes in {self.acknowledged} transactions acknowledged, 0 lost; "
            f"{self.arrived} transactions in flight arrived"
        )


@contextmanager
def reopened(state_dir: Path) -> Iterator[DaemonDB]:
    """The store as a daemon finds it when the power is back, with all the checks of it."""
    assert not py_lmdb.verify(state_dir / "daemondb")
    db = DaemonDB.open(state_dir)
    try:
        assert not inconsistencies(db)
        yield db
    finally:
        db.close()


def cut(disk: Disk, writer: Writer) -> int:
    """The instant of the cut, by the monotonic clock."""
    at_ns = time.monotonic_ns()
    disk.cut()
    writer.kill()
    disk.power_on()
    return at_ns


def after(known: Known, turns: list[Turn]) -> Known:
    for turn in turns:
        known = known.and_then(turn)
    return known


def test_a_power_cut_takes_nothing_that_was_acknowledged_and_leaves_nothing_by_halves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """One store lives through all of the cuts. What is found after each is exactly what was
    acknowledged, or that and all of the one transaction that was in flight."""
    random, tally, known = Random(SEED), Tally(), Known()
    begun = time.monotonic()
    with disk(tmp_path, DISK_BYTES) as power:
        state_dir = power.place / "state"
        while tally.cuts < CUTS:
            with Writer(state_dir, random.randrange(10**9), tmp_path / "log") as writer:
                writer.read_until(b"done")
                writer.read_for(random.uniform(0, LIFE_SECONDS_MAX))
                writer.read_until_in_flight()
                writer.read_for(random.uniform(0, COMMIT_SECONDS))
                at_ns = cut(power, writer)
                acknowledged, announced = writer.turns()
            with reopened(state_dir) as db:
                found = Known.of(db)
            for turn in acknowledged:
                known.take(turn)
            with_the_last = after(known, announced)
            sound = found in (known, with_the_last)
            assert sound, f"seed {SEED}, cut {tally.cuts}: {known.unlike(found)[:20]}"
            in_flight = any(turn.said_ns < at_ns for turn in announced)
            tally.cuts += in_flight
            tally.idle_cuts += not in_flight
            tally.acknowledged += len(acknowledged)
            tally.changes += sum(len(turn.changes) + len(turn.settled) for turn in acknowledged)
            tally.arrived += found == with_the_last != known
            assert tally.idle_cuts <= CUTS + 10, "the power hardly ever goes during a commit"
            known = found
    with capsys.disabled():
        print(f"\n{tally}; seed {SEED}, {time.monotonic() - begun:.0f} s", flush=True)


def test_a_power_cut_in_the_very_first_start_is_no_loss(tmp_path: Path):
    """Wherever it comes: the next start has its store, or makes it as if nothing had been."""
    for n in range(CUTS):
        with disk(tmp_path, SMALL_DISK_BYTES) as power:
            state_dir = power.place / "state"
            with Writer(state_dir, n, tmp_path / "log") as writer:
                writer.read_until(b"opening")
                writer.read_for(OPENING_SECONDS * n / CUTS)
                cut(power, writer)
                acknowledged, announced = writer.turns()
            DaemonDB.open(state_dir).close()
            with reopened(state_dir) as db:
                found = Known.of(db)
            known = after(Known(), acknowledged)
            sound = found in (known, after(known, announced))
            assert sound, f"cut {n}: {known.unlike(found)[:20]}"
