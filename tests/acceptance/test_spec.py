"""SPEC from outside, one test a number: the wheel, its commands, real scripts.

S2 and S17 are judged by what the scripts themselves wrote, never by daemonDB.
"""

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest
from support.backend import BackendServer
from support.daemon import Daemon, daemon_installation, entry, lives, processes_marked
from support.wait import wait_for

pytestmark = pytest.mark.timeout(90)

LONG = 3600
SLEEPS = "trap 'note ended; exit 0' TERM\nnote began\nsleep 600 & wait $!"
STUBBORN = "trap '' TERM\nnote began\nsleep 600 & while :; do sleep 0.1; done"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        installed.by_command = True
        yield installed


@pytest.fixture
def ready(daemon: Daemon) -> Daemon:
    """Configured with a few scripts, one a type; not started."""
    scripts = {
        "default": SLEEPS,
        "quick": "note began; echo out; note ended",
        "fails": "note began; exit 7",
        "stubborn": STUBBORN,
    }
    daemon.configure(
        scripts={
            name: {"command": [daemon.script(name, body)], "stop_grace": "2s"}
            for name, body in scripts.items()
        }
        | {
            "stubborn": {"command": [daemon.script("stubborn", STUBBORN)], "stop_grace": "300ms"},
            "retries": {
                "command": [daemon.script("retries", "note began; exit 3")],
                "restart": "on-failure",
                "restart_delay": "200ms",
            },
            "missing": {"command": [str(daemon.root / "nowhere")]},
        }
    )
    return daemon


def began(daemon: Daemon, action_id: str, times: int = 1) -> list[list[str]]:
    return wait_for(
        lambda: (notes := daemon.notes("began", action_id)) and len(notes) >= times and notes,
        what=f"{times} begins of {action_id}: {daemon.notes()} {daemon.log_text()}",
    )


def never_two_at_once(daemon: Daemon, action_id: str) -> None:
    """S17 from the scripts' own lines: each run's processes are gone before the next begins."""
    pids = [int(note[3]) for note in daemon.notes("began", action_id)]
    assert len(set(pids)) == len(pids)
    alive = [pid for pid in pids if lives(pid)]
    assert len(alive) <= 1


def test_s01_what_an_earlier_daemon_left_is_gone_before_any_status_changes(ready: Daemon):
    ready.send([entry("a", -1, LONG)])
    ready.start()
    old = int(began(ready, "a")[0][3])
    assert ready.process is not None
    worker = ready.action("a")["run"]["workerPid"]
    os.kill(worker, signal.SIGSTOP)  # it cannot clean up after its daemon
    ready.kill()
    ready.start()
    new = int(began(ready, "a", 2)[1][3])
    assert not lives(old)
    assert not lives(worker)
    assert new != old


def test_s02_after_kill_9_what_ran_runs_again_and_what_is_over_is_settled(ready: Daemon):
    ready.start()  # a busy host may take longer for it than a window lasts
    ready.send([entry("again", -1, LONG), entry("over", -1, 2.5), entry("gone", -1, LONG)])
    over_at = time.time() + 2.5
    ready.json("sync")
    for action_id in ("again", "over", "gone"):
        began(ready, action_id)
    ready.kill()
    wait_for(lambda: not processes_marked(str(ready.root / "default")), seconds=5)
    ready.send([entry("again", -1, LONG)])
    wait_for(lambda: time.time() > over_at, what="the end of a window")
    ready.start()
    began(ready, "again", 2)
    assert ready.wait_status("over", "WONT_FINISH")["reason"] == "interrupted"
    assert ready.wait_status("gone", "WONT_FINISH")["reason"] == "withdrawn"
    assert len(ready.notes("began", "over")) == 1
    never_two_at_once(ready, "again")


def test_s02_a_script_that_ended_while_no_daemon_heard_it_is_not_run_again(daemon: Daemon):
    script = daemon.script("s", f"note began; while [ ! -e {daemon.root}/go ]; do sleep 0.05; done")
    daemon.configure(scripts={"default": {"command": [script]}})
    daemon.send([entry("a", -1, LONG)])
    daemon.start()
    began(daemon, "a")
    assert daemon.process is not None
    os.kill(daemon.process.pid, signal.SIGSTOP)
    (daemon.root / "go").touch()
    results = daemon.root / "run" / "results"
    wait_for(lambda: list(results.iterdir()), what="a kept result")
    daemon.kill()
    daemon.start()
    assert daemon.wait_status("a", "FINISHED")["reason"] == "completed"
    assert len(daemon.notes("began", "a")) == 1


def test_s03_new_actions_are_null_and_one_seen_after_its_end_wont_start(ready: Daemon):
    ready.send([entry("later", LONG, 2 * LONG), entry("past", -LONG, -1)])
    ready.start()
    assert ready.wait_phase("later", "scheduled")["executionStatus"] is None
    assert ready.wait_status("past", "WONT_START")["reason"] == "window-missed"
    ready.send([entry("later", 2 * LONG, 3 * LONG, appNames=["X"]), entry("past", -LONG, -1)])
    wait_for(lambda: ready.action("later")["appNames"] == ["X"])
    assert ready.action("later")["executionStatus"] is None


@pytest.mark.parametrize("how", ["flag", "absence"])
def test_s04_what_is_not_wanted_and_has_not_started_wont_start(ready: Daemon, how: str):
    ready.send([entry("a", LONG, 2 * LONG)])
    ready.start()
    ready.wait_phase("a", "scheduled")
    ready.send([entry("a", LONG, 2 * LONG, shouldBeExecuted=False)] if how == "flag" else [])
    assert ready.wait_status("a", "WONT_START")["reason"] == "withdrawn"


@pytest.mark.parametrize("kind", ["default", "stubborn"])
def test_s05_what_is_not_wanted_and_runs_is_stopped_and_wont_finish(ready: Daemon, kind: str):
    ready.send([entry("a", -1, LONG, type=kind)])
    ready.start()
    pid = int(began(ready, "a")[0][3])
    ready.send([])
    assert ready.wait_status("a", "WONT_FINISH")["reason"] == "withdrawn"
    assert not lives(pid)
    assert not ready.left_of("a")


def test_s06_a_terminal_action_stays_what_it_is_whatever_the_backend_says(ready: Daemon):
    ready.send([entry("a", -1, LONG, type="quick")])
    ready.start()
    before = ready.wait_status("a", "FINISHED")
    ready.send([entry("a", -1, 2 * LONG, appNames=["Other"], type="default")])
    wait_for(lambda: ready.json("status")["backend"]["ignoredTerminal"] == 1)
    assert ready.action("a") == before
    assert len(ready.notes("began", "a")) == 1


def test_s07_a_wanted_action_starts_at_its_instant_and_not_before(ready: Daemon):
    ready.start()
    ready.send([entry("a", 3, LONG, type="quick")])
    shown = ready.wait_phase("a", "scheduled")
    assert ready.json("status")["nextEdge"] == shown["fromDate"]
    after = ready.wait_status("a", "FINISHED")
    assert after["run"]["startedAt"] >= after["fromDate"]


@pytest.mark.parametrize(
    "bad", ["", "[", "{}", "null", '[{"id": "a"}', '{"actions": 3}', "<html>", "\x00\xff"]
)
def test_s08_a_pull_that_fails_changes_nothing(ready: Daemon, bad: str):
    ready.send([entry("a", -1, LONG)])
    ready.start()
    began(ready, "a")
    ready.actions_file.write_text(bad)
    wait_for(lambda: ready.json("status")["backend"]["lastPullOk"] is False)
    assert ready.json("status")["backend"]["lastError"]
    assert ready.action("a")["phase"] == "running"


def test_s08_one_unreadable_entry_is_set_aside_and_its_action_keeps_running(ready: Daemon):
    good = entry("a", -1, LONG)
    ready.send([good])
    ready.start()
    began(ready, "a")
    ready.send([good | {"toDate": "tomorrow"}, entry("b", LONG, 2 * LONG)])
    ready.wait_phase("b", "scheduled")
    status = ready.json("status")["backend"]
    assert (status["lastPullOk"], status["quarantined"]) == (True, 1)
    assert ready.action("a")["phase"] == "running"
    assert ready.action("a")["toDate"] == good["toDate"]


def test_s09_what_cannot_be_started_has_failed_and_says_why(ready: Daemon):
    ready.send([entry("a", -1, LONG, type="missing"), entry("b", -1, LONG, type="unheard-of")])
    ready.start()
    missing = ready.wait_status("a", "FAILED")
    assert missing["reason"] == "cannot-start"
    assert "nowhere" in missing["detail"]
    assert ready.wait_status("b", "FAILED")["reason"] == "no-script"


def test_s10_an_action_that_found_no_room_in_its_window_wont_start(ready: Daemon):
    ready.config.write_text(
        ready.config.read_text().replace("[daemon]", "[daemon]\nmax_running = 1")
    )
    ready.start()
    ready.send([entry("first", -2, LONG), entry("second", -1, 3)])
    began(ready, "first")
    ready.wait_phase("second", "queued")
    assert ready.wait_status("second", "WONT_START")["reason"] == "window-missed"


def test_s11_an_action_whose_window_is_open_starts_at_once(ready: Daemon):
    ready.start()
    ready.send([entry("late", -LONG, LONG)])
    began(ready, "late")


def test_s11a_what_ran_and_could_not_run_again_wont_finish(ready: Daemon):
    ready.start()
    ready.send([entry("a", -2, 4), entry("b", -3, LONG)])
    began(ready, "a")
    ready.kill()
    one = ready.config.read_text().replace("[daemon]", "[daemon]\nmax_running = 1")
    ready.config.write_text(one)
    ready.start()
    assert ready.wait_status("a", "WONT_FINISH")["attempt"] == 1


@pytest.mark.parametrize(
    ("body", "status", "reason", "code", "sig"),
    [
        ("exit 0", "FINISHED", "completed", 0, None),
        ("exit 7", "FAILED", "exit-code", 7, None),
        ("kill -SEGV $$", "FAILED", "signal", None, "SIGSEGV"),
    ],
)
def test_s12_how_the_script_exits_is_how_its_action_went(
    daemon: Daemon, body: str, status: str, reason: str, code: int | None, sig: str | None
):
    daemon.configure(scripts={"default": {"command": [daemon.script("s", body)]}})
    daemon.send([entry("a", -1, LONG)])
    daemon.start()
    shown = daemon.wait_status("a", status)
    assert (shown["reason"], shown["run"]["exitCode"], shown["run"]["signal"]) == (
        reason,
        code,
        sig,
    )


def test_s12_what_a_script_leaves_behind_is_ended_before_the_status(daemon: Daemon):
    script = daemon.script("s", "setsid sh -c 'sleep 600 & sleep 600' & sleep 0.2; exit 0")
    daemon.configure(scripts={"default": {"command": [script], "stop_grace": "500ms"}})
    daemon.send([entry("a", -1, LONG)])
    daemon.start()
    daemon.wait_status("a", "FINISHED")
    assert not daemon.left_of("a")


def test_s12a_a_restart_policy_makes_another_attempt_without_leaving_started(ready: Daemon):
    ready.send([entry("a", -1, LONG, type="retries")])
    ready.start()
    began(ready, "a", 3)
    ready.send([entry("a", -1, 0.5, type="retries")])
    ended = ready.wait_status("a", "FAILED")
    assert ended["attempt"] >= 3
    assert ended["reason"] == "exit-code"

    def reported() -> list[str]:
        return [report["executionStatus"] for report in ready.reports() if report["id"] == "a"]

    wait_for(lambda: len(reported()) > 1)
    assert reported() == ["STARTED", "FAILED"]


def test_s12a_restarts_are_counted_over_a_restart_of_the_daemon_and_then_given_up(ready: Daemon):
    limited = 'restart = "on-failure"\nrestart_delay = "1s"\nmax_restarts = 2\n'
    command = ready.script("limited", "note began; exit 3")
    with ready.config.open("a") as file:
        file.write(f'[scripts.limited]\ncommand = ["{command}"]\n{limited}')
    ready.send([entry("a", -1, LONG, type="limited")])
    ready.start()
    ready.wait_phase("a", "waiting")
    ready.kill()
    ready.start()
    failed = ready.wait_status("a", "FAILED")
    assert (failed["reason"], failed["attempt"]) == ("exit-code", 3)
    assert failed["detail"] == "exit code 3 after 2 restarts in a row"
    assert len(ready.notes("began", "a")) == 3


@pytest.mark.parametrize("kind", ["default", "stubborn"])
def test_s13_a_run_at_the_end_of_its_window_is_stopped_and_finished(ready: Daemon, kind: str):
    ready.start()
    ready.send([entry("a", -1, LONG, type=kind)])
    pid = int(began(ready, "a")[0][3])
    ready.send([entry("a", -1, 0.5, type=kind)])
    assert ready.wait_status("a", "FINISHED")["reason"] == "window-over"
    assert not lives(pid)


def test_s13a_an_operators_stop_settles_and_a_second_is_a_conflict(ready: Daemon):
    ready.send([entry("a", -1, LONG)])
    ready.start()
    began(ready, "a")
    stopped = ready.json("stop", "a")["action"]
    assert (stopped["executionStatus"], stopped["reason"]) == ("WONT_FINISH", "operator")
    assert ready.ctl("stop", "a").returncode == 6
    assert ready.ctl("stop", "nobody").returncode == 5


def test_s14_no_more_than_max_running_at_once_and_the_earliest_first(ready: Daemon):
    ready.config.write_text(
        ready.config.read_text().replace("[daemon]", "[daemon]\nmax_running = 2")
    )
    ready.send([entry(f"a{n}", -n, LONG) for n in range(1, 5)])
    ready.start()
    began(ready, "a4")
    began(ready, "a3")
    ready.wait_phase("a2", "queued")
    status = ready.json("status")
    assert (status["running"], status["queued"]) == (2, 2)
    ready.json("stop", "a4")
    began(ready, "a2")
    assert not ready.notes("began", "a1")


def test_s15_changed_apps_restart_the_run_and_a_new_end_moves_it(ready: Daemon):
    ready.send([entry("a", -1, LONG)])
    ready.start()
    began(ready, "a")
    ready.send([entry("a", -1, LONG, appNames=["Steam"])])
    began(ready, "a", 2)
    shown = ready.wait_phase("a", "running")
    assert (shown["attempt"], shown["appNames"]) == (2, ["Steam"])
    ready.send([entry("a", -1, 0.001, appNames=["Steam"])])
    assert ready.wait_status("a", "FINISHED")["reason"] == "window-over"
    assert len(ready.notes("began", "a")) == 2
    never_two_at_once(ready, "a")


def test_s16_sigterm_asks_every_run_to_stop_and_leaves_statuses_started(ready: Daemon):
    ready.send([entry("a", -1, LONG), entry("b", -1, LONG, type="stubborn")])
    ready.start()
    began(ready, "a")
    began(ready, "b")
    assert ready.terminate(seconds=8) == 0
    assert [note[1] for note in ready.notes("ended")] == ["a"]
    assert not processes_marked(str(ready.root))
    ready.start()
    began(ready, "a", 2)
    began(ready, "b", 2)
    assert ready.action("a")["executionStatus"] == "STARTED"


def test_s17_after_kill_9_no_script_is_left_within_five_seconds(ready: Daemon):
    ready.send([entry("a", -1, LONG), entry("b", -1, LONG, type="stubborn")])
    ready.start()
    began(ready, "a")
    began(ready, "b")
    ready.kill()
    wait_for(lambda: not processes_marked(str(ready.root)), seconds=5)


def test_s17_kills_in_a_row_never_make_two_runs_of_one_action(ready: Daemon):
    ready.send([entry("a", -1, LONG)])
    for times in range(1, 4):
        ready.start()
        began(ready, "a", times)
        never_two_at_once(ready, "a")
        ready.kill()


def test_s18_every_change_is_reported_once_in_order_over_an_outage(ready: Daemon):
    with BackendServer() as backend:
        scripts = {"default": {"command": [ready.script("q", "exit 0")]}}
        ready.configure(
            scripts=scripts,
            backend={"kind": "http", "url": backend.url, "timeout": "2s", "poll_interval": "200ms"},
        )
        backend.set_actions([entry("a", -1, LONG)])
        ready.start()
        ready.wait_status("a", "FINISHED")
        wait_for(lambda: ready.json("status")["outbox"]["depth"] == 0)
        with backend.down():
            wait_for(lambda: ready.json("status")["backend"]["lastPullOk"] is False, seconds=20)
            ready.kill()
        backend.set_actions([entry("a", -1, LONG), entry("b", -1, LONG)])
        ready.start()
        ready.wait_status("b", "FINISHED")
        wait_for(lambda: ready.json("status")["outbox"]["depth"] == 0)
        told = {(r["key"], r["id"], r["executionStatus"]): None for r in backend.reports}
        assert [key[1:] for key in told] == [
            ("a", "STARTED"),
            ("a", "FINISHED"),
            ("b", "STARTED"),
            ("b", "FINISHED"),
        ]


def test_s19_instants_have_any_offset_on_input_and_are_utc_in_milliseconds_on_output(ready: Daemon):
    ready.send(
        [
            entry("a", 0, 1)
            | {"fromDate": "2040-01-01T01:30:00+05:30", "toDate": "2040-01-01T00:00:00.5-01:00"}
        ]
    )
    ready.start()
    shown = ready.wait_phase("a", "scheduled")
    assert shown["fromDate"] == "2039-12-31T20:00:00.000Z"
    assert shown["toDate"] == "2040-01-01T01:00:00.500Z"


def test_s20_hostile_text_becomes_neither_a_path_nor_a_shell_line(daemon: Daemon):
    script = daemon.script("s", 'printf "%s|" "$@"; cat')
    daemon.configure(scripts={"default": {"command": [script, "--id={id}", "{apps}"]}})
    name = "../../$(touch pwned);`id` 'x' \"y\" {run}"
    daemon.send([entry(name, -1, LONG, appNames=["; rm -rf /", "{id}"])])
    daemon.start()
    daemon.wait_status(name, "FINISHED")
    output = daemon.ctl("logs", name).stdout
    arguments, _, document = output.rpartition("|")
    assert arguments.split("|") == [f"--id={name}", "; rm -rf /,{id}"]
    assert json.loads(document)["id"] == name
    assert not list(daemon.root.rglob("pwned"))
