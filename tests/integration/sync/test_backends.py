"""The backends against real sockets and real files, the hostile ones first."""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from geosched import __version__
from geosched.ipc.messages.sync import (
    BackendAddress,
    ErrorKind,
    NotModified,
    Pull,
    Report,
    Send,
    Taken,
)
from geosched.workers.sync.backends.file import FileBackend
from geosched.workers.sync.backends.http import HttpBackend
from geosched.workers.sync.base import Backend, ExchangeError, Snapshot
from support.backend import BackendServer, address, entry
from support.faults import FAULTS, GOOD_DESPITE_ITS_NAME, KIND_OF_FAULT
from support.mounts import fill, mounted

#: The time-out of an exchange with a peer that does not finish, and how late its end may be.
TIMEOUT_SECONDS = 0.6
LATE_SECONDS = 1.5


@pytest.fixture
def server() -> Iterator[BackendServer]:
    with BackendServer() as running:
        running.set_actions([entry("a"), entry("b")])
        yield running


@pytest.fixture
def http() -> HttpBackend:
    return HttpBackend()


def pull(backend: Backend, where: BackendAddress, **known: str) -> Snapshot | NotModified:
    return backend.pull(Pull(1, where, 0, **known))


def snapshot_of(backend: Backend, where: BackendAddress) -> Snapshot:
    found = pull(backend, where)
    assert isinstance(found, Snapshot)
    return found


def error_of(backend: Backend, where: BackendAddress, **known: str) -> ExchangeError:
    with pytest.raises(ExchangeError) as caught:
        pull(backend, where, **known)
    return caught.value


def reports(*keys: str) -> tuple[Report, ...]:
    return tuple(Report(key, "a", "STARTED", 0, 1, "r1", None, None, "due") for key in keys)


def send(backend: Backend, where: BackendAddress, *keys: str) -> Taken:
    return backend.send(Send(1, where, reports(*keys)))


# --- http: pulls -------------------------------------------------------------------------


def test_every_fault_of_the_test_backend_is_tried() -> None:
    assert KIND_OF_FAULT.keys() | {GOOD_DESPITE_ITS_NAME} == FAULTS.keys()


@pytest.mark.parametrize("fault", KIND_OF_FAULT)
def test_a_hostile_answer_is_an_error_of_its_kind_in_time_and_costs_the_next_pull_nothing(
    fault: str, server: BackendServer, http: HttpBackend
) -> None:
    where = address(url=server.url, timeout_seconds=TIMEOUT_SECONDS, max_actions=1000)
    server.fault = fault
    begun = time.monotonic()
    error = error_of(http, where)
    assert time.monotonic() - begun < TIMEOUT_SECONDS + LATE_SECONDS
    assert error.kind is KIND_OF_FAULT[fault]
    assert error.detail
    assert error.detail.isprintable()
    assert "secret" not in error.detail
    server.fault = ""
    assert len(snapshot_of(http, where).actions) == 2


@pytest.mark.parametrize("fault", sorted(KIND_OF_FAULT.keys() - {"empty"}))  # which takes them all
def test_a_hostile_answer_to_reports_takes_none_of_them(
    fault: str, server: BackendServer, http: HttpBackend
) -> None:
    where = address(url=server.url, timeout_seconds=TIMEOUT_SECONDS)
    server.fault = fault
    begun = time.monotonic()
    with pytest.raises(ExchangeError):
        send(http, where, "k1", "k2")
    assert time.monotonic() - begun < TIMEOUT_SECONDS + LATE_SECONDS
    server.fault = ""
    assert send(http, where, "k1", "k2").accepted == ("k1", "k2")


def test_a_backend_that_is_down_is_unreachable_until_it_is_back(
    server: BackendServer, http: HttpBackend
) -> None:
    where = address(url=server.url)
    with server.down():
        error = error_of(http, where)
    assert error.kind is ErrorKind.UNREACHABLE
    assert "Connection refused" in error.detail
    assert len(snapshot_of(http, where).actions) == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_peer_that_accepts_and_is_silent_is_a_timeout(scheme: str, http: HttpBackend) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        error = error_of(http, address(url=url, timeout_seconds=TIMEOUT_SECONDS))
    assert error.kind is ErrorKind.TIMEOUT
    assert time.monotonic() - begun < TIMEOUT_SECONDS + LATE_SECONDS


def test_a_peer_that_speaks_no_tls_is_unreachable(server: BackendServer, http: HttpBackend) -> None:
    error = error_of(http, address(url=server.url.replace("http:", "https:")))
    assert error.kind is ErrorKind.UNREACHABLE
    assert error.detail.startswith("cannot speak TLS with https://127.0.0.1:")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://", "nonsense", "http://[::1/"])
def test_a_url_that_cannot_be_used_is_our_own_fault(url: str, http: HttpBackend) -> None:
    assert error_of(http, address(url=url)).kind is ErrorKind.LOCAL


def test_a_body_of_exactly_the_limit_is_read(server: BackendServer, http: HttpBackend) -> None:
    limit_bytes = len(server.snapshot())
    snapshot_of(http, address(url=server.url, max_body_bytes=limit_bytes))
    error = error_of(http, address(url=server.url, max_body_bytes=limit_bytes - 1))
    assert error.kind is ErrorKind.TOO_LARGE


def test_a_compressed_answer_that_nobody_asked_for_is_read(
    server: BackendServer, http: HttpBackend
) -> None:
    server.fault = GOOD_DESPITE_ITS_NAME
    assert len(snapshot_of(http, address(url=server.url)).actions) == 2


def test_what_is_asked_is_what_the_interface_says(
    server: BackendServer, http: HttpBackend, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("s3cret\n")
    token_file.chmod(0o600)
    server.token = "s3cret"
    found = pull(http, address(url=server.url + "/", token_file=str(token_file)), etag='"e"')
    assert isinstance(found, Snapshot)
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("GET", "/api/actions")
    assert asked.headers["Accept"] == "application/json"
    assert asked.headers["Accept-Encoding"] == "identity"
    assert asked.headers["Authorization"] == "Bearer s3cret"
    assert asked.headers["If-None-Match"] == '"e"'
    assert asked.headers["User-Agent"] == f"geosched/{__version__}"


def test_not_modified_needs_an_etag_that_we_sent(server: BackendServer, http: HttpBackend) -> None:
    where = address(url=server.url)
    etag = snapshot_of(http, where).etag
    assert pull(http, where, etag=etag) == NotModified(1)
    server.fault, server.fault_status = "status", 304
    assert error_of(http, where).kind is ErrorKind.BAD_ANSWER


def test_without_etags_the_digest_tells_that_nothing_changed(
    server: BackendServer, http: HttpBackend
) -> None:
    server.etags = False
    where = address(url=server.url)
    digest = snapshot_of(http, where).digest
    assert pull(http, where, digest=digest) == NotModified(1)
    server.set_actions([entry("a")])
    assert isinstance(pull(http, where, digest=digest), Snapshot)


def test_an_etag_that_could_not_be_sent_back_is_not_kept(
    server: BackendServer, http: HttpBackend
) -> None:
    server.body, server.etag = b"[]", "x" * 300
    assert snapshot_of(http, address(url=server.url)).etag == ""
    server.etag = 'W/"x"'
    assert snapshot_of(http, address(url=server.url)).etag == 'W/"x"'


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_backend_says_when_to_come_back(
    status: int, server: BackendServer, http: HttpBackend
) -> None:
    server.fault, server.fault_status = "status", status
    server.fault_headers = {"Retry-After": "120"}
    error = error_of(http, address(url=server.url))
    assert (error.kind, error.retry_after_seconds) == (ErrorKind.BUSY, 120)
    assert len(server.asked) == 1  # nothing is tried again by itself


def test_the_environment_says_neither_proxy_nor_password(
    server: BackendServer, http: HttpBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    snapshot_of(http, address(url=server.url))
    assert "Authorization" not in server.asked[0].headers


# --- the token ---------------------------------------------------------------------------


def test_a_new_token_counts_from_the_next_exchange_on(
    server: BackendServer, http: HttpBackend, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    where = address(url=server.url, token_file=str(token_file))
    token_file.write_text("old")
    server.token = "new"
    assert error_of(http, where).kind is ErrorKind.UNAUTHORIZED
    token_file.write_text("new\n")
    assert len(snapshot_of(http, where).actions) == 2


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"two\nlines", b"two words", b"\x1b[2J", b"\xc3\xa9", b"x" * 9000]
)
def test_a_token_that_no_header_can_carry_is_unauthorized_and_not_shown(
    content: bytes, server: BackendServer, http: HttpBackend, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_bytes(content)
    error = error_of(http, address(url=server.url, token_file=str(token_file)))
    assert error.kind is ErrorKind.UNAUTHORIZED
    assert str(token_file) in error.detail
    assert not content.strip() or content.decode() not in error.detail
    assert server.asked == []


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, Path.exists])
def test_a_token_file_that_is_no_file_is_unauthorized(
    make: Any, http: HttpBackend, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    make(token_file)
    error = error_of(http, address(url="http://127.0.0.1:9", token_file=str(token_file)))
    assert error.kind is ErrorKind.UNAUTHORIZED
    assert str(token_file) in error.detail


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_token_that_others_can_write_is_refused(
    mode: int, server: BackendServer, http: HttpBackend, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("s3cret")
    token_file.chmod(mode)
    error = error_of(http, address(url=server.url, token_file=str(token_file)))
    assert error.kind is ErrorKind.UNAUTHORIZED
    assert f"(mode {mode:04o})" in error.detail
    assert server.asked == []


def test_a_token_that_others_can_only_read_is_used_and_never_logged(
    server: BackendServer, http: HttpBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("s3cret")
    token_file.chmod(0o644)
    caplog.set_level(logging.DEBUG)
    snapshot_of(http, address(url=server.url, token_file=str(token_file)))
    assert "s3cret" not in caplog.text


# --- http: reports -----------------------------------------------------------------------


def test_reports_are_posted_with_a_key_that_is_the_same_when_they_are_repeated(
    server: BackendServer, http: HttpBackend
) -> None:
    where = address(url=server.url)
    assert send(http, where, "k1", "k2") == Taken(1, ("k1", "k2"))
    send(http, where, "k1", "k2")
    assert list(server.batches.values()) == [2]
    asked = server.asked[0]
    assert (asked.method, asked.path) == ("POST", "/api/actions/status")
    assert asked.headers["Content-Type"] == "application/json"
    assert [report["key"] for report in json.loads(asked.body)["reports"]] == ["k1", "k2"]
    assert server.statuses() == {"a": ["STARTED", "STARTED"]}


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_2xx_without_a_body_takes_all(
    status: int, server: BackendServer, http: HttpBackend
) -> None:
    server.itemised, server.report_status = False, status
    assert send(http, address(url=server.url), "k1", "k2").accepted == ("k1", "k2")


def test_reports_are_taken_one_by_one_and_a_key_in_no_list_stays_pending(
    server: BackendServer, http: HttpBackend
) -> None:
    server.reject_keys, server.ignore_keys = {"k2": "unknown action"}, {"k3"}
    taken = send(http, address(url=server.url), "k1", "k2", "k3", "k4")
    assert taken == Taken(1, ("k1", "k4"), (("k2", "unknown action"),))


def test_a_backend_that_quotes_our_token_does_not_get_it_into_a_message(
    server: BackendServer, http: HttpBackend, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text("s3cret")
    server.token, server.reject_keys = "s3cret", {"k1": "not for Bearer s3cret"}
    taken = send(http, address(url=server.url, token_file=str(token_file)), "k1")
    assert taken.refused == (("k1", "not for Bearer ..."),)


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"OK"), (200, b"{}"), (200, b"null"), (201, b'{"accepted": ["k1"], "rejected": []}')],
)
def test_any_other_body_takes_nothing(
    status: int, body: bytes, server: BackendServer, http: HttpBackend
) -> None:
    server.report_status, server.report_answer = status, body
    with pytest.raises(ExchangeError) as caught:
        send(http, address(url=server.url), "k1")
    assert caught.value.kind is ErrorKind.BAD_ANSWER


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_batch_that_is_refused_is_halved_down_to_the_report_that_is(
    status: int, server: BackendServer, http: HttpBackend
) -> None:
    server.poison_status, server.poison_keys = status, {"k5"}
    keys = [f"k{number}" for number in range(9)]
    taken = send(http, address(url=server.url), *keys)
    assert sorted(taken.accepted) == sorted(set(keys) - {"k5"})
    ((key, error),) = taken.refused
    assert key == "k5"
    assert str(status) in error
    assert [report["key"] for report in server.reports] == [key for key in keys if key != "k5"]


def test_a_batch_that_is_refused_altogether_is_refused_report_by_report(
    server: BackendServer, http: HttpBackend
) -> None:
    keys = [f"k{number}" for number in range(8)]
    server.poison_keys = set(keys)
    taken = send(http, address(url=server.url), *keys)
    assert taken.accepted == ()
    assert [key for key, _ in taken.refused] == keys
    assert len(server.asked) == 15


def test_other_refusals_say_nothing_of_a_report(server: BackendServer, http: HttpBackend) -> None:
    server.poison_status, server.poison_keys = 404, {"k1"}
    with pytest.raises(ExchangeError) as caught:
        send(http, address(url=server.url), "k1", "k2")
    assert caught.value.kind is ErrorKind.REFUSED


def test_what_was_settled_before_an_error_in_the_middle_of_halving_counts(
    server: BackendServer, http: HttpBackend
) -> None:
    server.report_script = [(422, b""), (204, b""), (503, b"")]
    taken = send(http, address(url=server.url), "k1", "k2", "k3", "k4")
    assert taken == Taken(1, ("k1", "k2"))


# --- file --------------------------------------------------------------------------------


@pytest.fixture
def actions_file(tmp_path: Path) -> Path:
    path = tmp_path / "actions.json"
    path.write_text(json.dumps([entry("a"), entry("b")]))
    return path


def test_a_file_is_pulled_and_not_modified_while_it_is_the_same(actions_file: Path) -> None:
    where = address("file", path=str(actions_file))
    first = snapshot_of(FileBackend(), where)
    assert [action.id for action in first.actions] == ["a", "b"]
    assert first.etag == first.digest
    known = {"etag": first.etag, "digest": first.digest}
    assert pull(FileBackend(), where, **known) == NotModified(1)
    actions_file.write_text(json.dumps({"actions": [entry("c")]}))
    changed = pull(FileBackend(), where, **known)
    assert isinstance(changed, Snapshot)
    assert [action.id for action in changed.actions] == ["c"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, Path.exists])
def test_a_file_that_is_missing_or_none_is_an_error_that_names_it(
    make: Any, tmp_path: Path
) -> None:
    path = tmp_path / "actions.json"
    make(path)
    error = error_of(FileBackend(), address("file", path=str(path)))
    assert error.kind is ErrorKind.LOCAL
    assert str(path) in error.detail


@pytest.mark.parametrize("cut", [0, 1, 50, -1])
def test_a_file_that_is_half_written_is_a_bad_answer(cut: int, actions_file: Path) -> None:
    actions_file.write_bytes(actions_file.read_bytes()[:cut])
    error = error_of(FileBackend(), address("file", path=str(actions_file)))
    assert error.kind is ErrorKind.BAD_ANSWER


def test_a_file_over_the_limit_is_too_large(actions_file: Path) -> None:
    size = actions_file.stat().st_size
    path = str(actions_file)
    snapshot_of(FileBackend(), address("file", path=path, max_body_bytes=size))
    error = error_of(FileBackend(), address("file", path=path, max_body_bytes=size - 1))
    assert error.kind is ErrorKind.TOO_LARGE


def test_reports_are_appended_a_line_each_and_a_half_line_spoils_none(actions_file: Path) -> None:
    where = address("file", path=str(actions_file))
    written = Path(f"{actions_file}.status.jsonl")
    assert send(FileBackend(), where, "k1", "k2").accepted == ("k1", "k2")
    with written.open("ab") as file:
        file.write(b'{"key": "half')
    send(FileBackend(), where, "k3")
    lines = written.read_text().splitlines()
    assert [json.loads(line)["key"] for line in (lines[0], lines[1], lines[3])] == [
        "k1",
        "k2",
        "k3",
    ]
    assert lines[2] == '{"key": "half'
    assert json.loads(lines[0])["executionStatus"] == "STARTED"


def test_reports_that_cannot_be_written_are_a_local_error(tmp_path: Path) -> None:
    where = address("file", path=str(tmp_path / "gone" / "actions.json"))
    with pytest.raises(ExchangeError) as caught:
        send(FileBackend(), where, "k1")
    assert caught.value.kind is ErrorKind.LOCAL
    assert "gone/actions.json.status.jsonl" in caught.value.detail


def test_reports_on_a_full_disk_are_a_local_error(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=128k,mode=700", "tmpfs"):
        fill(tmp_path / "small" / "ballast")
        with pytest.raises(ExchangeError, match="No space left") as caught:
            send(FileBackend(), address("file", path=str(tmp_path / "small" / "a.json")), "k1")
    assert caught.value.kind is ErrorKind.LOCAL
