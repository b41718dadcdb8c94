"""Every row of docs/crash-contract.md, tried: who is hit, what is seen, what becomes of it."""

import importlib
import os
import re
import signal
from collections.abc import Callable, Iterator

import pytest
from geosched.ipc.failpoints import Step
from support.contract import (
    LONG,
    TRIED,
    configure,
    family,
    hit,
    it_runs_again,
    nothing_left,
    pass_seconds,
    row,
    rows,
    running,
    supervisor,
    told_of,
)
from support.daemon import Daemon, daemon_installation, entry, lives
from support.halting import halted, start_halting
from support.mounts import call, ext4, fill, frozen, mounted
from support.paths import DOCS
from support.processes import (
    armed_workers,
    children_of,
    is_idle,
    prepared_workers,
    state_of,
    synchronisers,
    zygote,
)
from support.wait import wait_for

CONTRACT = DOCS / "crash-contract.md"
#: SPEC S17: so long after the daemon nothing of its runs is left.
NOTHING_LEFT_SECONDS = 5.0
#: Longer than every limit in the configuration; a soak takes a minute, and 20 s.
SUSPENDED_SECONDS = float(os.environ.get("GEOSCHED_SUSPENDED_SECONDS", "3"))
STALLED_SECONDS = float(os.environ.get("GEOSCHED_STALLED_SECONDS", "4"))
KILL, HALT, CONTINUE = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT


def test_each_row_of_the_contract_is_tried_and_nothing_else():
    importlib.import_module("integration.contract.test_lost_workers")  # it has rows, too
    rows = re.findall(r"^\| `([a-z+-]+)` \|", CONTRACT.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(TRIED)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        configure(installed)
        yield installed


# --- the supervisor ---------------------------------------------------------------------


@row("supervisor-killed")
@pytest.mark.parametrize("kind", ["default", "deaf"])
def test_after_a_killed_supervisor_nothing_is_left_in_time_and_it_runs_again(
    daemon: Daemon, kind: str
):
    running(daemon, kind)
    daemon.kill()
    wait_for(lambda: nothing_left(daemon), seconds=NOTHING_LEFT_SECONDS)
    it_runs_again(daemon)


@row("supervisor-stopped")
def test_a_stopped_supervisor_settles_what_ended_meanwhile_once_it_goes_on(daemon: Daemon):
    run = running(daemon, "short")
    hit(HALT, supervisor(daemon))
    assert daemon.ctl("--timeout", "1", "ping").returncode == 3
    (daemon.root / "go").touch()
    wait_for(lambda: list((daemon.root / "run/results").iterdir()), seconds=15)
    assert not lives(run["scriptPid"])
    hit(CONTINUE, supervisor(daemon))
    assert daemon.wait_status("a", "FINISHED")["reason"] == "completed"
    assert len(daemon.notes("began")) == 1


@row("supervisor-stopped-then-killed")
def test_what_ended_of_itself_under_a_stopped_supervisor_is_not_run_again(daemon: Daemon):
    running(daemon, "short")
    hit(HALT, supervisor(daemon))
    (daemon.root / "go").touch()
    wait_for(lambda: list((daemon.root / "run/results").iterdir()), seconds=15)
    daemon.kill()
    daemon.start()
    assert daemon.wait_status("a", "FINISHED")["reason"] == "completed"
    assert len(daemon.notes("began")) == 1


def test_an_orderly_stop_leaves_no_zygote_behind(daemon: Daemon):
    running(daemon)
    old = zygote(daemon)
    assert daemon.terminate() == 0
    assert not lives(old)


# --- the zygote and the synchroniser ----------------------------------------------------


@rows("how", {"zygote-killed": KILL, "zygote-stopped": HALT})
def test_without_its_zygote_the_daemon_goes_on_with_another(daemon: Daemon, how: int):
    run = running(daemon)
    old = zygote(daemon)
    hit(how, old)
    daemon.send([entry("a", -1, LONG), *(entry(f"b{n}", -1, LONG) for n in range(3))])
    for n in range(3):
        daemon.wait_phase(f"b{n}", "running", seconds=20)
    wait_for(lambda: not lives(old))
    assert daemon.action("a")["run"]["scriptPid"] == run["scriptPid"]
    assert lives(run["scriptPid"])
    assert daemon.ctl("stop", "a").returncode == 0


@rows("how", {"synchroniser-killed": KILL, "synchroniser-stopped": HALT})
def test_without_its_synchroniser_the_daemon_takes_another(daemon: Daemon, how: int):
    run = running(daemon)
    (old,) = wait_for(lambda: synchronisers(daemon))
    hit(how, old)
    wait_for(lambda: not lives(old), seconds=15)
    daemon.send([entry("a", -1, LONG), entry("b", -1, LONG)])
    daemon.wait_phase("b", "running", seconds=20)
    assert daemon.action("a")["run"]["scriptPid"] == run["scriptPid"]


# --- workers ----------------------------------------------------------------------------


@row("armed-worker-killed")
def test_a_killed_armed_worker_is_replaced_and_costs_no_run(daemon: Daemon):
    daemon.start()
    (old,) = wait_for(lambda: armed_workers(daemon))
    hit(KILL, old)
    daemon.send([entry("a", -1, LONG)])
    daemon.wait_phase("a", "running")


@row("next-script-killed")
def test_what_a_worker_has_forked_ahead_is_forked_again_where_it_was_killed(daemon: Daemon):
    daemon.send([entry("a", 8, LONG)])
    daemon.start()
    ((worker, ahead),) = wait_for(lambda: prepared_workers(daemon))
    hit(KILL, ahead)
    assert daemon.wait_phase("a", "running", seconds=20)["run"]["workerPid"] == worker


@row("armed-worker-stopped")
def test_a_run_given_to_a_stopped_worker_has_failed_when_that_is_silent(daemon: Daemon):
    daemon.start()
    (old,) = wait_for(lambda: armed_workers(daemon))
    wait_for(lambda: is_idle(old), what="a worker that has said that it is ready")
    hit(HALT, old)
    daemon.send([entry("a", -1, LONG)])
    assert daemon.wait_status("a", "FAILED")["reason"] == "worker-silent"
    wait_for(lambda: not lives(old))
    assert not daemon.notes("began")


@row("arming-worker-stopped")
def test_a_worker_that_hangs_before_it_is_ready_holds_a_start_back_for_seconds_only(
    daemon: Daemon,
):
    mark = start_halting(daemon, f"before-{Step.SEND_READY}")
    halted(daemon, mark)
    daemon.send([entry("a", -1, LONG)])
    daemon.wait_phase("a", "running", seconds=20)


@row("worker-killed")
def test_a_killed_worker_takes_its_script_along_and_the_action_has_failed(daemon: Daemon):
    run = running(daemon)
    hit(KILL, run["workerPid"])
    assert daemon.wait_status("a", "FAILED")["reason"] == "worker-lost"
    assert not lives(run["scriptPid"])
    assert not daemon.left_of("a")


@row("worker-stopped")
def test_a_silent_worker_is_ended_with_its_tree_and_the_action_has_failed(daemon: Daemon):
    run = running(daemon)
    hit(HALT, run["workerPid"])
    assert daemon.wait_status("a", "FAILED")["reason"] == "worker-silent"
    assert not lives(run["workerPid"])
    assert not daemon.left_of("a")


# --- scripts ----------------------------------------------------------------------------


@row("script-killed")
def test_a_killed_script_has_failed_by_its_signal(daemon: Daemon):
    run = running(daemon)
    hit(KILL, run["scriptPid"])
    failed = daemon.wait_status("a", "FAILED")
    assert (failed["reason"], failed["run"]["signal"]) == ("signal", "SIGKILL")
    assert not daemon.left_of("a")


@row("script-stopped")
def test_a_stopped_script_goes_on_being_a_run_and_can_be_stopped(daemon: Daemon):
    run = running(daemon)
    hit(HALT, run["scriptPid"])
    before = daemon.action("a")["run"]["lastHeartbeatAt"]
    wait_for(lambda: daemon.action("a")["run"]["lastHeartbeatAt"] != before)
    assert daemon.ctl("stop", "a").returncode == 0
    assert daemon.action("a")["executionStatus"] == "WONT_FINISH"
    assert nothing_left(daemon)


@rows("how, status", {"child-killed": (KILL, "FAILED"), "child-stopped": (HALT, "STARTED")})
def test_what_becomes_of_a_child_is_its_scripts_business(daemon: Daemon, how: int, status: str):
    run = running(daemon)
    (child,) = wait_for(lambda: children_of(run["scriptPid"]))
    hit(how, child)
    shown = daemon.wait_status("a", status)
    # This script ends with its child, and with its child's fate as its exit code.
    assert shown["reason"] == ("exit-code" if how == KILL else "due")
    if how == HALT:
        assert daemon.ctl("stop", "a").returncode == 0
    assert nothing_left(daemon)


@row("watchdog-silent")
def test_a_script_that_stops_feeding_its_watchdog_is_ended_and_has_failed(daemon: Daemon):
    running(daemon, "watched")
    assert daemon.wait_status("a", "FAILED")["reason"] == "watchdog"
    assert not daemon.left_of("a")


# --- several at once --------------------------------------------------------------------


@rows("who", {"supervisor+worker-killed": "worker", "supervisor+zygote-killed": "zygote"})
def test_after_several_deaths_at_once_nothing_is_left_in_time_and_it_runs_again(
    daemon: Daemon, who: str
):
    run = running(daemon)
    hit(KILL, supervisor(daemon), run["workerPid"] if who == "worker" else zygote(daemon))
    daemon.kill()
    wait_for(lambda: nothing_left(daemon), seconds=NOTHING_LEFT_SECONDS)
    it_runs_again(daemon)


@row("everything-killed")
def test_after_the_death_of_everything_scripts_are_gone_and_the_next_start_ends_their_children(
    daemon: Daemon,
):
    run = running(daemon)
    others = (zygote(daemon), *synchronisers(daemon), run["workerPid"])
    hit(KILL, supervisor(daemon), *others)
    daemon.kill()
    wait_for(lambda: not lives(run["scriptPid"]), seconds=NOTHING_LEFT_SECONDS)
    it_runs_again(daemon)


@row("supervisor-killed-worker-stopped")
def test_a_hung_worker_of_a_dead_supervisor_is_ended_by_the_zygote(daemon: Daemon):
    run = running(daemon)
    hit(HALT, run["workerPid"])
    daemon.kill()
    # The zygote waits 4 s for its workers; then whatever is left of them goes.
    wait_for(lambda: nothing_left(daemon) and not lives(run["workerPid"]), seconds=8)
    it_runs_again(daemon)


@row("supervisor+zygote-killed-worker-stopped")
def test_a_hung_worker_without_supervisor_and_zygote_is_ended_by_the_next_start(daemon: Daemon):
    run = running(daemon)
    hit(HALT, run["workerPid"])
    hit(KILL, zygote(daemon), supervisor(daemon))
    daemon.kill()
    it_runs_again(daemon)
    assert not lives(run["workerPid"])


@row("zygote+worker-killed")
def test_a_worker_killed_with_its_zygote_is_noticed_by_its_pidfd(daemon: Daemon):
    run = running(daemon)
    hit(KILL, zygote(daemon), run["workerPid"])
    assert daemon.wait_status("a", "FAILED")["reason"] == "worker-lost"
    assert not daemon.left_of("a")


@rows("who", {"supervisor+worker-stopped": supervisor, "zygote+worker-stopped": zygote})
def test_a_worker_stopped_with_another_is_noticed_by_its_silence(
    daemon: Daemon, who: Callable[[Daemon], int]
):
    run = running(daemon)
    other = who(daemon)
    hit(HALT, run["workerPid"], other)
    if other == supervisor(daemon):
        pass_seconds(SUSPENDED_SECONDS)
        hit(CONTINUE, other)
    assert daemon.wait_status("a", "FAILED", seconds=20)["reason"] == "worker-silent"
    assert not lives(run["workerPid"])
    assert not daemon.left_of("a")
    assert len(daemon.notes("began")) == 1
    if other != supervisor(daemon):  # a helper that is kept ready looked for the rest of the run
        daemon.send([entry(f"b{n}", -1, LONG) for n in range(3)])
        for n in range(3):
            daemon.wait_phase(f"b{n}", "running", seconds=20)
        wait_for(lambda: not lives(other))


@row("supervisor+zygote-stopped")
def test_a_supervisor_that_goes_on_without_its_zygote_takes_another(daemon: Daemon):
    run = running(daemon)
    old = zygote(daemon)
    hit(HALT, supervisor(daemon), old)
    daemon.send([entry("a", -1, LONG), *(entry(f"b{n}", -1, LONG) for n in range(2))])
    pass_seconds(SUSPENDED_SECONDS)
    hit(CONTINUE, supervisor(daemon))
    for n in range(2):
        daemon.wait_phase(f"b{n}", "running", seconds=20)
    wait_for(lambda: not lives(old))
    assert daemon.action("a")["run"]["scriptPid"] == run["scriptPid"]


# --- the host ---------------------------------------------------------------------------


@row("suspended-host")
def test_a_host_that_was_suspended_loses_no_healthy_run(daemon: Daemon):
    """Everything is stopped for longer than any limit, and continued (law 16)."""
    run = running(daemon)
    everybody = family(supervisor(daemon))
    assert {run["workerPid"], run["scriptPid"], *synchronisers(daemon)} < set(everybody)
    hit(HALT, *everybody)
    pass_seconds(SUSPENDED_SECONDS)
    hit(CONTINUE, *everybody)
    before = daemon.action("a")["run"]["lastHeartbeatAt"]
    wait_for(
        lambda: daemon.action("a")["run"]["lastHeartbeatAt"] != before,
        what=f"another beat: {daemon.action('a')} {daemon.log_text()}",
    )
    assert daemon.action("a")["phase"] == "running"
    assert daemon.action("a")["run"]["scriptPid"] == run["scriptPid"]


@row("stalled-disk")
def test_a_disk_that_stalls_delays_and_loses_nothing(daemon: Daemon):
    state = daemon.root / "state"
    with mounted(state, "-o", "loop", ext4(daemon.root / "disk", 400 * 1024**2)):
        run = running(daemon)
        known = [entry("a", -1, LONG), entry("ends", -1, LONG, type="short")]
        daemon.send(known)
        daemon.wait_phase("ends", "running")
        wait_for(lambda: daemon.notes("began", "ends"))
        with frozen(state):
            daemon.send([*known, entry("due", -1, LONG, type="short")])
            (daemon.root / "go").touch()
            wait_for(lambda: daemon.notes("ended", "ends"))
            wait_for(lambda: state_of(supervisor(daemon)) == "D", what="a commit that waits")
            pass_seconds(STALLED_SECONDS)
            assert not daemon.notes("began", "due"), "nothing starts before its intention is kept"
        for action_id in ("ends", "due"):
            daemon.wait_status(action_id, "FINISHED")
            assert len(daemon.notes("began", action_id)) == 1
            wait_for(lambda one=action_id: told_of(daemon, one) == ["STARTED", "FINISHED"])
        shown = daemon.action("a")
        assert (shown["phase"], shown["run"]["scriptPid"]) == ("running", run["scriptPid"])
        assert daemon.terminate() == 0


@rows("how", {"result-not-kept-full": "full", "result-not-kept-read-only": "read-only"})
def test_a_result_that_cannot_be_kept_is_still_delivered(daemon: Daemon, how: str):
    place = daemon.root / "run"
    with mounted(place, "-t", "tmpfs", "-o", "size=1m,mode=0750", "tmpfs"):
        running(daemon, "short")
        if how == "full":
            fill(place / "ballast")
        else:
            call("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place / "results")
        (daemon.root / "go").touch()
        assert daemon.wait_status("a", "FINISHED")["reason"] == "completed"
        daemon.wait_log("Cannot keep the result")
        assert daemon.terminate() == 0
