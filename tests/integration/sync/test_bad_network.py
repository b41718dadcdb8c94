"""A real daemon at the far end of a bad network: how it waits, and how it catches up."""

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from geosched.ipc.messages.sync import REPORTS_PER_EXCHANGE_MAX
from geosched.supervisor.store.tables.outbox import REFUSALS_MAX
from geosched.supervisor.sync.report_sender import BACKLOG_PAUSE_SECONDS
from support.backend import BackendServer
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for

HOUR_SECONDS = 3600.0


@pytest.fixture
def backend() -> Iterator[BackendServer]:
    with BackendServer() as running:
        yield running


@pytest.fixture
def daemon(backend: BackendServer) -> Iterator[Daemon]:
    with daemon_installation() as installed:
        configure(installed, backend)
        yield installed


def configure(daemon: Daemon, backend: BackendServer, *, poll_interval: str = "1h") -> None:
    script = daemon.script("hold", "while :; do sleep 1; done")
    daemon.configure(
        scripts={"default": {"command": [script]}},
        backend={"kind": "http", "url": backend.url, "poll_interval": poll_interval},
    )


def asked(backend: BackendServer, method: str = "GET") -> int:
    return sum(one.method == method for one in backend.asked)


def next_pull_in_seconds(daemon: Daemon) -> float:
    return float(daemon.json("status")["backend"]["nextPullInSeconds"])


def boot_seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# --- waiting ------------------------------------------------------------------------------


def test_a_daemon_that_crashes_again_and_again_leaves_a_failing_backend_alone(
    daemon: Daemon, backend: BackendServer
):
    backend.fault, backend.fault_headers = "status", {"Retry-After": "3600"}
    daemon.start()
    wait_for(lambda: daemon.json("status")["backend"]["lastPullOk"] is False)
    for _ in range(3):
        daemon.kill()
        daemon.start()
        assert 3000 < next_pull_in_seconds(daemon) <= HOUR_SECONDS
    assert asked(backend) == 1
    backend.fault = ""
    daemon.json("sync")  # who asks does not wait
    assert asked(backend) == 2
    daemon.terminate()
    daemon.start()  # and nothing is left of it
    wait_for(lambda: asked(backend) == 3)


def test_what_is_no_kept_back_off_is_said_and_costs_nothing(daemon: Daemon, backend: BackendServer):
    (daemon.root / "run").mkdir()
    (daemon.root / "run" / "backoff.json").write_text('{"boot_id": "ga')
    daemon.start()
    wait_for(lambda: daemon.json("status")["backend"]["lastPullOk"])
    daemon.wait_log("Ignored")
    daemon.wait_log("backoff.json")


def test_a_device_polls_at_the_same_part_of_the_interval_whenever_it_was_started(daemon: Daemon):
    phases = []
    for _ in range(2):
        daemon.start()
        wait_for(lambda: daemon.json("status")["backend"]["lastPullOk"])
        phases.append((boot_seconds() + next_pull_in_seconds(daemon)) % HOUR_SECONDS)
        daemon.terminate()
    apart = abs(phases[0] - phases[1])
    assert min(apart, HOUR_SECONDS - apart) < 5.0  # what asking for it takes


# --- reports ------------------------------------------------------------------------------


def too_late(count: int) -> list[dict[str, Any]]:
    """Actions whose window was over before they were first seen: each makes one report."""
    return [entry(f"late-{n:03}", -20, -10) for n in range(count)]


def reports_arrived(backend: BackendServer) -> list[float]:
    return [one.at for one in backend.asked if one.method == "POST"]


def test_s18_a_backlog_drains_at_a_bounded_rate(daemon: Daemon, backend: BackendServer):
    count = 3 * REPORTS_PER_EXCHANGE_MAX + 50
    backend.set_actions(too_late(count))
    daemon.start()
    wait_for(lambda: len(backend.reports) == count, seconds=20)
    arrived = reports_arrived(backend)
    assert len(arrived) >= 4
    # What is measured at the other end of a busy machine is not exact.
    assert all(b - a > 0.7 * BACKLOG_PAUSE_SECONDS for a, b in itertools.pairwise(arrived))
    assert daemon.json("status")["outbox"]["depth"] == 0


def test_s18_who_asks_for_it_gets_a_backlog_through_at_once(daemon: Daemon, backend: BackendServer):
    count = 6 * REPORTS_PER_EXCHANGE_MAX
    daemon.start()
    wait_for(lambda: daemon.json("status")["backend"]["lastPullOk"])
    backend.set_actions(too_late(count))
    assert daemon.json("sync")["reported"] == count
    arrived = reports_arrived(backend)
    assert arrived[-1] - arrived[0] < 5 * BACKLOG_PAUSE_SECONDS


def test_s18_a_poisoned_report_costs_the_others_nothing_and_can_be_sent_or_dropped(
    daemon: Daemon, backend: BackendServer
):
    backend.reject_ids = {"late-000": "no such action", "late-001": "not this one either"}
    backend.set_actions(too_late(3))
    daemon.start()
    for _ in range(REFUSALS_MAX + 1):
        daemon.ctl("sync")
    assert backend.statuses() == {"late-002": ["WONT_START"]}
    shown = daemon.json("outbox", "list")
    assert shown["pending"] == []
    first, second = shown["refused"]
    assert (first["id"], first["executionStatus"]) == ("late-000", "WONT_START")
    assert (first["refusals"], first["setAside"]) == (REFUSALS_MAX, True)
    assert daemon.json("status")["outbox"]["refused"] == 2

    unknown = daemon.ctl("outbox", "drop", second["key"], "nonsense-7")
    assert unknown.returncode == 1
    assert "nonsense-7" in unknown.stderr
    assert daemon.json("outbox", "drop", second["key"]) == {"schemaVersion": 1, "dropped": 1}

    backend.reject_ids = {}
    flushed = daemon.json("outbox", "flush")
    assert (flushed["flushed"], flushed["reported"]) == (1, 1)
    assert backend.statuses() == {"late-000": ["WONT_START"], "late-002": ["WONT_START"]}
    shown = daemon.json("outbox", "list")
    assert (shown["pending"], shown["refused"]) == ([], [])


def test_a_flush_that_is_refused_again_says_so_and_keeps_the_report(
    daemon: Daemon, backend: BackendServer
):
    backend.reject_ids = {"late-000": "no such action"}
    backend.set_actions(too_late(1))
    daemon.start()
    for _ in range(REFUSALS_MAX + 1):
        daemon.ctl("sync")
    flushed = daemon.ctl("-o", "json", "outbox", "flush")
    assert flushed.returncode == 1
    assert "no such action" in flushed.stderr
    assert json.loads(flushed.stdout)["flushed"] == 1
    (pending,) = daemon.json("outbox", "list")["pending"]
    assert (pending["refusals"], pending["setAside"]) == (1, False)
    assert daemon.json("outbox", "drop", "--refused")["dropped"] == 0


# --- comparing ----------------------------------------------------------------------------


def differences(daemon: Daemon) -> list[tuple[str, str, Any, Any]]:
    done = daemon.ctl("-o", "json", "diff")
    found = json.loads(done.stdout)["differences"]
    assert done.returncode == (1 if found else 0), done.stderr
    return [(each["id"], each["field"], each["backend"], each["daemon"]) for each in found]


def test_a_diff_shows_what_a_pull_would_change_and_changes_nothing(
    daemon: Daemon, backend: BackendServer
):
    actions = {each: entry(each, 3600, 7200) for each in ("same", "gone", "other")}
    backend.set_actions(list(actions.values()))
    daemon.start()
    wait_for(lambda: daemon.json("status")["counts"]["NULL"] == 3)
    assert differences(daemon) == []

    changed = actions["other"] | {"appNames": ["Steam"], "args": {"x": 1}}
    backend.set_actions([actions["same"], changed, entry("new", 3600, 7200), {"id": "bad"}])
    before = (daemon.root / "state" / "daemondb" / "data.mdb").read_bytes()
    assert sorted(differences(daemon)) == [
        ("gone", "id", None, "gone"),
        ("new", "id", "new", None),
        ("other", "appNames", ["Steam"], ["Chrome"]),
        ("other", "args", {"x": 1}, None),
    ]
    assert (daemon.root / "state" / "daemondb" / "data.mdb").read_bytes() == before
    assert "1 entries of the backend cannot be used" in daemon.ctl("diff").stderr

    daemon.json("sync")
    assert differences(daemon) == []
    backend.fault = "garbage"
    failed = daemon.ctl("diff")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "cannot pull: bad-answer: " in failed.stderr


def test_a_diff_of_very_many_actions_comes_in_pages(daemon: Daemon, backend: BackendServer):
    daemon.start()
    wait_for(lambda: daemon.json("status")["backend"]["lastPullOk"])
    ids = [f"new-{n:04}" for n in range(2500)]
    backend.set_actions([entry(each, 3600, 7200) for each in ids])
    assert [each[0] for each in differences(daemon)] == ids
    assert daemon.json("list")["actions"] == []
