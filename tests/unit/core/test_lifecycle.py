"""The rules of SPEC about statuses, as rows of tables; the number is in each test's name."""

import pytest
from geosched.ipc.actions import ExecutionStatus as S
from geosched.ipc.instants import SECOND_US
from geosched.ipc.messages.runs import EndCause, StopReason
from geosched.supervisor.core.lifecycle import Rules, decide, first_seen
from geosched.supervisor.core.model import (
    Absent,
    DaemonStarted,
    Due,
    Hold,
    Instant,
    Null,
    Over,
    Reason,
    Record,
    RunEnded,
    Running,
    Sent,
    StartRun,
    StopAsked,
    StopRun,
    Waiting,
)
from geosched.supervisor.core.restart import RestartMode, RestartPolicy
from support.build import (
    AFTER,
    BEFORE,
    GENERATION,
    HOUR_US,
    NOW,
    NOW_US,
    RULES,
    action,
    record,
    result,
    running,
)

UNTRUSTED_AFTER = Instant(AFTER.wall_us, trusted=False)
ALWAYS = Rules(GENERATION, {"default": RestartPolicy(RestartMode.ALWAYS)})
ON_FAILURE = Rules(GENERATION, {"default": RestartPolicy(RestartMode.ON_FAILURE)})
TO_US = action().to_us
FINAL_STOPS = (StopReason.WINDOW_OVER, StopReason.WITHDRAWN, StopReason.OPERATOR)


@pytest.mark.parametrize(
    ("sent", "now", "status"),
    [
        (action(), BEFORE, S.NULL),
        (action(), NOW, S.NULL),
        (action(), AFTER, S.WONT_START),
        (action(), UNTRUSTED_AFTER, S.NULL),
        (action(should_be_executed=False), NOW, S.WONT_START),
    ],
)
def test_s03_a_new_action_is_null_unless_over_or_not_wanted(sent, now, status):
    change = first_seen(sent, now, RULES)
    assert (change.before, change.after.status, change.after.revision) == (None, status, 1)


def test_s03_configuration_of_a_known_action_is_updated_and_its_status_is_not():
    change = decide(record(), Sent(action(app_names=("Firefox",))), NOW, RULES)
    assert change.after.action.app_names == ("Firefox",)
    assert change.after.status is S.NULL


@pytest.mark.parametrize("event", [Sent(action(should_be_executed=False)), Absent()])
def test_s04_what_is_not_wanted_and_null_wont_start(event):
    change = decide(record(), event, NOW, RULES)
    assert (change.after.status, change.after.reason) == (S.WONT_START, Reason.WITHDRAWN)


@pytest.mark.parametrize("event", [Sent(action(should_be_executed=False)), Absent()])
def test_s05_what_is_not_wanted_and_runs_is_asked_to_stop(event):
    change = decide(running(), event, NOW, RULES)
    assert change.after.status is S.STARTED
    assert [effect.reason for effect in change.effects] == [StopReason.WITHDRAWN]
    assert not change.after.wanted


@pytest.mark.parametrize(
    "event",
    [
        Sent(action(app_names=())),
        Absent(),
        Due(slot_free=True),
        StopAsked(),
        RunEnded(result()),
        DaemonStarted(result()),
    ],
)
@pytest.mark.parametrize("status", [status for status in S if status.terminal])
def test_s06_a_terminal_status_is_never_left(status, event):
    assert decide(record(Over(status)), event, NOW, RULES) is None


@pytest.mark.parametrize(
    ("now", "slot_free", "starts"),
    [(BEFORE, True, False), (NOW, True, True), (NOW, False, False)],
)
def test_s09_a_due_action_with_a_free_slot_starts(now, slot_free, starts):
    change = decide(record(), Due(slot_free=slot_free), now, RULES)
    assert (change is not None and change.after.status is S.STARTED) is starts
    if starts:
        assert change.effects == (StartRun(change.run.run_id),)
        assert (change.after.attempt, change.after.reason) == (1, Reason.DUE)


@pytest.mark.parametrize("worker_free", [True, False])
@pytest.mark.parametrize("slot_free", [True, False])
@pytest.mark.parametrize(
    "waits",
    [record(), record(Waiting(Hold(NOW_US, 0.0), last_ok=True), attempt=1)],
    ids=["first", "later"],
)
def test_s09_s12a_and_s15_no_attempt_begins_without_a_worker(waits, slot_free, worker_free):
    """A later one has its slot, and what has no script needs no worker."""
    due = Due(slot_free=slot_free, worker_free=worker_free)
    has_slot = slot_free or waits.status is S.STARTED
    assert (decide(waits, due, NOW, ALWAYS) is not None) is (has_slot and worker_free)
    assert (decide(waits, due, NOW, RULES) is not None) is has_slot


@pytest.mark.parametrize(
    "waits",
    [record(), record(Waiting(Hold(NOW_US, 0.0), last_ok=True), attempt=1)],
    ids=["first", "later"],
)
def test_s10_and_s12a_what_never_began_is_settled_at_the_end_of_its_window_and_not_ahead(waits):
    due = Due(slot_free=True, worker_free=True)
    a_moment_ahead = Instant(TO_US - SECOND_US).at(TO_US)
    assert decide(waits, due, a_moment_ahead, ALWAYS) is None
    assert decide(waits, due, Instant(TO_US), ALWAYS).after.status.terminal


def test_s03_a_window_that_is_as_good_as_over_is_not_settled_ahead_by_a_pull_either():
    a_moment_ahead = Instant(TO_US - SECOND_US).at(TO_US)
    assert first_seen(action(), a_moment_ahead, RULES).after.status is S.NULL
    change = decide(record(), Sent(action(app_names=())), a_moment_ahead, RULES)
    assert change.after.status is S.NULL


@pytest.mark.parametrize("cause", [EndCause.CANNOT_START, EndCause.NO_SCRIPT])
@pytest.mark.parametrize("rules", [RULES, ALWAYS, ON_FAILURE])
def test_s09_what_cannot_be_started_has_failed_whatever_the_restart_policy(cause, rules):
    ended = RunEnded(result(cause=cause, exit_code=None, detail="no such file"))
    change = decide(running(), ended, NOW, rules)
    assert (change.after.status, change.after.reason.value) == (S.FAILED, cause.value)
    assert change.after.detail == "no such file"


@pytest.mark.parametrize(("attempt", "status"), [(0, S.WONT_START), (1, S.WONT_FINISH)])
def test_s10_and_s11a_null_after_its_window_has_not_started_or_not_finished(attempt, status):
    change = decide(record(attempt=attempt), Due(slot_free=True), AFTER, RULES)
    assert (change.after.status, change.after.reason) == (status, Reason.WINDOW_MISSED)


def test_s11a_what_has_run_and_is_withdrawn_before_it_runs_again_wont_finish():
    assert decide(record(attempt=2), Absent(), NOW, RULES).after.status is S.WONT_FINISH


@pytest.mark.parametrize(
    ("ended", "status", "reason"),
    [
        ({}, S.FINISHED, Reason.COMPLETED),
        ({"exit_code": 7}, S.FAILED, Reason.EXIT_CODE),
        ({"exit_code": None, "signal": 11}, S.FAILED, Reason.SIGNAL),
        ({"exit_code": None, "cause": EndCause.WATCHDOG}, S.FAILED, Reason.WATCHDOG),
        ({"exit_code": None, "cause": EndCause.WORKER_LOST}, S.FAILED, Reason.WORKER_LOST),
        ({"exit_code": None, "cause": EndCause.WORKER_SILENT}, S.FAILED, Reason.WORKER_SILENT),
        ({"exit_code": 7, "ended_us": AFTER.wall_us}, S.FINISHED, Reason.WINDOW_OVER),
    ],
)
def test_s12_how_a_run_ends_of_itself_is_how_its_action_went(ended, status, reason):
    change = decide(running(), RunEnded(result(**ended)), NOW, RULES)
    assert (change.after.status, change.after.reason) == (status, reason)
    assert (change.run.exit_code, change.run.signal) == (
        ended.get("exit_code", 0),
        ended.get("signal"),
    )


@pytest.mark.parametrize(
    ("rules", "exit_code", "again"),
    [
        (RULES, 0, False),
        (RULES, 1, False),
        (ON_FAILURE, 0, False),
        (ON_FAILURE, 1, True),
        (ALWAYS, 0, True),
        (ALWAYS, 1, True),
    ],
)
def test_s12a_the_restart_policy_decides_about_another_attempt(rules, exit_code, again):
    change = decide(running(), RunEnded(result(exit_code=exit_code)), NOW, rules)
    assert isinstance(change.after.state, Waiting) is again
    assert (change.after.status is S.STARTED) is again


@pytest.mark.parametrize(
    ("exit_code", "status", "detail"),
    [
        (0, S.FINISHED, "after 2 restarts in a row"),
        (3, S.FAILED, "exit code 3 after 2 restarts in a row"),
    ],
)
def test_s12a_after_so_many_restarts_in_a_row_the_last_exit_decides(exit_code, status, detail):
    rules = Rules(GENERATION, {"default": RestartPolicy(RestartMode.ALWAYS, restarts_max=2)})
    at_once = RunEnded(result(3, exit_code=exit_code, ended_us=NOW_US - HOUR_US))
    again = decide(running(3, failures=1), at_once, NOW, rules).after
    assert isinstance(again.state, Waiting)
    over = decide(running(3, failures=2), at_once, NOW, rules).after
    assert (over.status, over.detail) == (status, detail)
    after_a_stable_run = RunEnded(result(3, exit_code=exit_code))
    assert decide(running(3, failures=2), after_a_stable_run, NOW, rules).after.failures == 1


@pytest.mark.parametrize(("last_ok", "status"), [(True, S.FINISHED), (False, S.FAILED)])
def test_s12a_when_the_window_ends_between_attempts_the_last_exit_decides(last_ok, status):
    waiting = record(Waiting(Hold(NOW_US, 300.0), last_ok), attempt=3, reason=Reason.EXIT_CODE)
    assert decide(waiting, Due(hold_over=False), AFTER, RULES).after.status is status


def test_s12a_a_back_off_that_is_over_leads_to_the_next_attempt_without_a_free_slot():
    waiting = record(Waiting(Hold(NOW_US, 1.0), last_ok=False), attempt=1, reason=Reason.SIGNAL)
    change = decide(waiting, Due(), NOW, RULES)
    assert (change.after.attempt, change.changes_status) == (2, False)
    assert change.after.reason is Reason.SIGNAL


def test_s12a_a_back_off_that_is_not_over_is_waited_for():
    waiting = record(Waiting(Hold(NOW_US, 9.0), last_ok=False), attempt=1)
    assert decide(waiting, Due(slot_free=True, hold_over=False), NOW, RULES) is None


@pytest.mark.parametrize(("attempt", "held"), [(1, False), (3, False), (4, True), (9, True)])
def test_s12a_from_the_fifth_attempt_on_a_restart_of_the_daemon_waits_too(attempt, held):
    change = decide(running(attempt), DaemonStarted(None), NOW, RULES)
    assert change.after.status is S.NULL
    assert (change.after.state.hold is not None) is held


def test_s13_a_run_at_the_end_of_its_window_is_asked_to_stop():
    change = decide(running(), Due(), AFTER, RULES)
    assert change.effects == (StopRun(change.after.state.run.run_id, StopReason.WINDOW_OVER),)
    assert change.after.status is S.STARTED


@pytest.mark.parametrize("how", [{"exit_code": 3}, {"exit_code": None, "signal": 9}, {}])
@pytest.mark.parametrize(
    ("stop", "status"),
    [
        (StopReason.WINDOW_OVER, S.FINISHED),
        (StopReason.WITHDRAWN, S.WONT_FINISH),
        (StopReason.OPERATOR, S.WONT_FINISH),
    ],
)
def test_s13a_a_stopped_run_is_settled_by_its_reason_however_the_script_takes_it(stop, status, how):
    ended = result(cause=EndCause.STOPPED, stop_reason=stop, **how)
    assert decide(running(stop=stop), RunEnded(ended), NOW, RULES).after.status is status


@pytest.mark.parametrize(
    ("ended_us", "how", "status"),
    [
        (AFTER.wall_us - 1, {"exit_code": 3}, S.FINISHED),
        (TO_US - 1, {"exit_code": 3}, S.FAILED),
        (TO_US - 1, {"cause": EndCause.WORKER_LOST}, S.FAILED),
        (TO_US - 1, {"exit_code": 0}, S.FINISHED),
        (TO_US, {"cause": EndCause.WORKER_LOST}, S.FINISHED),
        (TO_US, {"cause": EndCause.WORKER_SILENT, "begun_us": None}, S.WONT_FINISH),
    ],
)
@pytest.mark.parametrize("event", [RunEnded, DaemonStarted])
def test_s12_what_ends_of_itself_before_its_window_does_so_although_a_stop_was_recorded_ahead(
    event, ended_us, how, status
):
    ended = result(ended_us=ended_us, **how)
    after = decide(running(stop=StopReason.WINDOW_OVER), event(ended), AFTER, RULES).after
    assert after.status is status


@pytest.mark.parametrize(
    ("begun_us", "status", "reason"),
    [
        (TO_US - 1, S.FINISHED, Reason.WINDOW_OVER),
        (TO_US, S.WONT_FINISH, Reason.WINDOW_MISSED),
        (None, S.WONT_FINISH, Reason.WINDOW_MISSED),
    ],
)
@pytest.mark.parametrize(
    "how",
    [
        {"cause": EndCause.STOPPED, "stop_reason": StopReason.WINDOW_OVER},
        {"cause": EndCause.EXITED, "exit_code": 3},
        {"cause": EndCause.WORKER_LOST, "exit_code": None},
        {"cause": EndCause.WORKER_SILENT, "exit_code": None},
        {"cause": EndCause.CANNOT_START, "exit_code": None},
    ],
)
@pytest.mark.parametrize("stop", [None, StopReason.WINDOW_OVER])
@pytest.mark.parametrize("event", [RunEnded, DaemonStarted])
def test_s13_at_the_end_of_its_window_a_run_is_finished_if_its_script_began_before(
    event, stop, how, begun_us, status, reason
):
    ended = result(ended_us=TO_US, begun_us=begun_us, **how)
    change = decide(running(stop=stop), event(ended), AFTER, RULES)
    assert (change.after.status, change.after.reason) == (status, reason)
    assert (change.run.reason, change.run.begun_us) == (reason, begun_us)


@pytest.mark.parametrize(("begun_us", "status"), [(NOW_US - 1, S.FINISHED), (None, S.WONT_FINISH)])
def test_s13_the_begin_that_was_recorded_with_the_stop_counts(begun_us, status):
    stopping = decide(running(begun_us=begun_us), Due(), AFTER, RULES).after
    ended = result(begun_us=None, cause=EndCause.WORKER_LOST, ended_us=AFTER.wall_us)
    assert decide(stopping, RunEnded(ended), AFTER, RULES).after.status is status


def test_s15_a_run_that_had_begun_is_finished_though_its_new_end_is_before_its_begin():
    stopping = decide(running(), Sent(action(to_us=NOW_US - HOUR_US)), NOW, RULES).after
    ended = result(begun_us=NOW_US - 1, cause=EndCause.STOPPED, stop_reason=StopReason.WINDOW_OVER)
    assert decide(stopping, RunEnded(ended), NOW, RULES).after.status is S.FINISHED


@pytest.mark.parametrize(("begun_us", "status"), [(NOW_US, S.FINISHED), (None, S.WONT_FINISH)])
def test_s15_what_was_replaced_and_waits_until_its_end_is_finished_if_it_had_begun(
    begun_us, status
):
    ended = result(begun_us=begun_us, cause=EndCause.STOPPED, stop_reason=StopReason.CHANGED)
    waiting = decide(running(stop=StopReason.CHANGED), RunEnded(ended), NOW, RULES).after
    assert decide(waiting, Due(), AFTER, ALWAYS).after.status is status


@pytest.mark.parametrize("event", [Absent(), StopAsked(), Due()])
@pytest.mark.parametrize("stop", FINAL_STOPS)
def test_s13a_a_stop_has_one_reason_the_first(stop, event):
    change = decide(running(stop=stop), event, AFTER, RULES)
    assert change is None or change.after.state.run.stop is stop
    assert change is None or change.effects == ()


@pytest.mark.parametrize(
    ("event", "now", "stop"),
    [
        (Absent(), NOW, StopReason.WITHDRAWN),
        (StopAsked(), NOW, StopReason.OPERATOR),
        (Due(), AFTER, StopReason.WINDOW_OVER),
    ],
)
def test_s13a_a_stop_because_of_a_change_is_overtaken(event, now, stop):
    change = decide(running(stop=StopReason.CHANGED), event, now, RULES)
    assert change.after.state.run.stop is stop


def test_s13a_a_stop_that_could_not_be_recorded_is_settled_by_what_the_worker_was_told():
    ended = result(cause=EndCause.STOPPED, stop_reason=StopReason.OPERATOR, signal=15)
    assert decide(running(), RunEnded(ended), NOW, RULES).after.status is S.WONT_FINISH


@pytest.mark.parametrize(
    "changed", [{"app_names": ("Firefox",)}, {"type": "other"}, {"args": '{"a":1}'}]
)
def test_s15_changed_work_stops_the_run_and_starts_it_again_with_the_new_values(changed):
    stopping = decide(running(), Sent(action(**changed)), NOW, RULES)
    assert stopping.after.state.run.stop is StopReason.CHANGED
    ended = result(cause=EndCause.STOPPED, stop_reason=StopReason.CHANGED, signal=15)
    replaced = decide(stopping.after, RunEnded(ended), NOW, RULES)
    again = decide(replaced.after, Due(), NOW, RULES)
    assert (again.after.attempt, again.after.status) == (2, S.STARTED)
    assert not stopping.changes_status
    assert not replaced.changes_status
    assert not again.changes_status


@pytest.mark.parametrize("same", [{"app_names": ("Steam", "Chrome")}, {"from_us": NOW_US - 1}])
def test_s15_the_order_of_apps_and_the_start_of_the_window_do_not_restart_a_run(same):
    assert decide(running(), Sent(action(**same)), NOW, RULES).effects == ()


def test_s15_a_new_end_that_is_past_stops_the_run_at_once():
    change = decide(running(), Sent(action(to_us=NOW_US)), NOW, RULES)
    assert change.after.state.run.stop is StopReason.WINDOW_OVER


def test_s15_the_new_dates_of_an_action_that_has_not_started_move_its_edge():
    change = decide(record(), Sent(action(from_us=NOW_US + 5)), NOW, RULES)
    assert change.after.edge_us == NOW_US + 5


@pytest.mark.parametrize("how", [{"exit_code": None, "signal": 15}, {"signal": 9}])
def test_s16_an_end_by_signal_while_the_daemon_leaves_settles_nothing(how):
    assert decide(running(), RunEnded(result(**how), daemon_leaving=True), NOW, RULES) is None


@pytest.mark.parametrize("stop", [StopReason.SHUTDOWN, StopReason.ORPHANED])
@pytest.mark.parametrize("leaving", [True, False])
def test_s16_a_stop_because_the_daemon_leaves_settles_nothing(stop, leaving):
    ended = result(cause=EndCause.STOPPED, stop_reason=stop, exit_code=0)
    assert decide(running(), RunEnded(ended, daemon_leaving=leaving), NOW, RULES) is None


@pytest.mark.parametrize("cause", [EndCause.WORKER_LOST, EndCause.WORKER_SILENT])
def test_s16_a_worker_lost_while_the_daemon_leaves_settles_nothing(cause):
    ended = result(cause=cause, exit_code=None)
    assert decide(running(), RunEnded(ended, daemon_leaving=True), NOW, RULES) is None


def test_s16_a_script_that_is_done_while_the_daemon_leaves_is_finished():
    change = decide(running(), RunEnded(result(), daemon_leaving=True), NOW, RULES)
    assert change.after.status is S.FINISHED


def ran_until_the_end() -> Record:
    return running(stop=StopReason.WINDOW_OVER, begun_us=NOW_US)


STOPPED_BY_OPERATOR = result(cause=EndCause.STOPPED, stop_reason=StopReason.OPERATOR)
ORPHANED = result(cause=EndCause.STOPPED, stop_reason=StopReason.ORPHANED, exit_code=0)


@pytest.mark.parametrize(
    ("known", "kept", "now", "status", "reason"),
    [
        (running(), result(), NOW, S.FINISHED, Reason.COMPLETED),
        (running(), result(exit_code=3), AFTER, S.FAILED, Reason.EXIT_CODE),
        (running(wanted=False), result(), NOW, S.FINISHED, Reason.COMPLETED),
        (running(stop=StopReason.OPERATOR), None, NOW, S.WONT_FINISH, Reason.OPERATOR),
        (running(stop=StopReason.WINDOW_OVER), None, AFTER, S.WONT_FINISH, Reason.WINDOW_MISSED),
        (ran_until_the_end(), None, AFTER, S.FINISHED, Reason.WINDOW_OVER),
        (running(stop=StopReason.WITHDRAWN), ORPHANED, NOW, S.WONT_FINISH, Reason.WITHDRAWN),
        (running(), STOPPED_BY_OPERATOR, NOW, S.WONT_FINISH, Reason.OPERATOR),
        (running(wanted=False), None, NOW, S.WONT_FINISH, Reason.WITHDRAWN),
        (running(), None, AFTER, S.WONT_FINISH, Reason.INTERRUPTED),
        (running(), ORPHANED, AFTER, S.WONT_FINISH, Reason.INTERRUPTED),
        (running(), None, NOW, S.NULL, Reason.DAEMON_RESTART),
        (running(), ORPHANED, NOW, S.NULL, Reason.DAEMON_RESTART),
        (running(stop=StopReason.CHANGED), None, NOW, S.NULL, Reason.DAEMON_RESTART),
        (running(), None, UNTRUSTED_AFTER, S.NULL, Reason.DAEMON_RESTART),
        (running(), result(attempt=2), NOW, S.NULL, Reason.DAEMON_RESTART),
    ],
)
def test_s02_the_first_rule_that_applies_settles_a_started_action(known, kept, now, status, reason):
    change = decide(known, DaemonStarted(kept), now, RULES)
    assert (change.after.status, change.after.reason) == (status, reason)


def test_s02_a_back_off_goes_on_after_a_restart_of_the_daemon():
    waiting = record(Waiting(Hold(NOW_US, 60.0), last_ok=False), attempt=2)
    assert decide(waiting, DaemonStarted(None), NOW, RULES) is None


def test_s19_while_the_clock_is_untrusted_windows_neither_begin_nor_end():
    untrusted = Instant(NOW_US, trusted=False)
    assert decide(record(), Due(slot_free=True), untrusted, RULES) is None
    assert decide(running(), Due(), UNTRUSTED_AFTER, RULES) is None
    assert decide(record(), Absent(), untrusted, RULES).after.status is S.WONT_START
    assert decide(running(), RunEnded(result()), untrusted, RULES).after.status is S.FINISHED


def test_the_end_of_another_run_means_nothing():
    assert decide(running(2), RunEnded(result(attempt=1)), NOW, RULES) is None


def test_an_operator_stops_a_run_and_an_action_that_waits():
    assert decide(running(), StopAsked(), NOW, RULES).after.state.run.stop is StopReason.OPERATOR
    waiting = record(Waiting(Hold(NOW_US, 60.0), last_ok=False), attempt=2)
    assert decide(waiting, StopAsked(), NOW, RULES).after.status is S.WONT_FINISH
    assert decide(record(), StopAsked(), NOW, RULES) is None


def test_a_running_state_has_its_run():
    assert isinstance(running().state, Running)
    assert isinstance(record().state, Null)
