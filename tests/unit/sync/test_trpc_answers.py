"""Answers of tRPC servers, as they were taken off the socket, and what is made of each."""

import json
from typing import Any

import pytest
from geosched.ipc.messages.sync import ErrorKind, Report
from geosched.workers.sync.backends import trpc
from geosched.workers.sync.base import ExchangeError

ACTIONS = (
    '{"result":{"data":{"json":[{"id":"act-1","appNames":["Firefox","Slack"],'
    '"executionStatus":null,"shouldBeExecuted":true,"fromDate":"2030-01-01T10:00:00.000Z",'
    '"toDate":"2030-01-01T11:30:00.000Z"},{"id":"act-2","appNames":[],'
    '"executionStatus":"STARTED","shouldBeExecuted":false,"fromDate":"2030-01-02T22:00:00.500Z",'
    '"toDate":"2030-01-03T06:00:00.000Z"}],"meta":{"values":{"0.executionStatus":["undefined"],'
    '"0.fromDate":["Date"],"0.toDate":["Date"],"1.fromDate":["Date"],"1.toDate":["Date"]},'
    '"v":1}}}}'
)
SAME_DATE_TWICE = ACTIONS.replace(
    '"v":1', '"referentialEqualities":{"0.fromDate":["0.toDate"]},"v":1'
)
UNAUTHORIZED = (
    '{"error":{"json":{"message":"UNAUTHORIZED","code":-32001,"data":{"code":"UNAUTHORIZED",'
    '"httpStatus":401,"path":"actions.getAll","zodError":null}}}}'
)
NO_PROCEDURE = (
    r'{"error":{"json":{"message":"No procedure found on path \"actions.nope\"","code":-32004,'
    '"data":{"code":"NOT_FOUND","httpStatus":404,"path":"actions.nope","zodError":null}}}}'
)
#: Before a batch is taken apart: no list, no path, and text/plain as its type.
UNSUPPORTED = (
    '{"error":{"json":{"message":"Unsupported content-type \\"text/plain\\"","code":-32015,'
    '"data":{"code":"UNSUPPORTED_MEDIA_TYPE","httpStatus":415,"zodError":null}}}}'
)


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (ACTIONS, ["act-1", "act-2"]),
        (f"[{ACTIONS}]", ["act-1", "act-2"]),
        (SAME_DATE_TWICE, ["act-1", "act-2"]),
        ('[{"result":{"data":{"json":[]}}}]', []),
        ('{"result":{"data":{"json":[]}}}', []),
        ('{"result":{"data":{"json":[],"meta":{"values":{}}}},"error":null}', []),
    ],
)
def test_actions_are_taken_out_of_a_plain_answer_and_of_a_batch_of_one(
    body: str, ids: list[str]
) -> None:
    entries = [json.loads(bytes(raw)) for raw in trpc.actions_in(body.encode())]
    assert [entry["id"] for entry in entries] == ids


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "[]",
        "null",
        "42",
        "[{}]",
        "[" * 200_000,
        "<html>",
        ACTIONS[:-10],
        f"[{ACTIONS},{ACTIONS}]",
        '{"result":{}}',
        '{"result":{"data":[]}}',
        '{"result":{"data":{"json":null}}}',
        '{"result":{"data":{"json":{}}}}',
        '{"result":{"data":{"json":[' + "[" * 200_000,
        b'{"result":{"data":{"json":[]}},"note":"\xff"}',
    ],
)
def test_nothing_else_is_an_empty_list(body: str | bytes) -> None:
    with pytest.raises(ExchangeError) as caught:
        trpc.actions_in(body.encode() if isinstance(body, str) else body)
    assert caught.value.kind is ErrorKind.BAD_ANSWER


@pytest.mark.parametrize(
    ("body", "http_status", "status", "kind"),
    [
        (UNAUTHORIZED, 401, 401, ErrorKind.UNAUTHORIZED),
        (f"[{UNAUTHORIZED}]", 401, 401, ErrorKind.UNAUTHORIZED),
        (f"[{UNAUTHORIZED}]", 207, 401, ErrorKind.UNAUTHORIZED),
        (NO_PROCEDURE, 404, 404, ErrorKind.REFUSED),
        (f"[{NO_PROCEDURE}]", 207, 404, ErrorKind.REFUSED),
        (UNSUPPORTED, 415, 415, ErrorKind.REFUSED),
        ('{"error":{"json":{}}}', 503, 503, ErrorKind.BUSY),
        ('{"error":{"json":{"data":{"httpStatus":7}}}}', 500, 500, ErrorKind.REFUSED),
        ('{"error":{"json":{"message":"no status at all"}}}', 200, 200, ErrorKind.BAD_ANSWER),
    ],
)
def test_an_error_is_told_by_its_own_status_and_else_by_that_of_the_answer(
    body: str, http_status: int, status: int, kind: ErrorKind
) -> None:
    error = trpc.error_in(body.encode(), http_status, {}, "https://backend.example/x")
    assert error is not None
    assert (error.status, error.kind) == (status, kind)


def test_an_answer_with_a_result_holds_no_error() -> None:
    assert trpc.error_in(ACTIONS.encode(), 200, {}, "https://backend.example/x") is None


def test_a_message_of_many_lines_becomes_one_short_one() -> None:
    message = "[\n  {\n" + '    "code": "invalid_type",\n' * 100 + "  }\n]"
    wrapped = {"message": message, "data": {"code": "BAD_REQUEST", "httpStatus": 400}}
    body = json.dumps({"error": {"json": wrapped}}).encode()
    error = trpc.error_in(body, 400, {}, "https://backend.example/x")
    assert error is not None
    assert error.detail.isprintable()
    assert len(error.detail) < 400


@pytest.mark.parametrize(
    ("at_us", "at"),
    [(0, "1970-01-01T00:00:00.000Z"), (1_795_420_800_123_999, "2026-11-23T08:00:00.123Z")],
)
def test_a_report_is_written_as_superjson_wants_it(at_us: int, at: str) -> None:
    report = Report("k-1", "act-1", "FINISHED", at_us, 1, "r", 0, None, "completed")
    told: dict[str, Any] = json.loads(trpc.mutation_body(report))
    assert told == {
        "json": {"id": "act-1", "executionStatus": "FINISHED", "at": at, "idempotencyKey": "k-1"},
        "meta": {"values": {"at": ["Date"]}, "v": 1},
    }
