"""docs/openapi.yaml, the client, and the backend of the tests say the same.

A backend that is built by the document gets what the document says, and is understood.
"""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs as jsonschema
import pytest
import schemathesis
import yaml
from geosched.ipc import actions
from geosched.ipc.actions import EntryError, ExecutionStatus, parse_entry
from geosched.ipc.messages.sync import REPORTS_PER_EXCHANGE_MAX
from geosched.supervisor.store.tables.outbox import REFUSALS_MAX
from hypothesis import HealthCheck, given, settings
from support.backend import BackendServer
from support.daemon import Daemon, daemon_installation, entry
from support.paths import DOCS
from support.wait import wait_for

DOCUMENT = DOCS / "openapi.yaml"
SPEC: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text())
#: The document without its own list of servers: the server of the test stands for it.
SCHEMA = schemathesis.openapi.from_dict({**SPEC, "servers": [{"url": "/api"}]})
FAR = {"start": 36_000, "end": 72_000}


def validator(name: str) -> Any:
    """Of a component of the document; formats count."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": SPEC["components"]}
    return jsonschema.Draft202012Validator(schema, validate_formats=True)


@pytest.fixture(scope="module")
def backend() -> Iterator[BackendServer]:
    with BackendServer() as running:
        running.set_actions([entry("a", **FAR, type="block", args={"x": 1}), entry("b", **FAR)])
        yield running


# --- the server of the tests ---------------------------------------------------------------


@given(case=SCHEMA["/actions"]["GET"].as_strategy())
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
def test_the_backend_of_the_tests_serves_actions_as_the_document_says(
    backend: BackendServer, case: Any
):
    case.call_and_validate(base_url=backend.url)


@given(case=SCHEMA["/actions/status"]["POST"].as_strategy())
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_the_backend_of_the_tests_takes_reports_as_the_document_says(
    backend: BackendServer, case: Any
):
    taken = len(backend.reports)
    response = case.call_and_validate(base_url=backend.url)
    assert response.status_code == 200
    assert backend.reports[taken:] == case.body["reports"]


def get(**headers: str) -> Any:
    return SCHEMA["/actions"]["GET"].Case(
        headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def post() -> Any:
    report = {"key": "a-1", "id": "a", "executionStatus": "STARTED", "at": "2026-11-23T08:00:00Z"}
    rest = {"attempt": 1, "runId": "r", "exitCode": None, "signal": None, "reason": "due"}
    return SCHEMA["/actions/status"]["POST"].Case(
        headers={"Idempotency-Key": "0" * 32}, body={"reports": [report | rest]}
    )


def test_no_change_is_in_the_document(backend: BackendServer):
    etag = get().call_and_validate(base_url=backend.url).headers["etag"][0]
    assert get(If_None_Match=etag).call_and_validate(base_url=backend.url).status_code == 304


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429, 500, 502, 503])
def test_refusals_are_in_the_document(backend: BackendServer, status: int):
    backend.fault, backend.fault_status = "status", status
    backend.fault_headers = {"Retry-After": "1"}
    try:
        for case in (get(), post()):
            response = case.call(base_url=backend.url)
            assert response.status_code == status
            case.validate_response(
                response, excluded_checks=[schemathesis.checks.not_a_server_error]
            )
    finally:
        backend.fault = ""


# --- the client ---------------------------------------------------------------------------


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        yield installed


def test_what_a_daemon_sends_is_what_the_document_says(daemon: Daemon):
    """Scripts that end well, badly and by a signal; actions that never ran."""
    with BackendServer() as backend:
        ends = {"good": "exit 0", "bad": "exit 3", "shot": "kill -9 $$"}
        daemon.configure(
            scripts={kind: {"command": [daemon.script(kind, body)]} for kind, body in ends.items()},
            backend={"kind": "http", "url": backend.url, "poll_interval": "1h"},
        )
        backend.set_actions(
            [entry(kind, -1, 600, type=kind) for kind in ends] + [entry("late", -20, -10)]
        )
        daemon.start()
        wait_for(lambda: len(backend.reports) == 7)
        daemon.json("sync")
    reports = validator("Reports")
    parameter = SPEC["paths"]["/actions/status"]["post"]["parameters"][0]
    keys = jsonschema.Draft202012Validator(parameter["schema"])
    for asked in backend.asked:
        if asked.method == "POST":
            reports.validate(json.loads(asked.body))
            keys.validate(asked.headers["Idempotency-Key"])
    etags = [asked.headers.get("If-None-Match") for asked in backend.asked if asked.method == "GET"]
    assert etags[0] is None
    parameter = SPEC["paths"]["/actions"]["get"]["parameters"][0]
    jsonschema.Draft202012Validator(parameter["schema"]).validate(etags[-1])


GOOD = entry("a", **FAR)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"id": "x" * 200},
        {"id": ""},
        {"id": "x" * 201},
        {"id": "a\x1bb"},
        {"id": "a\x85b"},
        {"id": 7},
        {"fromDate": "2026-11-23T08:00:00+02:00"},
        {"fromDate": "2026-11-23T08:00:00"},
        {"fromDate": "2026-13-23T08:00:00Z"},
        {"toDate": 4_000_000_000},
        {"shouldBeExecuted": "true"},
        {"shouldBeExecuted": None},
        {"appNames": []},
        {"appNames": ["x" * 255] * 1000},
        {"appNames": ["x"] * 1001},
        {"appNames": ["x" * 256]},
        {"appNames": ["a\nb"]},
        {"appNames": None},
        {"type": "block-apps_2.0"},
        {"type": ""},
        {"type": "x" * 65},
        {"type": "../x"},
        {"args": {"deep": [1, {"er": None}]}},
        {"executionStatus": "FINISHED", "more": 1},
    ],
    ids=lambda fields: str(fields)[:40],
)
def test_the_daemon_takes_the_entries_that_the_document_allows_and_no_others(
    fields: dict[str, Any],
):
    described = {**GOOD, **fields}
    try:
        parse_entry(json.dumps(described).encode())
        taken = True
    except EntryError:
        taken = False
    assert validator("Action").is_valid(described) is taken


def test_the_limits_in_the_document_are_those_of_the_code():
    schemas = SPEC["components"]["schemas"]
    action = schemas["Action"]["properties"]
    names = action["appNames"]
    assert action["id"]["maxLength"] == actions.ID_CHARS_MAX
    assert names["maxItems"] == actions.APP_NAMES_MAX
    assert names["items"]["maxLength"] == actions.APP_NAME_CHARS_MAX
    assert f"{actions.ARGS_BYTES_MAX} bytes" in action["args"]["description"]
    assert schemas["Reports"]["properties"]["reports"]["maxItems"] == REPORTS_PER_EXCHANGE_MAX
    statuses = set(ExecutionStatus) - {ExecutionStatus.NULL}
    assert set(schemas["Report"]["properties"]["executionStatus"]["enum"]) == statuses
    refused = SPEC["components"]["responses"]["BadReport"]["description"]
    assert REFUSALS_MAX == 10
    assert "after ten such answers" in refused.replace("\n", " ")
