"""Reports as JSON, and what an answer says became of them."""

import json

import pytest
from geosched.ipc.messages.sync import Report
from geosched.workers.sync.bodies.status_reports import (
    as_json,
    batch_body,
    batch_key,
    read_verdicts,
)


def report(key: str, **fields: object) -> Report:
    base = {
        "action_id": "a",
        "status": "FAILED",
        "at_us": 1_795_420_800_123_456,
        "attempt": 2,
        "run_id": "r1",
        "exit_code": None,
        "signal": "SIGTERM",
        "reason": "signal",
    }
    return Report(key, **{**base, **fields})


def test_a_report_has_the_fields_of_the_interface() -> None:
    assert as_json(report("k1")) == {
        "key": "k1",
        "id": "a",
        "executionStatus": "FAILED",
        "at": "2026-11-23T08:00:00.123Z",
        "attempt": 2,
        "runId": "r1",
        "exitCode": None,
        "signal": "SIGTERM",
        "reason": "signal",
    }
    assert json.loads(batch_body([report("k1")])) == {"reports": [as_json(report("k1"))]}


def test_the_key_of_a_batch_is_that_of_its_reports_in_their_order() -> None:
    first, second = report("k1"), report("k2")
    assert batch_key([first, second]) == batch_key([report("k1", attempt=9), second])
    assert batch_key([first, second]) != batch_key([second, first])
    assert batch_key([first]) != batch_key([first, second])


def test_verdicts_are_read_by_key_and_strange_keys_are_ignored() -> None:
    body = b"""{"accepted": ["k1", "strange"], "note": 1,
                "rejected": [{"key": "k2", "error": "no\\u0007"}, {"key": "odd", "error": ""}]}"""
    verdicts = read_verdicts(body, [report("k1"), report("k2"), report("k3")])
    assert verdicts == (["k1"], {"k2": "no "})


def test_the_error_of_a_rejected_report_is_cut() -> None:
    body = json.dumps({"accepted": [], "rejected": [{"key": "k1", "error": "x" * 10_000}]})
    _, refused = read_verdicts(body.encode(), [report("k1")])
    assert len(refused["k1"]) == 200


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b"ok",
        b'{"accepted": "k1"}',
        b'{"accepted": [1]}',
        b'{"accepted": [], "rejected": ["k1"]}',
        b'{"accepted": ["k1"], "rejected": [{"key": "k1", "error": ""}]}',
        b"[" * 200_000,
    ],
)
def test_any_other_answer_says_nothing_of_any_report(body: bytes) -> None:
    with pytest.raises(ValueError):
        read_verdicts(body, [report("k1")])
