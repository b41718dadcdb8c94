"""The command `geosched-ctl` as a user runs it, against a daemon of canned answers."""

import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from geosched.ipc.messages import control, views
from geosched.ipc.messages.control import Answer, Call, RefusalKind, Refused, Reply, Request
from geosched.ipc.sockets import Poller, Server, new_context
from support.wait import wait_for

COMMAND = Path(sys.executable).with_name("geosched-ctl")
NOBODY = 65534
UNREADABLE = Refused(RefusalKind.BAD_REQUEST, "cannot read a message: unknown verb")
EVENT_KEYS = ["seq", "at", "id", "from", "to", "reason", "runId"]

Script = Callable[[Request], list[Answer]]


class Daemon:
    """Answers each request with what `script` makes of it, in a thread of its own.

    `seen` are the requests, in order.
    """

    def __init__(self, path: Path, script: Script) -> None:
        self.path = path
        self.seen: list[Request] = []
        self._script = script
        self._up = threading.Event()
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        assert self._up.wait(10)

    def _serve(self) -> None:
        context = new_context()
        server: Server[Call, Reply] = Server(context, self.path, receives=Call, mode=0o660)
        poller = Poller()
        poller.watch(server)
        self._up.set()
        while not self._leave.is_set():
            poller.wait(0.02)
            for peer, call in server.drain(16):
                assert isinstance(call, Call), call
                self.seen.append(call.request)
                for answer in self._script(call.request):
                    number = 0 if answer == UNREADABLE else call.number
                    server.send(peer.routing_id, Reply(number, answer))
        server.close()
        context.term()

    def close(self) -> None:
        self._leave.set()
        self._thread.join(10)


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="gs-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def daemon(place: Path) -> Iterator[Callable[[Script], Daemon]]:
    started: list[Daemon] = []

    def start(script: Script) -> Daemon:
        started.append(Daemon(place / "control.sock", script))
        return started[-1]

    yield start
    for one in started:
        one.close()


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GEOSCHED_")}
    return {**kept, **more}


def ctl(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def ctl_at(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ctl("--socket", str(place / "control.sock"), *arguments)


_STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def _nothing_goes_on() -> Iterator[None]:
    """What a test that fails leaves behind would be held against another test, later."""
    yield
    while _STARTED:
        with _STARTED.pop() as process:
            process.kill()


def started(place: Path, *arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [COMMAND, "--socket", place / "control.sock", *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=stderr,
        bufsize=0,  # a second line that was read with the first is not seen by `select`
    )
    _STARTED.append(process)
    return process


def answering(*answers: Answer) -> Script:
    return lambda _: list(answers)


def action(action_id: str, from_date: str = "2026-11-23T08:00:00.000Z") -> views.ActionView:
    return views.ActionView(
        action_id,
        from_date,
        "2027-11-23T08:00:00.000Z",
        True,
        True,
        ("Chrome",),
        "default",
        None,
        "scheduled",
        None,
        "",
        0,
    )


def event(seq: int) -> views.EventView:
    return views.EventView(seq, "2026-11-23T08:00:00.000Z", f"a{seq}", None, "STARTED", "due", "r1")


STATUS = views.StatusView(
    views.DaemonView(1, "0.1.0", "2026-11-23T08:00:00.000Z", 5.0),
    {"NULL": 1, "STARTED": 0, "WONT_START": 0, "WONT_FINISH": 0, "FINISHED": 0, "FAILED": 0},
    0,
    0,
    None,
    views.BackendView("file"),
    views.OutboxView(0),
    views.ClockView(True),
    "tree",
    views.StoreView("ok", 2**20, 2**26, "ext4", True),
)
PONG = control.Pong(4711, "0.1.0")


# --- which daemon --------------------------------------------------------------------------


def test_the_socket_may_be_a_path_or_an_endpoint_or_in_the_environment(place, daemon) -> None:
    daemon(answering(PONG))
    path = str(place / "control.sock")
    expected = {"schemaVersion": 1, "pong": True, "pid": 4711, "version": "0.1.0"}
    for result in (
        ctl("--socket", path, "-o", "json", "ping"),
        ctl("--socket", f"ipc://{path}", "-o", "json", "ping"),
        ctl("-o", "json", "ping", GEOSCHED_SOCKET=path),
        ctl("--socket", path, "-o", "json", "ping", GEOSCHED_SOCKET="/nowhere"),
        ctl("ping", "-o", "json", "--socket", path, GEOSCHED_SOCKET="/nowhere"),
    ):
        assert (result.returncode, json.loads(result.stdout)) == (0, expected), result


def test_the_configuration_says_where_the_socket_is(place, daemon) -> None:
    daemon(answering(PONG))
    config = place / "geosched.toml"
    config.write_text('[daemon]\nruntime_dir = "."\n[unknown]\nis = "not ours to judge"\n')
    assert ctl("--config", str(config), "ping").returncode == 0
    assert ctl("ping", GEOSCHED_CONFIG=str(config)).returncode == 0


@pytest.mark.parametrize("text", [None, "not toml", "[daemon]\nruntime_dir = 3\n", "\udcff"])
def test_a_configuration_that_cannot_be_read_is_named_on_one_line(place, text) -> None:
    config = place / "geosched.toml"
    if text is not None:
        config.write_bytes(text.encode(errors="surrogateescape"))
    result = ctl("--config", str(config), "ping")
    assert (result.returncode, result.stdout) == (2, "")
    assert f"cannot read the configuration {config}: " in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("socket_name", ["tcp://127.0.0.1:1", "ipc://", "", "/" + "x" * 120])
def test_a_socket_that_cannot_be_one_is_a_usage_error(socket_name) -> None:
    result = ctl("--socket", socket_name, "ping", GEOSCHED_CONFIG="/nowhere/at-all")
    assert result.returncode == 2, result


# --- a daemon that cannot be asked ---------------------------------------------------------


def test_no_socket_means_that_no_daemon_runs(place) -> None:
    result = ctl_at(place, "status")
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr == (
        "geosched-ctl: cannot reach the daemon: nothing listens at"
        f" {place / 'control.sock'} (is geoschedd running?)\n"
    )


def test_a_socket_file_that_a_dead_daemon_left_means_the_same(place) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place / "control.sock"))
    result = ctl_at(place, "status")
    assert result.returncode == 3
    assert "nothing listens" in result.stderr


def test_a_silent_daemon_is_told_apart_after_5_seconds(place, daemon) -> None:
    daemon(answering())
    began = time.monotonic()
    result = ctl_at(place, "status")
    assert 4.9 < time.monotonic() - began < 7
    assert (result.returncode, result.stdout) == (3, "")
    assert "no answer" in result.stderr


def test_a_frozen_daemon_whose_queue_is_full_is_not_taken_for_a_dead_one(place) -> None:
    queued = []
    with socket.socket(socket.AF_UNIX) as frozen:
        frozen.bind(str(place / "control.sock"))
        frozen.listen(0)
        queued.append(socket.socket(socket.AF_UNIX))
        queued[0].connect(str(place / "control.sock"))
        result = ctl_at(place, "--timeout", "0.3", "status")
        queued[0].close()
    assert result.returncode == 3
    assert "no answer" in result.stderr


def test_a_timeout_shortens_the_wait(place, daemon) -> None:
    daemon(answering())
    began = time.monotonic()
    assert ctl_at(place, "--timeout", "0.2", "ping").returncode == 3
    assert time.monotonic() - began < 3


def test_a_daemon_that_dies_while_asked_is_said_to_be_gone(place) -> None:
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(place / "control.sock"))
        dying.listen(8)
        asking = started(place, "ping")
        dying.accept()[0].close()
    _, complaint = asking.communicate(timeout=20)
    assert asking.returncode == 3
    assert b"nothing listens" in complaint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as another user")
def test_a_user_who_may_not_connect_is_told_so(place, daemon) -> None:
    place.chmod(0o755)
    daemon(answering(PONG))
    as_nobody = f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"
    asked = subprocess.run(
        ["setpriv", *as_nobody, COMMAND, "--socket", place / "control.sock", "ping"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if asked.returncode in (126, 127) or "No module named" in asked.stderr:
        pytest.skip("another user cannot run this installation")
    assert asked.returncode == 4, asked
    assert "permission denied" in asked.stderr


# --- answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (RefusalKind.FAILED, 1),
        (RefusalKind.BAD_REQUEST, 2),
        (RefusalKind.NOT_PERMITTED, 4),
        (RefusalKind.NO_SUCH_ACTION, 5),
        (RefusalKind.CONFLICT, 6),
    ],
)
def test_each_refusal_has_its_exit_code_and_its_reason(place, daemon, kind, code) -> None:
    daemon(answering(Refused(kind, "cannot stop a\x1b[2J\nb")))
    result = ctl_at(place, "-o", "json", "stop", "a")
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith("geosched-ctl: cannot stop a")
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


def test_a_request_that_the_daemon_cannot_read_is_not_waited_for(place, daemon) -> None:
    daemon(answering(UNREADABLE))
    result = ctl_at(place, "status")
    assert (result.returncode, result.stderr) == (2, f"geosched-ctl: {UNREADABLE.detail}\n")


def test_an_answer_to_something_else_is_an_error(place, daemon) -> None:
    daemon(answering(PONG))
    result = ctl_at(place, "status")
    assert result.returncode == 1
    assert "Pong" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("ping", "too-much"),
        ("list", "--status", "MAYBE"),
        ("list", "--limit", "-1"),
        ("stop",),
        ("show", ""),
        ("show", "x" * 201),
        ("show", b"\xff"),
        ("--timeout", "0", "ping"),
        ("--timeout", "nan", "ping"),
        ("-o", "yaml", "ping"),
        ("-o", "json", "events", "-f"),
        ("-o", "json", "logs", "-f", "a"),
        ("logs", "a", "-n", "-3"),
        ("outbox", "drop"),
        ("outbox", "drop", "gen-1", "--refused"),
        ("outbox", "drop", b"\xff"),
        ("outbox", "list", "too-much"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(arguments) -> None:
    result = ctl(*arguments, GEOSCHED_SOCKET="/tmp/gs-nowhere")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1


def test_help_and_version_need_no_daemon() -> None:
    assert ctl("--help").returncode == 0
    assert ctl("list", "--help").returncode == 0
    assert ctl("--version").stdout.startswith("geosched-ctl ")


def test_status_is_the_view_with_a_schema_version(place, daemon) -> None:
    daemon(answering(control.StatusIs(STATUS)))
    document = json.loads(ctl_at(place, "-o", "json", "status").stdout)
    assert document["schemaVersion"] == 1
    assert document["daemon"]["uptimeSeconds"] == 5.0
    assert document["counts"]["NULL"] == 1
    assert document["nextEdge"] is None
    assert document["backend"]["lastPullOk"] is None
    assert document["containment"] == "tree"
    assert "geoschedd" in ctl_at(place, "status").stdout


def test_jsonl_is_one_line_for_one_document(place, daemon) -> None:
    daemon(answering(control.StatusIs(STATUS)))
    assert ctl_at(place, "-o", "jsonl", "status").stdout.count("\n") == 1


def pages(request: Request) -> list[Answer]:
    assert isinstance(request, control.ListActions)
    match request.cursor:
        case "":
            late, moved = action("z", "2026-11-25T08:00:00.000Z"), action("moved")
            return [control.ActionsAre((late, moved), "1")]
        case "1":
            return [control.ActionsAre((action("b"), action("a"), action("moved")), "2")]
        case _:
            return [control.ActionsAre((action("c", "2026-11-22T08:00:00.000Z"),), "")]


def test_a_list_gathers_all_pages_then_sorts_then_limits(place, daemon) -> None:
    daemon(pages)

    def listed(*arguments: str) -> list[str]:
        document = json.loads(ctl_at(place, "-o", "json", "list", *arguments).stdout)
        assert document["schemaVersion"] == 1
        return [found["id"] for found in document["actions"]]

    assert listed() == ["c", "a", "b", "moved", "z"]
    assert listed("--limit", "2") == ["c", "a"]
    assert listed("--limit", "0") == []


def test_a_list_as_jsonl_is_one_action_a_line(place, daemon) -> None:
    daemon(pages)
    lines = ctl_at(place, "-o", "jsonl", "list").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["c", "a", "b", "moved", "z"]
    assert json.loads(lines[0])["executionStatus"] is None


def test_a_list_asks_for_statuses_in_any_case(place, daemon) -> None:
    asked = daemon(answering(control.ActionsAre((), "")))
    assert ctl_at(place, "list", "--status", "null", "--status", "Failed").returncode == 0
    assert asked.seen == [control.ListActions(("NULL", "FAILED"), "")]


def test_a_daemon_that_repeats_a_page_does_not_keep_the_list_for_ever(place, daemon) -> None:
    daemon(answering(control.ActionsAre((action("a"),), "1")))
    assert ctl_at(place, "list").returncode == 1


def test_show_has_the_action_and_its_runs(place, daemon) -> None:
    run = views.RunView("r1", 1, 10, 11, "2026-11-23T08:00:00.000Z")
    asked = daemon(answering(control.ActionIs(action("a"), (run,))))
    document = json.loads(ctl_at(place, "-o", "json", "show", "a").stdout)
    assert document["action"]["id"] == "a"
    assert document["runs"][0]["runId"] == "r1"
    assert ctl_at(place, "show", "a").stdout.startswith("id ")
    assert asked.seen[0] == control.ShowAction("a")


# --- verbs that take time ------------------------------------------------------------------


def test_sync_waits_for_longer_than_a_silence_once_it_is_accepted(place, daemon) -> None:
    def slow(_: Request) -> list[Answer]:
        return [control.Accepted(20.0)]

    running = daemon(slow)
    asking = started(place, "-o", "json", "sync")
    wait_for(lambda: running.seen)
    with pytest.raises(subprocess.TimeoutExpired):
        asking.wait(6)
    asking.send_signal(signal.SIGINT)
    asking.communicate(timeout=10)
    assert asking.returncode == 130


def test_sync_prints_what_it_did(place, daemon) -> None:
    daemon(answering(control.Accepted(9.0), control.Synced(views.SyncView(added=3))))
    document = json.loads(ctl_at(place, "-o", "json", "sync").stdout)
    assert (document["schemaVersion"], document["added"], document["reported"]) == (1, 3, 0)


def test_a_sync_that_failed_prints_counts_and_the_reason_and_fails(place, daemon) -> None:
    daemon(answering(control.Synced(views.SyncView(reported=2), "cannot pull: refused")))
    result = ctl_at(place, "-o", "json", "sync")
    assert result.returncode == 1
    assert json.loads(result.stdout)["reported"] == 2
    assert result.stderr == "geosched-ctl: cannot pull: refused\n"


def test_sync_without_waiting_only_asks(place, daemon) -> None:
    asked = daemon(answering(control.Synced(views.SyncView())))
    assert "asked for" in ctl_at(place, "sync", "--no-wait").stdout
    assert json.loads(ctl_at(place, "-o", "json", "sync", "--no-wait").stdout)["added"] == 0
    assert set(asked.seen) == {control.Sync(wait=False)}


def test_what_was_accepted_and_is_not_done_in_its_bound_is_exit_8(place, daemon) -> None:
    daemon(answering(control.Accepted(0.3)))
    result = ctl_at(place, "stop", "a")
    assert (result.returncode, result.stdout) == (8, "")
    assert "not done within 0.3 s" in result.stderr


def test_a_timeout_replaces_the_bound_of_what_was_accepted(place, daemon) -> None:
    daemon(answering(control.Accepted(60.0)))
    assert ctl_at(place, "--timeout", "0.5", "stop", "a").returncode == 8


def on_a_terminal(place: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of the command where that is a terminal."""
    ours, theirs = pty.openpty()
    with started(place, *arguments, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # so a terminal ends whose other side was closed
                break
        os.close(ours)
        process.communicate(timeout=20)
    return process.returncode, seen.decode()


PROGRESS = [
    control.Accepted(9.0), control.Progress(200, 9000), control.Progress(9000, 9000),
    control.Synced(views.SyncView(added=9000)),
]  # fmt: skip


def test_a_terminal_sees_how_a_sync_goes_and_nothing_of_it_is_left(place, daemon) -> None:
    running = daemon(answering(*PROGRESS))
    code, seen = on_a_terminal(place, "sync")
    assert code == 0
    assert "200 of 9000" in seen
    assert seen.endswith("\r" + " " * len("9000 of 9000") + "\r")
    assert running.seen == [control.Sync(progress=True)]


def test_a_pipe_sees_nothing_of_how_a_sync_goes(place, daemon) -> None:
    running = daemon(answering(*PROGRESS))
    done = ctl_at(place, "-o", "json", "sync")
    assert (done.returncode, done.stderr) == (0, "")
    assert running.seen == [control.Sync()]


def difference(action_id: str, field: str, there: object, here: object) -> views.DifferenceView:
    return views.DifferenceView(action_id, field, there, here, "backend")


def two_pages(request: Request) -> list[Answer]:
    if isinstance(request, control.Compare):
        return [control.Accepted(9.0), control.Compared(4, 3, 1)]
    assert isinstance(request, control.ListDifferences)
    assert request.number == 4
    if request.cursor == 0:
        return [control.DifferencesAre((difference("a", "appNames", ["x"], []),), 1)]
    last = (difference("b\x1b", "id", "b\x1b", None), difference("c", "id", None, "c"))
    return [control.DifferencesAre(last, 0)]


def test_differences_are_all_pages_of_them_and_exit_1(place, daemon) -> None:
    daemon(two_pages)
    done = ctl_at(place, "-o", "json", "diff")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["setAside"] == 1
    assert document["differences"] == [
        {"id": "a", "field": "appNames", "backend": ["x"], "daemon": [], "owner": "backend"},
        {"id": "b\x1b", "field": "id", "backend": "b\x1b", "daemon": None, "owner": "backend"},
        {"id": "c", "field": "id", "backend": None, "daemon": "c", "owner": "backend"},
    ]
    assert "1 entries of the backend cannot be used" in done.stderr
    lines = ctl_at(place, "-o", "jsonl", "diff").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a", "b\x1b", "c"]
    table = ctl_at(place, "diff").stdout
    assert "missing" in table
    assert "\x1b" not in table


def test_no_difference_is_exit_0(place, daemon) -> None:
    daemon(answering(control.Accepted(9.0), control.Compared(1, 0, 0)))
    done = ctl_at(place, "-o", "json", "diff")
    assert (done.returncode, json.loads(done.stdout)["differences"]) == (0, [])


def test_a_comparison_that_failed_prints_no_document(place, daemon) -> None:
    failed = control.Compared(1, 0, 0, "cannot pull: unreachable: no")
    daemon(answering(control.Accepted(9.0), failed))
    done = ctl_at(place, "-o", "json", "diff")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "geosched-ctl: cannot pull: unreachable: no\n"


def report_view(number: int, *, set_aside: bool) -> views.ReportView:
    return views.ReportView(
        f"gen-{number}", f"a\x1b{number}", "STARTED", "2026-11-23T08:00:00.000Z", 1, "run-1",
        None, None, "due", 10 if set_aside else 0, set_aside,
    )  # fmt: skip


def in_pages(request: Request) -> list[Answer]:
    """Three reports pending, in two pages; one set aside."""
    assert isinstance(request, control.ListReports)
    numbers, cursor = {0: ([1, 2], 2), 2: ([3], 0)}[request.cursor]
    if request.set_aside:
        numbers, cursor = [9], 0
    views = tuple(report_view(n, set_aside=request.set_aside) for n in numbers)
    return [control.ReportsAre(views, cursor)]


def test_the_outbox_is_all_pages_of_both_kinds(place, daemon) -> None:
    daemon(in_pages)
    shown = json.loads(ctl_at(place, "-o", "json", "outbox", "list").stdout)
    assert [report["key"] for report in shown["pending"]] == ["gen-1", "gen-2", "gen-3"]
    assert [report["key"] for report in shown["refused"]] == ["gen-9"]
    assert set(shown["refused"][0]) == {
        "key", "id", "executionStatus", "at", "attempt", "runId", "exitCode", "signal", "reason",
        "refusals", "setAside",
    }  # fmt: skip
    lines = ctl_at(place, "-o", "jsonl", "outbox", "list").stdout.splitlines()
    assert [json.loads(line)["setAside"] for line in lines] == [False, False, False, True]
    table = ctl_at(place, "outbox", "list").stdout
    assert "10 times, set aside" in table
    assert "\x1b" not in table


def test_a_daemon_that_repeats_a_page_of_reports_does_not_keep_the_list_for_ever(
    place, daemon
) -> None:
    daemon(answering(control.ReportsAre((), 7)))
    done = ctl_at(place, "outbox", "list")
    assert (done.returncode, "repeats a page" in done.stderr) == (1, True)


def test_a_flush_prints_what_became_of_it_and_fails_where_reporting_does(place, daemon) -> None:
    daemon(answering(control.Accepted(9.0), control.Flushed(3, 1, "cannot report: refused: no")))
    done = ctl_at(place, "-o", "json", "outbox", "flush")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"schemaVersion": 1, "flushed": 3, "reported": 1}
    assert done.stderr == "geosched-ctl: cannot report: refused: no\n"


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (["gen-1", "gen-2"], control.DropReports(("gen-1", "gen-2"))),
        (["--refused"], control.DropReports()),
    ],
)
def test_drop_names_keys_or_says_all(place, daemon, arguments, request_) -> None:
    running = daemon(answering(control.Dropped(2)))
    done = ctl_at(place, "-o", "json", "outbox", "drop", *arguments)
    assert json.loads(done.stdout)["dropped"] == 2
    assert running.seen == [request_]


def test_stop_prints_the_action_as_it_is_then(place, daemon) -> None:
    daemon(answering(control.Accepted(9.0), control.Stopped(action("a"))))
    document = json.loads(ctl_at(place, "-o", "json", "stop", "a").stdout)
    assert document["action"]["id"] == "a"


def test_shutdown_returns_when_the_process_is_gone(place, daemon) -> None:
    leaving = subprocess.Popen(["sleep", "60"])
    try:
        asked = daemon(answering(control.ShuttingDown(leaving.pid, 30.0)))
        asking = started(place, "-o", "json", "shutdown")
        wait_for(lambda: asked.seen)
        with pytest.raises(subprocess.TimeoutExpired):
            asking.wait(0.5)
    finally:
        leaving.kill()
        leaving.wait(10)
    output, _ = asking.communicate(timeout=10)
    assert asking.returncode == 0
    assert json.loads(output) == {"schemaVersion": 1, "pid": leaving.pid, "gone": True}


@pytest.mark.parametrize(("arguments", "bound"), [((), 0.3), (("--timeout", "0.5"), 60.0)])
def test_a_daemon_that_does_not_leave_in_time_is_exit_8(place, daemon, arguments, bound) -> None:
    daemon(answering(control.ShuttingDown(os.getpid(), bound)))
    assert ctl_at(place, *arguments, "shutdown").returncode == 8


def test_shutdown_of_a_daemon_that_is_gone_at_once_is_done(place) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait(10)
    brief = Daemon(place / "control.sock", answering(control.ShuttingDown(gone.pid, 20.0)))
    try:
        asking = started(place, "shutdown")
        wait_for(lambda: brief.seen)
    finally:
        brief.close()
    asking.communicate(timeout=10)
    assert asking.returncode == 0


# --- logs and events -----------------------------------------------------------------------

OUTPUT = b"".join(b"line %06d\n" % number for number in range(20_000)) + b"\xff\x1b[31mend"


def log_of(output: bytes, *, ended: bool = True) -> Script:
    def read(request: Request) -> list[Answer]:
        assert isinstance(request, control.ReadLog)
        start = request.offset if request.offset >= 0 else max(0, len(output) + request.offset)
        data = output[start : start + control.LOG_CHUNK_BYTES_MAX]
        over = ended and start + len(data) == len(output)
        return [control.LogChunk("r2", request.attempt or 2, start, data, over)]

    return read


def raw(place: Path, *arguments: str) -> bytes:
    return subprocess.run(
        [COMMAND, "--socket", place / "control.sock", *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        timeout=30,
        check=True,
    ).stdout


@pytest.mark.parametrize("ended", [True, False])
def test_logs_are_byte_for_byte_what_the_run_wrote(place, daemon, ended) -> None:
    daemon(log_of(OUTPUT, ended=ended))
    assert raw(place, "logs", "a") == OUTPUT


@pytest.mark.parametrize("lines", [0, 1, 3, 10_000, 30_000])
def test_logs_may_be_only_the_last_lines(place, daemon, lines) -> None:
    daemon(log_of(OUTPUT))
    expected = b"".join(OUTPUT.splitlines(keepends=True)[-lines:]) if lines else b""
    assert raw(place, "logs", "a", "-n", str(lines)) == expected


def test_logs_of_an_earlier_attempt_are_asked_for_by_its_number(place, daemon) -> None:
    asked = daemon(log_of(b"first\n"))
    assert raw(place, "logs", "a", "--run", "1") == b"first\n"
    assert asked.seen == [control.ReadLog("a", 1, 0)]


def test_logs_as_json_are_one_document(place, daemon) -> None:
    daemon(log_of(b"\xffa\nb\n"))
    document = json.loads(ctl_at(place, "-o", "json", "logs", "a", "-n", "2").stdout)
    assert document == {
        "schemaVersion": 1,
        "runId": "r2",
        "attempt": 2,
        "output": "\ufffda\nb\n",
        "ended": True,
    }


def test_logs_follow_one_run_to_its_end(place, daemon) -> None:
    written = bytearray(b"old\nfirst\n")
    over = threading.Event()

    def growing(request: Request) -> list[Answer]:
        return log_of(bytes(written), ended=over.is_set())(request)

    asked = daemon(growing)
    asking = started(place, "logs", "-f", "-n", "1", "a")
    assert read_line(asking) == b"first\n"
    written.extend(b"second\n")
    assert read_line(asking) == b"second\n"
    written.extend(b"last")
    over.set()
    rest, complaint = asking.communicate(timeout=10)
    assert (asking.returncode, rest, complaint) == (0, b"last", b"")
    attempts = [request.attempt for request in asked.seen]
    assert attempts == [0, *[2] * (len(attempts) - 1)]


def test_logs_without_any_output_left_fail(place, daemon) -> None:
    daemon(answering(Refused(RefusalKind.FAILED, "cannot show the output of a: none is left")))
    assert ctl_at(place, "logs", "a").returncode == 1


def read_line(asking: subprocess.Popen[bytes]) -> bytes:
    assert asking.stdout is not None
    readable, _, _ = select.select([asking.stdout], [], [], 10)
    assert readable, "nothing came within 10 s"
    return asking.stdout.readline()


def test_events_are_a_document_or_lines_of_exactly_their_fields(place, daemon) -> None:
    asked = daemon(answering(control.EventsAre((event(7), event(8)))))
    document = json.loads(ctl_at(place, "-o", "json", "events").stdout)
    assert [found["seq"] for found in document["events"]] == [7, 8]
    lines = ctl_at(place, "-o", "jsonl", "events").stdout.splitlines()
    assert [list(json.loads(line)) for line in lines] == [EVENT_KEYS, EVENT_KEYS]
    assert json.loads(lines[0])["from"] is None
    assert "NULL -> STARTED" in ctl_at(place, "events").stdout
    assert set(asked.seen) == {control.ReadEvents(0, wait=False)}


def test_events_are_followed_until_interrupted_and_gaps_are_said(place, daemon) -> None:
    coming = {0: (event(7),), 7: (event(8),), 8: (event(12),)}

    def follow(request: Request) -> list[Answer]:
        assert isinstance(request, control.ReadEvents)
        newer = coming.get(request.after, ())
        return [control.EventsAre(newer)] if newer else []

    asked = daemon(follow)
    asking = started(place, "-o", "jsonl", "events", "-f")
    assert [json.loads(read_line(asking))["seq"] for _ in range(3)] == [7, 8, 12]
    wait_for(lambda: len(asked.seen) == 4)
    asking.send_signal(signal.SIGINT)
    rest, complaint = asking.communicate(timeout=10)
    assert (asking.returncode, rest) == (130, b"")
    assert complaint.startswith(b"geosched-ctl: 3 events missed")
    assert b"Traceback" not in complaint
    assert asked.seen[1:] == [control.ReadEvents(after, wait=True) for after in (7, 8, 12)]


def test_a_daemon_that_answers_empty_at_once_is_not_asked_without_pause(place, daemon) -> None:
    asked = daemon(answering(EMPTY))
    asking = started(place, "events", "-f")
    wait_for(lambda: len(asked.seen) >= 3)
    began, before = time.monotonic(), len(asked.seen)
    wait_for(lambda: len(asked.seen) >= before + 3)
    assert time.monotonic() - began > 0.5
    asking.terminate()
    asking.communicate(timeout=10)


def test_following_ends_when_the_daemon_is_gone(place) -> None:
    def follow(request: Request) -> list[Answer]:
        return [] if isinstance(request, control.ReadEvents) and request.wait else [EMPTY]

    leaving = Daemon(place / "control.sock", follow)
    try:
        asking = started(place, "events", "-f")
        wait_for(lambda: len(leaving.seen) == 2)
    finally:
        leaving.close()
    _, complaint = asking.communicate(timeout=10)
    assert asking.returncode == 3
    assert b"nothing listens" in complaint


EMPTY = control.EventsAre(())


# --- the other end of standard output ------------------------------------------------------


def test_a_reader_that_leaves_early_is_no_reason_to_complain(place, daemon) -> None:
    daemon(log_of(OUTPUT))
    for arguments in (("logs", "a"), ("-o", "json", "logs", "a")):
        asking = started(place, *arguments)
        assert asking.stdout is not None
        asking.stdout.read(10)
        asking.stdout.close()
        assert asking.stderr is not None
        assert asking.stderr.read() == b""
        asking.stderr.close()
        asking.wait(10)


@pytest.mark.parametrize("arguments", [("ping",), ("-o", "json", "ping"), ("--help",)])
def test_output_that_cannot_be_written_is_a_failure(place, daemon, arguments) -> None:
    daemon(answering(PONG))
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [COMMAND, "--socket", place / "control.sock", *arguments],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == b"geosched-ctl: cannot write the output: No space left on device\n"


def test_a_terminal_gets_colours_and_its_own_width_and_a_pipe_neither(place, daemon) -> None:
    daemon(answering(control.ActionsAre((action("x" * 150 + "\x1b[2J"),), "")))
    main, side = os.openpty()
    asking = subprocess.Popen(
        [COMMAND, "--socket", place / "control.sock", "list"],
        env=environment(TERM="xterm-256color", COLUMNS="80"),
        stdin=subprocess.DEVNULL,
        stdout=side,
    )
    assert asking.wait(10) == 0
    os.close(side)
    shown = os.read(main, 65_536).decode()
    os.close(main)
    assert "\x1b[1m" in shown
    assert "\x1b[2J" not in shown
    bare = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert len(bare) == 2
    assert max(map(len, bare)) <= 80
    piped = ctl_at(place, "list").stdout
    assert "x" * 150 in piped
    assert "\x1b" not in piped


def test_an_id_that_the_terminal_cannot_show_is_no_crash(place, daemon) -> None:
    daemon(answering(control.ActionsAre((action("größe-大"),), "")))
    result = ctl("--socket", str(place / "control.sock"), "list", PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    assert "gr??e-?" in result.stdout
