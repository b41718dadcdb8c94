"""A real daemon whose backend is hostile or broken (SPEC S8, S18, S20; facts B1 to B4).

Whatever an answer does: its error is named, daemonDB stays byte for byte what it was, what
runs goes on running, memory and time are bounded, and the next good answer counts. The
daemon of a module lives through all of it, as one in the field has to.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.client import Client
from geosched.ipc.messages.control import ActionIs, GetStatus, ShowAction, StatusIs, Sync, Synced
from geosched.ipc.messages.views import ActionView, BackendView, StatusView
from geosched.supervisor.sync.exchange import EXCHANGE_MARGIN_SECONDS
from support.backend import BackendServer
from support.daemon import Daemon, daemon_installation, entry
from support.faults import KIND_OF_FAULT, MEBIBYTE, RESET_ON_ACCEPT
from support.processes import synchronisers
from support.wait import wait_for

TIMEOUT_SECONDS = 1.5
#: An exchange that is hostile to the last, and what asking for it takes on a busy machine.
HOSTILE_SECONDS_MAX = TIMEOUT_SECONDS + EXCHANGE_MARGIN_SECONDS + 1.0
ACTIONS_MAX = 1000
#: More than the largest body, its unpacked and its parsed form together need.
SYNCHRONISER_BYTES_MAX = 96 * MEBIBYTE
#: What a supervisor that never sees a hostile byte may grow by over all cases.
SUPERVISOR_GROWTH_BYTES_MAX = 8 * MEBIBYTE

#: An empty answer takes reports, and who resets connections does not know what they are for.
NOT_FOR_REPORTS = {"empty", RESET_ON_ACCEPT}

STATUSES = {
    401: "unauthorized",
    403: "unauthorized",
    404: "refused",
    409: "refused",
    429: "busy",
    500: "refused",
    502: "refused",
    503: "busy",
    204: "bad-answer",
    206: "bad-answer",
    101: "bad-answer",
    307: "bad-answer",  # without saying where to
}


class Host:
    """A daemon with one action that runs and one that is ahead, and its backend."""

    def __init__(self, daemon: Daemon, backend: BackendServer) -> None:
        self.daemon = daemon
        self.backend = backend
        self.actions = [entry("runs", -60, 36_000), entry("ahead", 18_000, 36_000)]
        backend.set_actions(self.actions)
        script = daemon.script("hold", "note began\nwhile :; do sleep 1; done")
        daemon.configure(
            scripts={"default": {"command": [script]}},
            backend={
                "kind": "http",
                "url": backend.url,
                "poll_interval": "24h",
                "timeout": f"{TIMEOUT_SECONDS:g}s",
                "max_body": "1MiB",
                "max_actions": ACTIONS_MAX,
            },
        )
        daemon.start()
        daemon.wait_phase("runs", "running")
        self.client = Client(daemon.root / "run" / "control.sock", timeout_seconds=30)
        assert self.sync().error is None

    def sync(self) -> Synced:
        return self.client.ask(Sync(), Synced)

    def status(self) -> StatusView:
        return self.client.ask(GetStatus(), StatusIs).status

    def backend_view(self) -> BackendView:
        return self.status().backend

    def action(self, action_id: str) -> ActionView:
        return self.client.ask(ShowAction(action_id), ActionIs).action

    def good_again(self) -> Synced:
        """The fault is over: the next pull is good."""
        self.backend.fault, self.backend.body = "", None
        self.backend.fault_status, self.backend.fault_headers = 503, {}
        self.backend.set_actions(self.actions)
        # One that was under way joins the first, and still has the fault.
        synced = wait_for(lambda: (answer := self.sync()).error is None and answer)
        assert self.backend_view().last_pull_ok
        return synced

    def store(self) -> bytes:
        return (self.daemon.root / "state" / "daemondb" / "data.mdb").read_bytes()

    @property
    def supervisor(self) -> int:
        assert self.daemon.process is not None
        return self.daemon.process.pid


def peak_bytes(pid: int) -> int:
    """The most memory a process ever had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no memory")


@pytest.fixture(scope="module")
def installed() -> Iterator[Host]:
    with daemon_installation() as daemon, BackendServer() as backend:
        host = Host(daemon, backend)
        yield host
        host.client.close()


@pytest.fixture
def host(installed: Host) -> Iterator[Host]:
    """What every case asserts besides its own: the run goes on, the supervisor is small."""
    before = installed.action("runs")
    memory = peak_bytes(installed.supervisor)
    yield installed
    installed.good_again()
    after = installed.action("runs")
    assert (after.phase, after.attempt) == ("running", 1)
    assert before.run is not None
    assert after.run is not None
    assert after.run.run_id == before.run.run_id
    assert len(installed.daemon.notes("began", "runs")) == 1
    assert installed.action("ahead").phase == "scheduled"
    assert peak_bytes(installed.supervisor) - memory < SUPERVISOR_GROWTH_BYTES_MAX
    for pid in synchronisers(installed.daemon):
        assert peak_bytes(pid) < SYNCHRONISER_BYTES_MAX


def assert_changes_nothing(host: Host, kind: str) -> None:
    """A pull that fails: named, in time, and not a byte of daemonDB is another."""
    before, seen = host.store(), len(host.backend.asked)
    begun = time.monotonic()
    error = host.sync().error
    assert time.monotonic() - begun < HOSTILE_SECONDS_MAX
    assert error is not None
    assert error.startswith(f"cannot pull: {kind}: ")
    view = host.backend_view()
    assert not view.last_pull_ok
    assert view.last_error is not None
    assert view.last_error.startswith(f"{kind}: ")
    assert view.last_error.isprintable()
    assert "secret" not in view.last_error
    assert host.store() == before
    assert len(host.backend.asked) - seen <= 2  # this one, and perhaps a retry in between


# --- answers that do not count ------------------------------------------------------------


@pytest.mark.parametrize("fault", KIND_OF_FAULT)
def test_s08_a_hostile_answer_is_named_and_changes_nothing(host: Host, fault: str):
    host.backend.fault = fault
    assert_changes_nothing(host, KIND_OF_FAULT[fault])


@pytest.mark.parametrize("status", STATUSES)
def test_s08_a_status_that_is_no_success_changes_nothing(host: Host, status: int):
    host.backend.fault, host.backend.fault_status = "status", status
    assert_changes_nothing(host, STATUSES[status])


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ({"Retry-After": "120"}, 100, 180),
        ({"Retry-After": "864000"}, 3000, 3600),
        ({"Retry-After": "-1"}, 0, 900),
        ({"Retry-After": "Mon, 23 Nov 2099 08:02:00 GMT"}, 3000, 3600),
        ({"Retry-After": "soon"}, 0, 900),
    ],
    ids=str,
)
def test_a_wish_to_be_left_alone_is_heeded_within_bounds(
    host: Host, header: dict[str, str], least: float, most: float
):
    host.backend.fault, host.backend.fault_headers = "status", header
    assert_changes_nothing(host, "busy")
    wait = host.backend_view().next_pull_in_seconds
    assert wait is not None
    assert least <= wait <= most


def test_s08_a_backend_that_is_down_changes_nothing(host: Host):
    with host.backend.down():
        assert_changes_nothing(host, "unreachable")


# --- reports ------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", sorted(KIND_OF_FAULT.keys() - NOT_FOR_REPORTS))
def test_s18_a_hostile_answer_to_reports_loses_none(host: Host, fault: str):
    """One report is pending, of an action that came too late; it arrives once, at the end."""
    host.actions.append(entry(f"late-for-{fault}", -20, -10))
    host.backend.set_actions(host.actions)
    host.backend.fault, host.backend.fault_methods = fault, ("POST",)
    taken = len(host.backend.reports)
    try:
        first = host.sync()
        assert first.result.added == 1
        before = host.store()
        begun = time.monotonic()
        again = host.sync()
        assert time.monotonic() - begun < HOSTILE_SECONDS_MAX
        assert first.error is not None
        assert again.error is not None
        assert again.error.startswith("cannot report: ")
        assert host.status().outbox.depth == 1
        assert host.store() == before
    finally:
        host.backend.fault_methods = ("GET", "POST")
    host.good_again()  # unless it was tried again by itself, and taken, just before
    wait_for(lambda: host.status().outbox.depth == 0)
    (report,) = host.backend.reports[taken:]
    assert (report["id"], report["executionStatus"]) == (f"late-for-{fault}", "WONT_START")


# --- good answers with bad entries --------------------------------------------------------

Spoil = Callable[[dict[str, Any]], Any]


def changed(**fields: Any) -> Spoil:
    return lambda good: good | fields


def without(field: str) -> Spoil:
    return lambda good: {name: value for name, value in good.items() if name != field}


#: What is done to an entry, and the word of its reason.
BAD_ENTRIES: dict[str, tuple[Spoil, str]] = {
    "no zone": (changed(fromDate="2100-01-01T00:00:00"), "timezone"),
    "no date": (changed(fromDate="tomorrow"), "fromDate"),
    "month 13": (changed(fromDate="2100-13-01T00:00:00Z"), "fromDate"),
    "before 1970": (changed(fromDate="1969-12-31T23:59:59Z"), "1970"),
    "year 10000": (changed(toDate="10000-01-01T00:00:00Z"), "toDate"),
    "year 9999 beyond UTC": (changed(toDate="9999-12-31T23:59:59-01:00"), "9999"),
    "a number for a date": (changed(toDate=4_000_000_000), "toDate"),
    "ends before it begins": (changed(toDate="1999-01-01T00:00:00Z"), "toDate"),
    "no end": (without("toDate"), "toDate"),
    "a text for a boolean": (changed(shouldBeExecuted="true"), "shouldBeExecuted"),
    "a number for a boolean": (changed(shouldBeExecuted=1), "shouldBeExecuted"),
    "null for a boolean": (changed(shouldBeExecuted=None), "shouldBeExecuted"),
    "an app with a control character": (changed(appNames=["a\x1b[2Jb"]), "control"),
    "an app that is no text": (changed(appNames=[1]), "appNames"),
    "too many apps": (changed(appNames=["x"] * 1001), "appNames"),
    "a long app": (changed(appNames=["x" * 256]), "appNames"),
    "a type that is a path": (changed(type="../../etc"), "type"),
    "args too long": (changed(args={"x": "y" * 17_000}), "args"),
    "args with a control character": (changed(args={"x\u0000": 1}), "control"),
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_s08_a_bad_entry_is_set_aside_alone_and_shown(host: Host, name: str):
    """It is the running action's: it keeps its last good configuration, and runs on."""
    spoil, word = BAD_ENTRIES[name]
    new = f"beside {name}"
    host.actions.append(entry(new, 18_000, 36_000))
    host.backend.set_actions([spoil(host.actions[0]), *host.actions[1:]])
    synced = host.sync()
    assert synced.error is None
    assert (synced.result.added, synced.result.quarantined) == (1, 1)
    assert synced.result.withdrawn == 0
    view = host.backend_view()
    assert view.quarantined == 1
    (line,) = view.quarantine
    assert line.startswith("runs: cannot use the entry: ")
    assert word in line
    assert line.isprintable()
    assert host.action(new).phase == "scheduled"


@pytest.mark.parametrize(
    "action_id", ["", "x" * 201, "a\x1b[2Jb", "a\nb", None, 7, ["runs"]], ids=repr
)
def test_s08_an_id_that_cannot_be_used_withdraws_nothing(host: Host, action_id: Any):
    """It could be that of any action which is missing: so none counts as missing."""
    host.backend.set_actions([host.actions[0] | {"id": action_id}])
    synced = host.sync()
    assert synced.error is None
    assert (synced.result.withdrawn, synced.result.quarantined) == (0, 1)
    assert host.backend_view().quarantine[0].startswith("unreadable id: ")


def test_s08_an_id_sent_twice_with_different_content_is_set_aside(host: Host):
    host.backend.set_actions([*host.actions, host.actions[0] | {"appNames": ["Other"]}])
    synced = host.sync()
    assert synced.error is None
    assert (synced.result.updated, synced.result.quarantined) == (0, 1)
    assert "sent twice" in host.backend_view().quarantine[0]


def test_s08_identical_twins_count_once(host: Host):
    host.backend.set_actions([*host.actions, host.actions[0]])
    synced = host.sync()
    assert synced.error is None
    assert synced.result.quarantined == 0


@pytest.mark.parametrize("constant", ["1e999", "-1e999", "1" * 5000, "1e-400", "NaN", "Infinity"])
def test_s08_a_number_that_no_machine_holds_spoils_at_most_its_entry(host: Host, constant: str):
    odd = entry(f"odd {constant[:9]}", 18_000, 36_000, args="?", more="?")
    text = json.dumps([*host.actions, odd])
    host.backend.body = text.replace('"?"', constant).encode()
    synced = host.sync()
    if constant in ("NaN", "Infinity"):  # no JSON at all
        assert synced.error is not None
        assert "bad-answer" in synced.error
    else:
        assert synced.error is None
    assert synced.result.withdrawn == 0


def test_what_was_set_aside_is_forgotten_with_the_next_good_answer(host: Host):
    host.backend.set_actions([host.actions[0] | {"toDate": "never"}, *host.actions[1:]])
    assert host.sync().result.quarantined == 1
    host.good_again()
    assert host.backend_view().quarantined == 0


# --- a synchroniser that an answer ends ---------------------------------------------------


def test_an_answer_that_ends_its_reader_again_and_again_is_asked_for_twice_and_no_more(host: Host):
    """As the kernel does when memory runs out: the daemon must not go on at full speed."""
    host.backend.fault, host.backend.slow_seconds = "slow", 20.0
    seen = len(host.backend.asked)
    killed: set[int] = set()

    def pulled() -> bool:
        for pid in synchronisers(host.daemon):
            if len(host.backend.asked) - seen > len(killed) and pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        return host.backend_view().last_pull_ok is False

    host.client.ask(Sync(wait=False), Synced)
    wait_for(pulled, seconds=30)
    last_error = host.backend_view().last_error
    assert last_error is not None
    assert last_error.startswith("local: ")
    assert len(killed) == 2
