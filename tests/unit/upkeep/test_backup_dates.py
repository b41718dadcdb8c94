"""The date of a backup, which the file system tells and anybody may have set."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from geosched.supervisor.config.sections import DaemonSettings
from geosched.supervisor.upkeep.backup import Backup

YEAR_SECONDS = 365 * 86_400


@pytest.fixture
def data() -> Iterator[Path]:
    """The file of a backup, in memory: there a date may be any."""
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as state_dir:
        made = Path(state_dir) / "backups/1/data.mdb"
        made.parent.mkdir(parents=True)
        made.touch()
        yield made


def newest_us(data: Path) -> int | None:
    settings = DaemonSettings(state_dir=data.parents[2])
    return Backup(SimpleNamespace(), SimpleNamespace(), settings).last_us


def test_the_date_is_that_of_the_newest_file(data: Path):
    os.utime(data, (50 * YEAR_SECONDS, 50 * YEAR_SECONDS))
    assert newest_us(data) == 50 * YEAR_SECONDS * 1_000_000


@pytest.mark.parametrize("year", [20_000, -3_000])
def test_a_date_that_no_calendar_has_is_none(data: Path, year: int):
    seconds = (year - 1970) * YEAR_SECONDS
    os.utime(data, (seconds, seconds))
    if data.stat().st_mtime != seconds:
        pytest.skip("this file system has no such date")
    assert newest_us(data) is None
