"""Kept files with a right checksum and values that nobody can use: each costs itself."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.paths import Runtime
from geosched.supervisor.core.model import Instant
from geosched.supervisor.store.repair import incidents
from geosched.supervisor.sync.backoff import Backoff
from geosched.workers.runfiles import processes, results

DEEP = b"[" * 30_000
RESULT = {"run_id": "r", "cause": "exited", "ended_us": 1}
IDENTITY = {"boot_id": "b", "pid": 1, "start_ticks": 1}


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    made = Runtime(tmp_path)
    processes.make_directories(made)
    return made


def keep(runtime: Runtime, content: bytes) -> None:
    checked = f"{zlib.crc32(content):08x}\n".encode() + content
    (runtime.results / "r").write_bytes(checked)


def test_a_result_with_usual_values_is_read(runtime: Runtime):
    keep(runtime, json.dumps(RESULT).encode())
    assert results.load(runtime, "r") is not None


@pytest.mark.parametrize(
    "foreign",
    [
        {"ended_us": 10**300},
        {"ended_us": -(2**64)},
        {"ended_us": 2**63},  # after the year 9999
        {"begun_us": 2**64 - 1},
        {"script_pid": 0},  # the whole group of who asks for it
        {"script_pid": -1},  # everybody
        {"script_pid": 2**31},
        {"exit_code": 2**63},
        {"signal": -(2**40)},
        {"output_lost_bytes": -1},
        {"output_lost_bytes": 2**64 - 1},
    ],
    ids=repr,
)
def test_a_result_with_a_number_out_of_range_is_dropped(runtime: Runtime, foreign: dict[str, Any]):
    keep(runtime, json.dumps(RESULT | foreign).encode())
    assert results.load_all(runtime) == []
    assert list(runtime.results.iterdir()) == []


def test_a_result_that_is_nested_too_deep_is_dropped(runtime: Runtime):
    keep(runtime, json.dumps(RESULT).encode()[:-1] + b',"more":' + DEEP)
    assert results.load_all(runtime) == []


@pytest.mark.parametrize("pid", [0, -1, 2**31, 10**300])
def test_an_identity_that_no_process_can_have_is_nobodys(runtime: Runtime, pid: int):
    known = {"kind": "worker", "name": "w", "identity": IDENTITY | {"pid": pid}}
    (runtime.processes / "1").write_text(json.dumps(known))
    assert processes.read_identities(runtime) == []


def test_an_identity_that_is_nested_too_deep_is_nobodys(runtime: Runtime):
    known = json.dumps({"kind": "worker", "name": "w", "identity": IDENTITY}).encode()
    (runtime.processes / "1").write_bytes(known[:-1] + b',"more":' + DEEP)
    assert processes.read_identities(runtime) == []


def test_a_back_off_that_is_nested_too_deep_is_ignored(tmp_path: Path):
    path = tmp_path / "backoff.json"
    path.write_bytes(b'{"pull":' + DEEP)
    now = Instant(0, 0.0, 0.0)
    assert Backoff(path, now).may(pull=True, now=now)


def test_incidents_that_are_nested_too_deep_are_none(tmp_path: Path):
    (tmp_path / "incidents.json").write_bytes(b'[{"at":"a","detail":"b","more":' + DEEP)
    assert incidents.read(tmp_path) == ()
