"""The rules about statuses, all of them, in the order of SPEC.md, "Behaviour".

`decide` maps a record, an event and the time to a change, or to None where nothing
changes. Same inputs, same answer: the clock is an argument, and work to be done is
returned as effects. Nothing here knows of processes, sockets or the database; nothing
elsewhere assigns a status. The diagram in the README is drawn from this file.

A terminal status (`Over`) is never left. A pull reaches a status only through S3, S4
and S5. While the clock is not trusted (S19), windows count as open and not yet due.
"""

from collections.abc import Mapping
from typing import assert_never

import msgspec
from msgspec.structs import replace

from ...ipc.actions import Action, ExecutionStatus
from ...ipc.digests import blake2b
from ...ipc.instants import SECOND_US
from ...ipc.messages.runs import EndCause, RunResult, StopReason
from . import restart
from .model import (
    Absent,
    Change,
    DaemonStarted,
    Due,
    Event,
    Hold,
    Instant,
    Null,
    OpenRun,
    Over,
    Reason,
    Record,
    RunEnded,
    Running,
    RunRow,
    Sent,
    StartRun,
    State,
    StopAsked,
    StopRun,
    Waiting,
)
from .restart import RestartPolicy
from .run_end import (
    began_in_time,
    begin_of,
    ended_before,
    ended_row,
    exit_was_observed,
    reason_of,
    window_came_first,
)

_NEVER_RESTART = RestartPolicy()


class Rules(msgspec.Struct, frozen=True):
    """Settings and store that decisions depend on, besides the record, the event and the time.

    `generation` is that of the store: run ids contain it, so that a result kept for an
    older store never settles a run of this one. `policies` is by type of action, and has every
    type for which there is a script.
    """

    generation: str
    policies: Mapping[str, RestartPolicy] = msgspec.field(default_factory=dict)

    def policy(self, action: Action) -> RestartPolicy:
        return self.policies.get(action.type, _NEVER_RESTART)

    def has_script(self, action: Action) -> bool:
        """A script is configured for its type: its runs need a worker."""
        return action.type in self.policies


def first_seen(action: Action, now: Instant, rules: Rules) -> Change:
    """Make a new action NULL, unless its window is over or it is not wanted (S3)."""
    record = Record(action, action.should_be_executed, Null(), changed_us=now.wall_us)
    change = _pulled(record, action, now, rules)
    after = record if change is None else replace(change.after, revision=1)
    return Change(None, after)


def decide(record: Record, event: Event, now: Instant, rules: Rules) -> Change | None:
    """Return the change that `event` makes to an action in this state; None where it makes none."""
    match record.state:
        case Over():
            return None  # S6: whatever the backend, the clock or a late message says
        case Null() | Running() | Waiting():
            return _decide_open(record, event, now, rules)
    assert_never(record.state)


def _decide_open(record: Record, event: Event, now: Instant, rules: Rules) -> Change | None:
    match event:
        case Sent(action):
            return _pulled(record, action, now, rules)
        case Absent():
            return _not_wanted(replace(record, wanted=False), now, before=record)
        case Due():
            return _due(record, event, now, rules)
        case StopAsked():
            return _stop_asked(record, now)
        case RunEnded():
            return _run_ended(record, event, now, rules)
        case DaemonStarted(kept):
            return _daemon_started(record, kept, now, rules)
    assert_never(event)


# --- Pull: S3 to S8, S15 ----------------------------------------------------------------


def _pulled(record: Record, action: Action, now: Instant, rules: Rules) -> Change | None:
    """Take the backend's configuration; the status moves by S4, S5, S10 and S13 only (S3, S15)."""
    same = record.action == action and record.wanted == action.should_be_executed
    new = record if same else replace(record, action=action, wanted=action.should_be_executed)
    if not new.wanted:
        return _not_wanted(new, now, before=record)
    if _window_over(new, now):
        return _due(new, Due(), now, rules, before=record) or _stored(record, new)
    match record.state:
        case Running(run) if run.stop is None and not record.action.same_work(action):
            return _stopping(new, run, StopReason.CHANGED, before=record)
        case _:
            return _stored(record, new)


def _not_wanted(record: Record, now: Instant, *, before: Record) -> Change | None:
    """Never start what has not started, ask what runs to stop (S4, S5)."""
    match record.state:
        case Null():
            return _over_without_run(record, Reason.WITHDRAWN, now, before=before)
        case Running(run) if run.stop in (None, StopReason.CHANGED):
            return _stopping(record, run, StopReason.WITHDRAWN, before=before)
        case Running():
            return _stored(before, record)
        case Waiting():
            return _over(record, ExecutionStatus.WONT_FINISH, Reason.WITHDRAWN, now, before=before)
        case Over():
            return None
    assert_never(record.state)


# --- Scheduler event: S9 to S14 ---------------------------------------------------------


def _due(
    record: Record, due: Due, now: Instant, rules: Rules, *, before: Record | None = None
) -> Change | None:
    """Act on the clock, a slot and a worker (S9 to S11, S12a, S13, S14)."""
    before = before or record
    may_begin = due.hold_over and (due.worker_free or not rules.has_script(record.action))
    match record.state:
        case Null() if _window_missed(record, now):
            return _over_without_run(record, Reason.WINDOW_MISSED, now, before=before)
        case Null() if due.slot_free and may_begin and _window_open(record, now):
            return _next_attempt(record, now, rules, before=before)
        case Running(run) if _window_over(record, now) and run.stop in (None, StopReason.CHANGED):
            until_us = min(before.action.to_us, now.wall_us)  # now, where a pull has moved it (S15)
            run = replace(run, until_us=until_us)
            return _stopping(record, run, StopReason.WINDOW_OVER, before=before)
        case Waiting() as waiting if _window_missed(record, now):
            return _waited_until_the_end(record, waiting, now, before=before)
        case Waiting() if may_begin and not _window_over(record, now):
            return _next_attempt(record, now, rules, before=before)
        case _:
            return None


def _next_attempt(record: Record, now: Instant, rules: Rules, *, before: Record) -> Change:
    """Return the intention to start, which is committed before the script is started (S9)."""
    attempt = record.attempt + 1
    run_id = new_run_id(rules.generation, record.action.id, attempt)
    again = isinstance(record.state, Waiting)  # then the reason goes on telling the last exit
    after = _moved(
        before,
        replace(record, attempt=attempt),
        Running(OpenRun(run_id, now.wall_us)),
        record.reason if again and record.reason else Reason.DUE,
        now,
        detail=record.detail if again else "",
    )
    return Change(before, after, RunRow(run_id, attempt, now.wall_us), (StartRun(run_id),))


def _waited_until_the_end(
    record: Record, waiting: Waiting, now: Instant, *, before: Record
) -> Change:
    """Settle by the last exit: `toDate` came between two attempts (S12a)."""
    if not waiting.last_begun:
        missed = Reason.WINDOW_MISSED
        return _over(record, ExecutionStatus.WONT_FINISH, missed, now, before=before)
    if waiting.last_ok:
        return _over(record, ExecutionStatus.FINISHED, Reason.WINDOW_OVER, now, before=before)
    reason = record.reason or Reason.EXIT_CODE
    return _over(record, ExecutionStatus.FAILED, reason, now, before=before, detail=record.detail)


def _stop_asked(record: Record, now: Instant) -> Change | None:
    """Stop for an operator (S13a). None for NULL, which is a conflict, and for a run that is
    being stopped already."""
    match record.state:
        case Running(run) if run.stop in (None, StopReason.CHANGED):
            return _stopping(record, run, StopReason.OPERATOR, before=record)
        case Waiting():
            return _over(record, ExecutionStatus.WONT_FINISH, Reason.OPERATOR, now, before=record)
        case _:
            return None


# --- The end of a run: S12, S12a, S13, S13a ---------------------------------------------


def _run_ended(record: Record, event: RunEnded, now: Instant, rules: Rules) -> Change | None:
    result = event.result
    match record.state:
        case Running(run) if run.run_id == result.run_id:
            pass
        case _:
            return None  # the end of a run that is settled: repeated, or from an older store
    reason = _final_reason(record, run, result, now)
    if reason in _SETTLED_BY_STOP:
        return _settled_by_stop(record, result, reason, now)
    if reason is StopReason.CHANGED and not event.daemon_leaving:
        return _replaced(record, result, now)
    if reason is not None or (event.daemon_leaving and not exit_was_observed(result)):
        return None  # S16: a stop because the daemon leaves settles nothing
    return _settled_of_itself(record, result, now, rules)


#: A stop has one reason, and the reason is the outcome (S13a).
_SETTLED_BY_STOP = {
    StopReason.WINDOW_OVER: (ExecutionStatus.FINISHED, Reason.WINDOW_OVER),
    StopReason.WITHDRAWN: (ExecutionStatus.WONT_FINISH, Reason.WITHDRAWN),
    StopReason.OPERATOR: (ExecutionStatus.WONT_FINISH, Reason.OPERATOR),
}


def _final_reason(
    record: Record, run: OpenRun, result: RunResult | None, now: Instant
) -> StopReason | None:
    """Return the recorded reason to stop, else the worker's: a stop is carried out even when it
    cannot be recorded (law 4). The end of a window is recorded a moment ahead, and a run that
    ends of itself in that moment has ended before it (S12)."""
    if run.stop is StopReason.WINDOW_OVER and ended_before(record, result):
        return None if _window_over(record, now) else run.stop
    if run.stop is not None:
        return run.stop
    if result is not None and result.cause is EndCause.STOPPED:
        return result.stop_reason
    return None


def _settled_by_stop(
    record: Record, result: RunResult | None, reason: StopReason, now: Instant
) -> Change:
    status, word = _SETTLED_BY_STOP[reason]
    if reason is StopReason.WINDOW_OVER and not began_in_time(record, result):
        status, word = ExecutionStatus.WONT_FINISH, Reason.WINDOW_MISSED
    row = ended_row(record, result, word, now)
    return _over(record, status, word, now, before=record, run=row)


def _replaced(record: Record, result: RunResult, now: Instant) -> Change:
    """Prepare a run with the new configuration, due at once; the status stays STARTED (S15)."""
    if _window_missed(record, now):
        return _settled_by_stop(record, result, StopReason.WINDOW_OVER, now)
    assert isinstance(record.state, Running)
    begun = begin_of(record.state.run, result) is not None
    after = _moved(
        record,
        replace(record, failures=0),
        Waiting(Hold(now.wall_us, 0.0), last_ok=True, last_begun=begun),
        Reason.CHANGED,
        now,
    )
    return Change(record, after, ended_row(record, result, Reason.CHANGED, now))


def _settled_of_itself(record: Record, result: RunResult, now: Instant, rules: Rules) -> Change:
    """Settle a run that ended without having been asked to (S12, S12a, S13)."""
    if now.trusted and window_came_first(record, result):
        return _settled_by_stop(record, result, StopReason.WINDOW_OVER, now)
    word, detail = reason_of(result)
    row = ended_row(record, result, word, now)
    ok = word is Reason.COMPLETED
    policy = rules.policy(record.action)
    never_ran = result.cause in (EndCause.CANNOT_START, EndCause.NO_SCRIPT)  # S9: FAILED
    ran_seconds = (result.ended_us - row.started_us) / SECOND_US
    failures = restart.failures_after(policy, record.failures, ran_seconds=ran_seconds)
    if not never_ran and restart.wants_another(policy, ok=ok):
        if not restart.gives_up(policy, failures):
            return _waits(record, row, policy, now, failures, detail)
        detail = f"{detail} after {failures - 1} restarts in a row".lstrip()
    status = ExecutionStatus.FINISHED if ok else ExecutionStatus.FAILED
    return _over(record, status, word, now, before=record, run=row, detail=detail)


def _waits(
    record: Record, row: RunRow, policy: RestartPolicy, now: Instant, failures: int, detail: str
) -> Change:
    """Stay STARTED until the back-off is over (S12a)."""
    assert row.reason is not None
    hold = Hold(now.wall_us, restart.delay_after(policy, failures, run_id=row.run_id))
    waiting = Waiting(hold, last_ok=row.reason is Reason.COMPLETED)
    after = replace(record, failures=failures)
    return Change(record, _moved(record, after, waiting, row.reason, now, detail=detail), row)


# --- Start-up: S2 -----------------------------------------------------------------------


def _daemon_started(
    record: Record, kept: RunResult | None, now: Instant, rules: Rules
) -> Change | None:
    """Apply the first rule that fits a STARTED action of which no run lives any more (S2)."""
    match record.state:
        case Running(run):
            pass
        case _:
            return None  # NULL starts when due; a back-off goes on where it was (S12a)
    if kept is not None and kept.run_id != run.run_id:
        kept = None
    reason = _final_reason(record, run, kept, now)
    if kept is not None and reason is None:
        return _settled_of_itself(record, kept, now, rules)
    if reason in _SETTLED_BY_STOP:
        return _settled_by_stop(record, kept, reason, now)
    if not record.wanted:
        return _interrupted(record, kept, Reason.WITHDRAWN, now)
    if _window_over(record, now):
        return _interrupted(record, kept, Reason.INTERRUPTED, now)
    return _null_again(record, kept, now, rules)


def _interrupted(record: Record, kept: RunResult | None, word: Reason, now: Instant) -> Change:
    row = ended_row(record, kept, word, now)
    return _over(record, ExecutionStatus.WONT_FINISH, word, now, before=record, run=row)


def _null_again(record: Record, kept: RunResult | None, now: Instant, rules: Rules) -> Change:
    """Return to NULL, so that it starts again at once (S11); later attempts wait (S12a)."""
    held = record.attempt + 1 >= restart.FIRST_ATTEMPT_HELD_AFTER_CRASH
    row = ended_row(record, kept, Reason.DAEMON_RESTART, now)
    policy = rules.policy(record.action)
    delay = restart.delay_after(policy, record.attempt, run_id=row.run_id)
    hold = Hold(now.wall_us, delay) if held else None
    after = _moved(record, record, Null(hold), Reason.DAEMON_RESTART, now)
    return Change(record, after, row)


# --- Helpers of the rules above ---------------------------------------------------------


def new_run_id(generation: str, action_id: str, attempt: int) -> str:
    """Return an id that is unique over stores, actions and attempts, and safe as a file name."""
    seed = f"{generation}\0{action_id}".encode()
    return f"{blake2b(seed, digest_size=8).hexdigest()}-{attempt}"


def _window_open(record: Record, now: Instant) -> bool:
    return now.trusted and record.action.from_us <= now.wall_us < record.action.to_us


def _window_over(record: Record, now: Instant) -> bool:
    return now.trusted and record.action.to_us <= now.wall_us


def _window_missed(record: Record, now: Instant) -> bool:
    """Its window is over by the clock itself: without a run, no turn settles it ahead (S10)."""
    return now.trusted and record.action.to_us <= now.read_us


def _stored(before: Record, after: Record) -> Change | None:
    """Return a change of configuration only; None where it is the same: nothing is written."""
    if after == before:
        return None
    return Change(before, replace(after, revision=before.revision + 1))


def _moved(
    before: Record, record: Record, state: State, reason: Reason, now: Instant, *, detail: str = ""
) -> Record:
    return replace(
        record,
        state=state,
        reason=reason,
        detail=detail,
        changed_us=now.wall_us,
        revision=before.revision + 1,
    )


def _stopping(record: Record, run: OpenRun, reason: StopReason, *, before: Record) -> Change:
    """Return the intention to stop: on disk before the first signal, and never revoked."""
    state = Running(replace(run, stop=reason))
    after = replace(record, state=state, revision=before.revision + 1)
    return Change(before, after, effects=(StopRun(run.run_id, reason),))


def _over(
    record: Record,
    status: ExecutionStatus,
    reason: Reason,
    now: Instant,
    *,
    before: Record,
    run: RunRow | None = None,
    detail: str = "",
) -> Change:
    after = _moved(before, record, Over(status), reason, now, detail=detail)
    return Change(before, after, run)


def _over_without_run(record: Record, reason: Reason, now: Instant, *, before: Record) -> Change:
    """Settle without a run (S4, S10); WONT_FINISH where there was one before (S11a)."""
    started = record.attempt > 0
    status = ExecutionStatus.WONT_FINISH if started else ExecutionStatus.WONT_START
    return _over(record, status, reason, now, before=before)
