"""What holds for every record, event and instant: found by searching, not by thinking."""

from geosched.ipc.actions import ExecutionStatus
from geosched.ipc.messages.runs import EndCause, StopReason
from geosched.supervisor.core.lifecycle import Rules, decide, new_run_id
from geosched.supervisor.core.model import (
    Absent,
    Change,
    DaemonStarted,
    Due,
    Hold,
    Instant,
    Null,
    OpenRun,
    Over,
    Reason,
    Record,
    RunEnded,
    Running,
    Sent,
    StartRun,
    StopAsked,
    Waiting,
)
from geosched.supervisor.core.reconcile import reconcile_absent, reconcile_sent
from geosched.supervisor.core.restart import RestartMode, RestartPolicy
from hypothesis import given
from hypothesis import strategies as st
from support.build import GENERATION, HOUR_US, NOW_US, action, result

INSTANTS = st.sampled_from([NOW_US + n * HOUR_US // 2 for n in range(-4, 5)])
WINDOWS = st.tuples(INSTANTS, INSTANTS).filter(lambda window: window[0] < window[1])
ACTIONS = st.builds(
    lambda window, wanted, apps: action(
        from_us=window[0], to_us=window[1], should_be_executed=wanted, app_names=apps
    ),
    WINDOWS,
    st.booleans(),
    st.sampled_from([(), ("Chrome",), ("Chrome", "Steam"), ("Steam", "Chrome")]),
)
HOLDS = st.builds(Hold, INSTANTS, st.sampled_from([0.0, 1.0, 300.0]))
STOPS = st.none() | st.sampled_from(StopReason)
TERMINAL = st.sampled_from([status for status in ExecutionStatus if status.terminal])


def states(attempt: int) -> st.SearchStrategy:
    run_id = new_run_id(GENERATION, "a", attempt)
    runs = st.builds(OpenRun, st.just(run_id), INSTANTS, STOPS)
    started = st.builds(Running, runs) | st.builds(Waiting, HOLDS, st.booleans())
    never = st.builds(Null, st.none() | HOLDS)
    return (started | never | st.builds(Over, TERMINAL)) if attempt else never


RECORDS = st.integers(0, 6).flatmap(
    lambda attempt: st.builds(
        Record,
        ACTIONS,
        st.booleans(),
        states(attempt),
        revision=st.integers(1, 9),
        attempt=st.just(attempt),
        failures=st.integers(0, 9),
        reason=st.none() | st.sampled_from(Reason),
    )
)
RESULTS = st.builds(
    result,
    attempt=st.integers(1, 6),
    cause=st.sampled_from(EndCause),
    ended_us=INSTANTS,
    exit_code=st.none() | st.sampled_from([0, 1]),
    signal=st.none() | st.sampled_from([9, 15]),
    stop_reason=STOPS,
)
PULLS = st.builds(Sent, ACTIONS) | st.just(Absent())
EVENTS = (
    PULLS
    | st.builds(Due, st.booleans(), st.booleans())
    | st.just(StopAsked())
    | st.builds(RunEnded, RESULTS, st.booleans())
    | st.builds(DaemonStarted, st.none() | RESULTS)
)
NOWS = st.builds(Instant, INSTANTS, trusted=st.booleans())
RULES = st.builds(
    lambda mode: Rules(GENERATION, {"default": RestartPolicy(mode)}), st.sampled_from(RestartMode)
)


@given(RECORDS, EVENTS, NOWS, RULES)
def test_every_state_and_event_has_an_answer_that_can_be_stored(record, event, now, rules):
    change = decide(record, event, now, rules)
    assert change == decide(record, event, now, rules)
    if change is None:
        return
    assert change.before == record
    assert change.after != record
    assert change.after.revision == record.revision + 1
    assert change.after.attempt >= record.attempt


@given(st.builds(Over, TERMINAL), EVENTS, NOWS, RULES)
def test_no_terminal_status_is_ever_left(over, event, now, rules):
    assert decide(Record(action(), True, over), event, now, rules) is None


@given(RECORDS, PULLS, NOWS, RULES)
def test_a_pull_writes_a_status_only_by_what_spec_allows(record, event, now, rules):
    change = decide(record, event, now, rules)
    if change is None or not change.changes_status:
        return
    assert change.after.status.terminal
    over = now.trusted and change.after.action.to_us <= now.wall_us
    assert over or not change.after.wanted
    # S5: a run is only asked to stop, its status waits for its end.
    assert not isinstance(record.state, Running)


@given(RECORDS, EVENTS, NOWS, RULES)
def test_a_run_starts_only_where_none_is_open(record, event, now, rules):
    change = decide(record, event, now, rules)
    if change and any(isinstance(effect, StartRun) for effect in change.effects):
        assert isinstance(record.state, Null | Waiting)
        assert isinstance(change.after.state, Running)
        assert change.after.attempt == record.attempt + 1


@given(st.none() | RECORDS, ACTIONS, NOWS, RULES)
def test_the_same_entry_twice_changes_nothing_the_second_time(record, sent, now, rules):
    _, first = reconcile_sent(record, sent, now, rules)
    known = first.after if first else record
    if known is not None:
        assert reconcile_sent(known, sent, now, rules)[1] is None


@given(RECORDS, NOWS, RULES)
def test_the_same_absence_twice_changes_nothing_the_second_time(record, now, rules):
    _, first = reconcile_absent(record, now, rules)
    known = first.after if first else record
    assert reconcile_absent(known, now, rules)[1] is None


@given(RECORDS, EVENTS, NOWS, RULES)
def test_an_open_run_is_given_up_only_by_its_own_end_or_a_start_of_the_daemon(
    record, event, now, rules
):
    change: Change | None = decide(record, event, now, rules)
    if change is None or not isinstance(record.state, Running):
        return
    if isinstance(change.after.state, Running):
        assert change.after.state.run.run_id == record.state.run.run_id
    else:
        assert isinstance(event, RunEnded | DaemonStarted)
