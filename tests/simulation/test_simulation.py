"""Fifty simulated years, or as many as are asked for: `make simulate SEEDS=1000`.

Each is of one seed, and the same seed is the same year: a failure tells which, and what
came last. `make simulate SEEDS=1 FIRST=1234` lives that year again.
"""

import os
import shutil
from pathlib import Path

import pytest

from .simulation import Figures, simulate

SEEDS = int(os.environ.get("GEOSCHED_SIMULATION_SEEDS") or 50)
FIRST = int(os.environ.get("GEOSCHED_SIMULATION_FIRST") or 1)
SECONDS_PER_SEED_MAX = 10


def year_of(seed: int, directory: Path) -> Figures:
    place = directory / str(seed)
    place.mkdir()
    figures = simulate(seed, place)
    shutil.rmtree(place)
    return figures


@pytest.mark.timeout(60 + SEEDS * SECONDS_PER_SEED_MAX)
def test_whatever_happens_in_a_year_every_rule_holds_after_every_step(
    directory: Path, capsys: pytest.CaptureFixture[str]
):
    total = Figures()
    for seed in range(FIRST, FIRST + SEEDS):
        total += year_of(seed, directory)
    with capsys.disabled():
        print(
            f"\nsimulation: seeds {FIRST} to {FIRST + SEEDS - 1}: {total.turns} turns of the loop, "
            f"{total.happened} things that happened, {total.changes} changes of records, "
            f"{total.lives} lives of the daemon"
        )
        if SEEDS > 50:
            print(f"simulation: {dict(total.troubles)}, {dict(total.statuses)}")
    # A year that holds too little has shown nothing.
    assert min(total.troubles.values()) >= SEEDS
    assert min(total.statuses.values()) >= SEEDS


def test_the_same_seed_is_the_same_year(directory: Path):
    first, second = (year_of(7, directory) for _ in range(2))
    assert first == second
