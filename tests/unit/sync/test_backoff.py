"""How long a failing backend is left alone, and what of it outlives the daemon."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.messages.sync import RETRY_AFTER_SECONDS_MAX
from geosched.supervisor.core.model import Instant
from geosched.supervisor.sync.backoff import FAILURES_MAX, RETRY_CAP_SECONDS, Backoff
from geosched.workers.host.procfs import boot_id

BACKEND = "http https://backend.example/api"
BOOT_SECONDS = 5_000.0


def at(boot_seconds: float) -> Instant:
    """An instant of the boot clock; the other clocks have nothing to do with it."""
    return Instant(0, 1.0, boot_seconds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backoff.json"


def started(path: Path, boot_seconds: float = BOOT_SECONDS, source: str = BACKEND) -> Backoff:
    """The back-off of a daemon that starts at an instant; chance is always a half."""
    backoff = Backoff(path, at(boot_seconds), chance=lambda: 0.5)
    backoff.turn_to(source)
    return backoff


def wait_of(backoff: Backoff, boot_seconds: float = BOOT_SECONDS, *, pull: bool = True) -> float:
    return backoff.wait_seconds(pull=pull, now=at(boot_seconds))


def kept(**changes: Any) -> dict[str, Any]:
    fields = {
        "boot_id": boot_id(),
        "source": BACKEND,
        "pull": {"failures": 3, "until": BOOT_SECONDS + 8.0},
        "report": {"failures": 0, "until": 0.0},
    }
    return fields | changes


def test_each_failure_in_a_row_doubles_the_wait_and_a_success_ends_it(path: Path):
    backoff = started(path)
    waits = []
    for _ in range(4):
        backoff.failed(pull=True, now=at(BOOT_SECONDS))
        waits.append(wait_of(backoff))
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert not backoff.may(pull=True, now=at(BOOT_SECONDS + 7.9))
    assert backoff.may(pull=True, now=at(BOOT_SECONDS + 8.0))
    backoff.succeeded(pull=True)
    assert wait_of(backoff) == 0.0


def test_who_polled_well_begins_with_the_interval_and_reports_do_not(path: Path):
    backoff = started(path)
    backoff.pull_base_seconds = 60.0
    backoff.failed(pull=True, now=at(BOOT_SECONDS))
    backoff.failed(pull=False, now=at(BOOT_SECONDS))
    assert (wait_of(backoff), wait_of(backoff, pull=False)) == (30.0, 1.0)
    backoff.turn_to("http https://another.example/api")
    backoff.failed(pull=True, now=at(BOOT_SECONDS))
    assert wait_of(backoff) == 1.0


def test_pulls_and_reports_wait_each_for_themselves(path: Path):
    backoff = started(path)
    backoff.failed(pull=False, now=at(BOOT_SECONDS))
    assert backoff.may(pull=True, now=at(BOOT_SECONDS))
    assert not backoff.may(pull=False, now=at(BOOT_SECONDS))


def test_who_asks_does_not_wait_and_a_failure_counts_all_the_same(path: Path):
    backoff = started(path)
    for _ in range(3):
        backoff.failed(pull=True, now=at(BOOT_SECONDS))
    backoff.hurry()
    assert backoff.may(pull=True, now=at(BOOT_SECONDS))
    backoff.failed(pull=True, now=at(BOOT_SECONDS))
    assert wait_of(backoff) == 8.0


def test_a_daemon_that_starts_again_goes_on_waiting(path: Path):
    first = started(path)
    for _ in range(3):
        first.failed(pull=True, now=at(BOOT_SECONDS))
    first.failed(pull=False, now=at(BOOT_SECONDS), retry_after_seconds=1000.0)
    second = started(path, BOOT_SECONDS + 1.0)
    assert wait_of(second, BOOT_SECONDS + 1.0) == 3.0
    assert wait_of(second, BOOT_SECONDS + 1.0, pull=False) == 1249.0
    second.failed(pull=True, now=at(BOOT_SECONDS + 4.0))
    assert wait_of(second, BOOT_SECONDS + 4.0) == 8.0


def test_nothing_is_kept_where_nothing_fails(path: Path):
    backoff = started(path)
    backoff.succeeded(pull=True)
    backoff.succeeded(pull=False)
    assert not path.exists()
    backoff.failed(pull=True, now=at(BOOT_SECONDS))
    written = path.stat().st_ino
    backoff.succeeded(pull=False)
    assert path.stat().st_ino == written  # what has not changed is not written
    backoff.succeeded(pull=True)
    assert not path.exists()


def test_another_backend_is_not_made_to_wait_for_the_first(path: Path):
    backoff = started(path)
    backoff.failed(pull=True, now=at(BOOT_SECONDS))
    backoff.turn_to("http https://another.example/api")
    assert wait_of(backoff) == 0.0
    assert not path.exists()
    path.write_text(json.dumps(kept()))
    assert wait_of(started(path, source="http https://another.example/api")) == 0.0
    assert not path.exists()


def test_of_a_file_nothing_is_kept(path: Path):
    backoff = started(path, source="")
    backoff.failed(pull=True, now=at(BOOT_SECONDS))
    assert wait_of(backoff) == 1.0
    assert not path.exists()


def test_what_was_kept_before_a_reboot_counts_no_more(path: Path, caplog: Any):
    path.write_text(json.dumps(kept(boot_id="an earlier one")))
    assert wait_of(started(path)) == 0.0
    assert caplog.records == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "garbage",
        '{"boot_id": "half',
        json.dumps(kept(more=1)),
        json.dumps(kept(pull={"failures": -1, "until": 0.0})),
        json.dumps(kept(pull={"failures": FAILURES_MAX + 1, "until": 0.0})),
        json.dumps(kept(pull={"failures": 1, "until": "soon"})),
        json.dumps(kept(pull={"failures": 1, "until": BOOT_SECONDS + 2 * RETRY_AFTER_SECONDS_MAX})),
        json.dumps(kept()).replace("5008.0", "1e999"),
        json.dumps(kept()).replace("5008.0", "NaN"),
        " " * 5000 + json.dumps(kept()),
    ],
)
def test_what_cannot_be_used_is_ignored_and_said(path: Path, text: str, caplog: Any):
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        backoff = started(path)
    assert wait_of(backoff) == 0.0
    assert [record.event for record in caplog.records] == ["backoff-ignored"]
    backoff.failed(pull=True, now=at(BOOT_SECONDS))
    assert wait_of(started(path)) == 1.0


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_what_is_no_file_is_ignored(path: Path, make: Any):
    make(path)
    backoff = started(path)
    assert wait_of(backoff) == 0.0


def test_a_directory_that_takes_nothing_costs_the_memory_of_it_only(tmp_path: Path, caplog: Any):
    backoff = started(tmp_path / "missing" / "backoff.json")
    backoff.failed(pull=True, now=at(BOOT_SECONDS))
    assert wait_of(backoff) == 1.0
    assert [record.event for record in caplog.records] == ["backoff-not-kept"]


def test_any_number_of_failures_is_waited_for_no_longer_than_the_cap(path: Path):
    backoff = started(path)
    for _ in range(FAILURES_MAX + 10):
        backoff.failed(pull=True, now=at(BOOT_SECONDS))
    assert wait_of(backoff) == RETRY_CAP_SECONDS / 2
    assert wait_of(started(path)) == RETRY_CAP_SECONDS / 2
