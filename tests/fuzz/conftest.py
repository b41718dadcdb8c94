"""Numbers of a fuzzing run, and its figures in the summary: `make fuzz INPUTS=1000000 SEED=1`."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

#: For each decoder of bytes; the slower kinds of test take a share of it.
INPUTS = int(os.environ.get("GEOSCHED_FUZZ_INPUTS") or 4000)
#: For those of hypothesis, and for each way to a daemon.
SHAPES_INPUTS = max(1, INPUTS // 10)
SEED = int(os.environ.get("GEOSCHED_FUZZ_SEED") or 1)


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A directory in memory, where the host has one: a million files must not wear a disk."""
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="gs-", dir=place) as made:
        yield Path(made)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("passed")
    figures = [
        line for report in reports for name, line in report.user_properties if name == "fuzz"
    ]
    if figures:
        terminalreporter.section(f"fuzzed, seed {SEED}")
        for line in figures:
            terminalreporter.line(str(line))
