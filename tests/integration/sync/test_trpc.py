"""The backend `trpc` against real tRPC servers: that of today and that of the original."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.messages.sync import (
    BackendAddress,
    ErrorKind,
    NotModified,
    Pull,
    Report,
    Send,
    Taken,
)
from geosched.workers.sync.backends.trpc import FAILED_REPORTS_MAX, TrpcBackend
from geosched.workers.sync.base import ExchangeError, Snapshot
from support import daemon as installations
from support.backend import BackendServer, address, entry
from support.daemon import Daemon, daemon_installation
from support.faults import FAULTS
from support.oauth import OAuthServer, keep_tokens
from support.trpc import TrpcServer
from support.wait import wait_for

#: For those who answer; and for those who do not, and how late the end may then be.
ANSWER_SECONDS, TIMEOUT_SECONDS = 5.0, 0.6
LATE_SECONDS = 1.5

#: Faults after which nothing of the answer counts. Those that only change its form are
#: in `test_a_good_answer_in_another_form_is_understood`.
KIND_OF_FAULT = {
    "html": ErrorKind.BAD_ANSWER,
    "html-502": ErrorKind.REFUSED,
    "html-404": ErrorKind.REFUSED,
    "html-401": ErrorKind.UNAUTHORIZED,
    "redirect": ErrorKind.REFUSED,
    "empty": ErrorKind.BAD_ANSWER,
    "garbage": ErrorKind.BAD_ANSWER,
    "deep": ErrorKind.BAD_ANSWER,
    "truncated-clean": ErrorKind.BAD_ANSWER,
    "truncated-length": ErrorKind.UNREACHABLE,
    "truncated-chunked": ErrorKind.UNREACHABLE,
    "reset": ErrorKind.UNREACHABLE,
    "silent": ErrorKind.TIMEOUT,
    "two-207": ErrorKind.BAD_ANSWER,
    "none-200": ErrorKind.BAD_ANSWER,
    "no-result": ErrorKind.BAD_ANSWER,
    "null": ErrorKind.BAD_ANSWER,
    "bare": ErrorKind.BAD_ANSWER,
    "not-utf8": ErrorKind.BAD_ANSWER,
    "crash": ErrorKind.REFUSED,
}
#: A mutation may answer with whatever it likes; a list of actions is a list.
KIND_OF_PULL_FAULT = {
    "no-data": ErrorKind.BAD_ANSWER,
    "no-json": ErrorKind.BAD_ANSWER,
    "null-json": ErrorKind.BAD_ANSWER,
    "not-a-list": ErrorKind.BAD_ANSWER,
}
GOOD_FORMS = ("gzip", "plain", "batched", "batched-207")


@pytest.fixture(scope="module", params=[False, True], ids=["trpc-11.25", "trpc-rc.482"])
def running(request: pytest.FixtureRequest) -> Iterator[TrpcServer]:
    with TrpcServer(old=request.param) as server:
        yield server


@pytest.fixture
def server(running: TrpcServer) -> TrpcServer:
    running.set(
        actions=[entry("a"), entry("b", executionStatus="STARTED", shouldBeExecuted=False)],
        token="",
        mutation=True,
        strict=False,
        knownOnly=False,
        refuse={},
        fault="",
        code="INTERNAL_SERVER_ERROR",
        after=0,
        retryAfter="",
        asked=[],
        statuses=[],
    )
    return running


def where(server: TrpcServer, **fields: Any) -> BackendAddress:
    return address("trpc", **{"url": server.url, "timeout_seconds": ANSWER_SECONDS, **fields})


def pull(at: BackendAddress, **known: str) -> Snapshot | NotModified:
    return TrpcBackend().pull(Pull(1, at, 0, **known))


def snapshot_of(at: BackendAddress) -> Snapshot:
    found = pull(at)
    assert isinstance(found, Snapshot)
    return found


def error_of(at: BackendAddress) -> ExchangeError:
    with pytest.raises(ExchangeError) as caught:
        pull(at)
    return caught.value


def report(action_id: str, key: str = "", at_us: int = 1_795_420_800_123_456) -> Report:
    return Report(key or f"k-{action_id}", action_id, "STARTED", at_us, 1, "r", None, None, "due")


def send(at: BackendAddress, *reports: Report) -> Taken:
    return TrpcBackend().send(Send(1, at, reports))


def send_error(at: BackendAddress, *reports: Report) -> ExchangeError:
    with pytest.raises(ExchangeError) as caught:
        send(at, *reports)
    return caught.value


# --- pulls -------------------------------------------------------------------------------


def test_a_snapshot_is_read_whatever_superjson_notes_of_its_types(server: TrpcServer) -> None:
    snapshot = snapshot_of(where(server))
    assert [(action.id, action.should_be_executed) for action in snapshot.actions] == [
        ("a", True),
        ("b", False),
    ]
    assert snapshot.actions[0].from_us == 1_795_420_800_000_000
    assert snapshot.actions[0].app_names == ("Chrome",)
    (asked,) = server.asked
    assert (asked["method"], asked["path"]) == ("GET", "/api/trpc/actions.getAll")
    assert "trpc-accept" not in asked["headers"]
    assert asked["headers"]["accept"] == "application/json"


def test_a_list_without_actions_is_a_snapshot_of_nothing(server: TrpcServer) -> None:
    server.set(actions=[])
    assert snapshot_of(where(server)).actions == ()


def test_a_type_that_is_undefined_is_the_default_one(server: TrpcServer) -> None:
    server.set(actions=[entry("a", type=None, args=None), entry("b", type="block")])
    assert [action.type for action in snapshot_of(where(server)).actions] == ["default", "block"]


def test_one_unreadable_entry_is_set_aside_alone(server: TrpcServer) -> None:
    server.set(actions=[entry("a"), entry("b", fromDate="soon"), None, entry("c")])
    snapshot = snapshot_of(where(server))
    assert [action.id for action in snapshot.actions] == ["a", "c"]
    assert snapshot.set_aside_ids == ("b",)
    assert snapshot.unreadable_ids == 1


def test_the_snapshot_that_is_stored_is_not_modified(server: TrpcServer) -> None:
    digest = snapshot_of(where(server)).digest
    assert pull(where(server), digest=digest) == NotModified(1)
    server.set(actions=[entry("a")])
    assert isinstance(pull(where(server), digest=digest), Snapshot)


@pytest.mark.parametrize("form", GOOD_FORMS)
def test_a_good_answer_in_another_form_is_understood(form: str, server: TrpcServer) -> None:
    server.set(fault=form)
    assert len(snapshot_of(where(server)).actions) == 2
    assert send(where(server), report("a")).accepted == ("k-a",)


@pytest.mark.parametrize("fault", KIND_OF_FAULT | KIND_OF_PULL_FAULT)
def test_a_hostile_answer_is_an_error_of_its_kind_in_time_and_never_a_snapshot(
    fault: str, server: TrpcServer
) -> None:
    server.set(fault=fault)
    seconds = TIMEOUT_SECONDS if fault == "silent" else ANSWER_SECONDS
    begun = time.monotonic()
    error = error_of(where(server, timeout_seconds=seconds))
    assert time.monotonic() - begun < seconds + LATE_SECONDS
    assert error.kind is (KIND_OF_FAULT | KIND_OF_PULL_FAULT)[fault]
    assert error.detail.isprintable()
    server.set(fault="")
    assert len(snapshot_of(where(server)).actions) == 2


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("BAD_REQUEST", 400, ErrorKind.REFUSED),
        ("UNAUTHORIZED", 401, ErrorKind.UNAUTHORIZED),
        ("FORBIDDEN", 403, ErrorKind.UNAUTHORIZED),
        ("NOT_FOUND", 404, ErrorKind.REFUSED),
        ("TIMEOUT", 408, ErrorKind.REFUSED),
        ("TOO_MANY_REQUESTS", 429, ErrorKind.BUSY),
        ("INTERNAL_SERVER_ERROR", 500, ErrorKind.REFUSED),
    ],
)
@pytest.mark.parametrize("form", ["error", "error-200"])
def test_an_error_goes_by_its_own_status(
    form: str, code: str, status: int, kind: ErrorKind, server: TrpcServer
) -> None:
    server.set(fault="error", code=code, retryAfter="90")
    error = error_of(where(server))
    assert error.kind is kind
    assert f"{status} " in error.detail
    assert f"({code}: as told)" in error.detail
    assert "server.mjs" not in error.detail, "no stack"
    assert error.retry_after_seconds == (90 if kind is ErrorKind.BUSY else 0)


def test_an_answer_that_does_not_fit_the_backends_own_schema_is_its_error(
    server: TrpcServer,
) -> None:
    server.set(strict=True)
    assert len(snapshot_of(where(server)).actions) == 2
    server.set(actions=[entry("a", appNames="Chrome")])
    error = error_of(where(server))
    assert error.kind is ErrorKind.REFUSED
    assert "500 " in error.detail


def test_a_wrong_token_is_unauthorized_and_a_right_one_is_let_in(
    server: TrpcServer, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text("old-s3cret\n")
    server.set(token="new-s3cret")
    at = where(server, token_file=str(token_file))
    error = error_of(at)
    assert error.kind is ErrorKind.UNAUTHORIZED
    assert "s3cret" not in error.detail
    token_file.write_text("new-s3cret\n")
    assert len(snapshot_of(at).actions) == 2


def test_a_token_that_is_unauthorized_is_renewed_for_a_call_too(
    server: TrpcServer, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.json"
    keep_tokens(tokens)
    server.set(token="revoked")
    with OAuthServer() as oauth:
        oauth.issued = lambda token: server.set(token=token)
        at = where(server, token_file=str(tokens), **oauth.client())
        assert len(snapshot_of(at).actions) == 2
        server.set(token="revoked again")
        assert send(at, report("a"), report("b")).accepted == ("k-a", "k-b")
        assert len(oauth.forms) == 2


def test_a_path_that_is_not_the_mount_is_refused_by_its_status(server: TrpcServer) -> None:
    error = error_of(where(server, url=server.url.removesuffix("/trpc")))
    assert error.kind is ErrorKind.REFUSED
    assert "404 Not Found" in error.detail


def test_a_body_over_the_limit_is_too_large(server: TrpcServer) -> None:
    server.set(actions=[entry(f"a{number}") for number in range(100)])
    assert error_of(where(server, max_body_bytes=1024)).kind is ErrorKind.TOO_LARGE


@pytest.mark.parametrize("fault", FAULTS)
def test_no_answer_of_a_stranger_is_a_snapshot_or_takes_a_report(fault: str) -> None:
    with BackendServer(fault=fault) as stranger:
        stranger.set_actions([entry("a")])
        at = address("trpc", url=stranger.url, timeout_seconds=TIMEOUT_SECONDS)
        begun = time.monotonic()
        assert error_of(at).detail
        assert send_error(at, report("a")).detail
        assert time.monotonic() - begun < 2 * (TIMEOUT_SECONDS + LATE_SECONDS)


def test_a_backend_that_quotes_our_token_does_not_get_it_into_a_message(
    server: TrpcServer, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text("s3cret")
    at = where(server, token_file=str(token_file))
    server.set(refuse={"s3cret": "BAD_REQUEST"})
    ((_, error),) = send(at, report("s3cret", "k")).refused
    assert "BAD_REQUEST: no: ..." in error


# --- reports -----------------------------------------------------------------------------


def test_reports_are_told_one_by_one_with_their_date_and_key(server: TrpcServer) -> None:
    assert send(where(server), report("a"), report("b")).accepted == ("k-a", "k-b")
    assert server.statuses[0] == {
        "id": "a",
        "executionStatus": "STARTED",
        "at": "2026-11-23T08:00:00.123Z",
        "key": "k-a",
        "outcome": "applied",
    }
    asked = server.asked[0]
    assert (asked["method"], asked["path"]) == ("POST", "/api/trpc/actions.setExecutionStatus")
    assert json.loads(asked["body"])["meta"] == {"values": {"at": ["Date"]}, "v": 1}


def test_many_reports_need_one_connection(server: TrpcServer) -> None:
    """On a slow network, making connections is what costs the time."""
    before = server.connections
    assert len(send(where(server), *(report(f"a{n}") for n in range(50))).accepted) == 50
    assert server.connections - before == 2, "one for the reports, one for asking"


@pytest.mark.parametrize("fault", KIND_OF_FAULT)
def test_a_hostile_answer_to_a_report_takes_nothing_and_its_key_makes_it_harmless(
    fault: str, server: TrpcServer
) -> None:
    server.set(fault=fault)
    at = where(server, timeout_seconds=TIMEOUT_SECONDS if fault == "silent" else ANSWER_SECONDS)
    assert send_error(at, report("a"), report("b")).kind is KIND_OF_FAULT[fault]
    server.set(fault="")
    assert send(where(server), report("a"), report("b")).accepted == ("k-a", "k-b")
    applied = [status["key"] for status in server.statuses if status["outcome"] == "applied"]
    assert applied == ["k-a", "k-b"]


@pytest.mark.parametrize("fault", ["reset", "silent", "html-502"])
def test_what_was_taken_before_the_connection_broke_counts(fault: str, server: TrpcServer) -> None:
    server.set(fault=fault, after=2)
    reports = [report(action_id) for action_id in "abcd"]
    at = where(server, timeout_seconds=TIMEOUT_SECONDS if fault == "silent" else ANSWER_SECONDS)
    assert send(at, *reports) == Taken(1, ("k-a", "k-b"))
    assert len(server.asked) == 3, "the rest waits for the next exchange"


@pytest.mark.parametrize(
    "code",
    [
        "BAD_REQUEST",
        "NOT_FOUND",
        "CONFLICT",
        "PRECONDITION_FAILED",
        "PAYLOAD_TOO_LARGE",
        "UNPROCESSABLE_CONTENT",
    ],
)
def test_a_report_that_is_refused_costs_only_itself(code: str, server: TrpcServer) -> None:
    server.set(refuse={"b": code})
    taken = send(where(server), report("a"), report("b"), report("c"))
    assert taken.accepted == ("k-a", "k-c")
    ((key, error),) = taken.refused
    assert key == "k-b"
    assert f"({code}: no: b)" in error


@pytest.mark.parametrize("code", ["FORBIDDEN", "INTERNAL_SERVER_ERROR"])
def test_a_report_that_fails_perhaps_by_itself_stays_pending_and_lets_others_pass(
    code: str, server: TrpcServer
) -> None:
    server.set(refuse={"a": code})
    assert send(where(server), report("a"), report("b")) == Taken(1, ("k-b",))


def test_a_backend_that_fails_every_report_is_not_asked_for_each(server: TrpcServer) -> None:
    server.set(fault="crash")
    error = send_error(where(server), *(report(f"a{number}") for number in range(20)))
    assert error.kind is ErrorKind.REFUSED
    assert len(server.asked) == FAILED_REPORTS_MAX


@pytest.mark.parametrize("code", ["UNAUTHORIZED", "TOO_MANY_REQUESTS"])
def test_what_concerns_all_reports_ends_the_exchange(code: str, server: TrpcServer) -> None:
    server.set(refuse={"b": code})
    assert send(where(server), report("a"), report("b"), report("c")) == Taken(1, ("k-a",))
    assert send_error(where(server), report("b"), report("c")).detail.endswith(f"({code}: no: b)")


def test_an_action_that_the_backend_no_longer_has_is_a_refused_report(server: TrpcServer) -> None:
    server.set(knownOnly=True)
    taken = send(where(server), report("gone"), report("a"), report("lost"))
    assert taken.accepted == ("k-a",)
    assert [key for key, _ in taken.refused] == ["k-gone", "k-lost"]
    assert "no action gone" in taken.refused[0][1]
    assert sum(asked["method"] == "GET" for asked in server.asked) == 1, "looked once"


def test_a_backend_without_the_mutation_takes_no_reports_and_is_pulled_from(
    server: TrpcServer,
) -> None:
    server.set(mutation=False)
    error = send_error(where(server), report("a"), report("b"))
    assert error.kind is ErrorKind.NO_REPORTS
    assert "actions.setExecutionStatus" in error.detail
    assert "report = false" in error.detail
    assert len(snapshot_of(where(server)).actions) == 2


def test_a_key_that_comes_with_another_status_is_refused(server: TrpcServer) -> None:
    send(where(server), report("a", "k"))
    taken = send(where(server), report("b", "k"))
    assert "CONFLICT" in taken.refused[0][1]


def test_a_hotel_portal_before_the_backend_takes_no_report() -> None:
    with BackendServer() as portal:
        portal.fault = "html"
        error = send_error(address("trpc", url=portal.url), report("a"))
    assert error.kind is ErrorKind.BAD_ANSWER
    assert "it is HTML" in error.detail


# --- the daemon --------------------------------------------------------------------------


@pytest.fixture
def installed() -> Iterator[Daemon]:
    with daemon_installation() as daemon:
        yield daemon


def configure(daemon: Daemon, server: TrpcServer) -> None:
    script = daemon.script("block", "note ran; while :; do sleep 1; done")
    daemon.configure(
        scripts={"default": {"command": [script]}},
        backend={"kind": "trpc", "url": server.url, "poll_interval": "200ms"},
    )


def test_s18_a_daemon_runs_an_action_of_the_original_backend_and_reports_its_statuses(
    server: TrpcServer, installed: Daemon
) -> None:
    server.set(actions=[installations.entry("a", -1, 60)])
    configure(installed, server)
    installed.start()
    installed.wait_phase("a", "running")
    server.set(actions=[])
    installed.wait_status("a", "WONT_FINISH")

    def told() -> bool:
        return [status["executionStatus"] for status in server.statuses] == [
            "STARTED",
            "WONT_FINISH",
        ]

    wait_for(told, what="both statuses at the backend")
    wait_for(lambda: installed.json("status")["outbox"]["depth"] == 0, what="an empty outbox")


def test_status_says_that_a_backend_without_the_mutation_takes_no_reports(
    server: TrpcServer, installed: Daemon
) -> None:
    server.set(actions=[installations.entry("a", -1, 60)], mutation=False)
    configure(installed, server)
    installed.start()
    installed.wait_phase("a", "running")
    found = wait_for(
        lambda: (status := installed.json("status"))["backend"]["lastReportError"] and status,
        what="that reports are not taken",
    )
    assert found["backend"]["lastReportError"].startswith("no-reports: the backend takes no rep")
    assert found["backend"]["lastPullOk"] is True
    assert found["outbox"]["depth"] == 1, "it is kept for a backend that learns to take it"
    assert installed.json("sync")["unchanged"] == 1, "and that is no failure of a sync"
