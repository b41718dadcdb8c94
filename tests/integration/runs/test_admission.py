"""What begins only when a worker is ready for it, and what becomes of what never begins."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from support.daemon import Daemon, daemon_installation, entry, instant
from support.processes import synchronisers, zygote
from support.wait import wait_for

#: More than any host begins within their windows.
CROWD = 400
CROWD_SECONDS = 2.0
TERMINAL = ("FINISHED", "FAILED", "WONT_START", "WONT_FINISH")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        runs = installed.script("runs", "note began\nexec sleep 600")
        fails = installed.script("fails", "note began\nexit 3")
        installed.configure(
            scripts={
                "default": {"command": [runs], "stop_grace": "1s"},
                "again": {
                    "command": [fails],
                    "restart": "always",
                    "restart_delay": "100ms",
                },
            },
            max_running=CROWD,
            spare_workers=0,
        )
        yield installed


@contextmanager
def no_worker_to_be_had(daemon: Daemon) -> Iterator[None]:
    """The zygote is stopped, until it is replaced; the daemon pulls all the same."""
    wait_for(lambda: synchronisers(daemon))
    pid = zygote(daemon)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it was replaced
            os.kill(pid, signal.SIGCONT)


def shown(daemon: Daemon, action_id: str) -> dict[str, Any]:
    return wait_for(lambda: daemon.action(action_id), what=daemon.log_text())


def test_s09_what_waits_for_a_worker_is_queued_and_begins_with_the_next_one(daemon: Daemon):
    daemon.start()
    with no_worker_to_be_had(daemon):
        daemon.send([entry("a", -1, 600)])
        waits = daemon.wait_phase("a", "queued")
        assert (waits["executionStatus"], waits["attempt"]) == (None, 0)
        assert waits["detail"] == "waits for a worker"
    run = daemon.wait_phase("a", "running")["run"]
    assert run["startedAt"] <= run["begunAt"]


def test_s09_an_action_without_a_script_needs_no_worker(daemon: Daemon):
    daemon.start()
    with no_worker_to_be_had(daemon):
        daemon.send([entry("a", -2, 600), entry("b", -1, 600, type="unknown")])
        assert daemon.wait_status("b", "FAILED")["reason"] == "no-script"
        assert shown(daemon, "a")["phase"] == "queued"


def test_s10_what_no_worker_was_ready_for_wont_start_at_the_end_of_its_window(daemon: Daemon):
    daemon.start()
    with no_worker_to_be_had(daemon):
        daemon.send([entry("a", -1, 1.2)])
        action = daemon.wait_status("a", "WONT_START", seconds=30)
    (event,) = [one for one in daemon.json("events")["events"] if one["id"] == "a"]
    assert action["reason"] == "window-missed"
    assert event["at"] >= action["toDate"]


def test_s12a_the_next_attempt_waits_for_a_worker_and_the_last_exit_settles_it(daemon: Daemon):
    daemon.send([entry("a", -1, 600, type="again")])
    daemon.start()
    wait_for(lambda: daemon.notes("began"))
    with no_worker_to_be_had(daemon):
        waits = wait_for(
            lambda: (
                (now := shown(daemon, "a"))["phase"] == "waiting"
                and "waits for a worker" in now["detail"]
                and now
            ),
            what=daemon.log_text(),
        )
        assert waits["detail"].startswith("exit code 3")
        daemon.send([entry("a", -1, 0.2, type="again")])
        assert daemon.wait_status("a", "FAILED", seconds=30)["reason"] == "exit-code"


def test_s13_of_a_crowd_nothing_is_finished_that_never_began(daemon: Daemon):
    """However fast the host is: what began in its window is FINISHED, and the rest is not."""
    daemon.start()
    daemon.send([entry(f"a{number}", 1, 1 + CROWD_SECONDS) for number in range(CROWD)])
    settled = wait_for(
        lambda: (
            (now := daemon.actions())
            and len(now) == CROWD
            and all(action["executionStatus"] in TERMINAL for action in now.values())
            and now
        ),
        seconds=60,
        what=daemon.log_text(),
    )
    noted = {words[1] for words in daemon.notes("began")}
    for action in settled.values():
        begun_at = (action["run"] or {}).get("begunAt")
        in_time = begun_at is not None and begun_at < action["toDate"]
        allowed = ("FINISHED",) if in_time else ("WONT_START", "WONT_FINISH")
        assert action["executionStatus"] in allowed, action
        assert begun_at or action["id"] not in noted, action


def test_a_run_that_is_over_still_tells_when_its_script_began(daemon: Daemon):
    daemon.send([entry("a", -1, 600)])
    daemon.start()
    begun_at = daemon.wait_phase("a", "running")["run"]["begunAt"]
    daemon.send([entry("a", -1, 0, toDate=instant(0))])
    daemon.wait_status("a", "FINISHED")
    (run,) = daemon.json("show", "a")["runs"]
    assert run["begunAt"] == begun_at
