"""The rules of the specification, by their numbers, for one change or one record.

An oracle of its own: it is told the truth (what the backend sent, how the run really
ended) and says which rule a change breaks. Nothing here is taken from `lifecycle.py`.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from geosched.ipc.actions import Action, ExecutionStatus
from geosched.ipc.messages.runs import EndCause, RunResult, StopReason
from geosched.supervisor.core.model import Null, Over, Record, Running, Waiting
from geosched.supervisor.core.restart import JITTER, RestartMode, RestartPolicy

NULL, STARTED = ExecutionStatus.NULL, ExecutionStatus.STARTED
FINISHED, FAILED = ExecutionStatus.FINISHED, ExecutionStatus.FAILED
WONT_START, WONT_FINISH = ExecutionStatus.WONT_START, ExecutionStatus.WONT_FINISH

#: S13a: a stop has one reason, and the reason is the outcome.
OUTCOME_OF_STOP = {
    StopReason.WINDOW_OVER: FINISHED,
    StopReason.WITHDRAWN: WONT_FINISH,
    StopReason.OPERATOR: WONT_FINISH,
}
#: S16: a stop because the daemon leaves or is gone settles nothing.
OF_THE_DAEMON = (StopReason.SHUTDOWN, StopReason.ORPHANED)
HELD_FROM_ATTEMPT = 5
LEGAL = {
    NULL: (NULL, STARTED, WONT_START, WONT_FINISH),
    STARTED: (STARTED, NULL, FINISHED, FAILED, WONT_FINISH),
}


class Phase(enum.Enum):
    STARTING = enum.auto()  # S2, and a leftover that is settled later
    TURN = enum.auto()
    LEAVING = enum.auto()  # S16


@dataclass(frozen=True, slots=True)
class Moment:
    wall_us: int
    trusted: bool
    monotonic_us: int
    read_us: int


@dataclass(frozen=True, slots=True)
class Case:
    """One change and all that is true about it.

    `sent`: what the backend sent of it, newest last (None: absent); several, while a
    snapshot is being applied. The run is the one open before: its recorded stop, the
    action as it was started with, its worker's word, the kept result, whether it lives.
    `loss_came_first`: its worker was found to be lost before its window was over.
    `began`: its script did, before its window was over (None: hard to tell), and by
    `begin_known` the daemon was told. `now` is what the turn decides as of, a moment ahead
    perhaps of what the clock reads.
    """

    before: Record | None
    after: Record
    now: Moment
    phase: Phase
    sent: list[Action | None]
    stop_asked: bool
    run_stop: StopReason | None
    run_action: Action | None
    run_given: bool
    result: RunResult | None
    kept: RunResult | None
    lives: bool
    full: bool
    policy: RestartPolicy | None
    waited_seconds: float | None
    worker_free: bool
    loss_came_first: bool
    began: bool | None
    begin_known: bool

    @property
    def old(self) -> ExecutionStatus:
        return NULL if self.before is None else self.before.status

    @property
    def new(self) -> ExecutionStatus:
        return self.after.status

    @property
    def withdrawn(self) -> bool:
        return any(one is None or not one.should_be_executed for one in self.sent)

    @property
    def wanted(self) -> bool:
        return any(one is not None and one.should_be_executed for one in self.sent)

    @property
    def over(self) -> bool:
        """By a trusted clock, its window is over."""
        return self.now.trusted and self.after.action.to_us <= self.now.wall_us

    @property
    def missed(self) -> bool:
        """By a trusted clock's own reading, its window is over."""
        return missed(self.after, self.now)

    @property
    def starts(self) -> bool:
        attempt = 0 if self.before is None else self.before.attempt
        return self.after.attempt != attempt

    @property
    def run_ends(self) -> bool:
        return (
            self.before is not None
            and isinstance(self.before.state, Running)
            and not isinstance(self.after.state, Running)
        )


def broken(case: Case) -> Iterator[str]:
    """Every rule that the change breaks."""
    yield from _s03_configuration(case)
    yield from _s06_terminal(case)
    if case.starts:
        yield from _s09_start(case)
    elif case.old is NULL and case.new.terminal:
        yield from _s10_never_started(case)
    if case.run_ends:
        yield from _s12_end(case)
    elif case.before is not None and isinstance(case.before.state, Running):
        yield from _s13a_stop(case)
    elif case.before is not None and isinstance(case.before.state, Waiting):
        yield from _s12a_waiting(case)


def _s03_configuration(case: Case) -> Iterator[str]:
    """Configuration is the backend's, and changes by what it sent only."""
    old = None if case.before is None else case.before.action
    if case.after.action != old and case.after.action not in case.sent:
        yield "S3: a configuration that the backend never sent"
    if case.before is None and case.after.state not in (Null(), Over(WONT_START)):
        yield "S3: a new action is NULL or WONT_START"


def _s06_terminal(case: Case) -> Iterator[str]:
    if case.old.terminal:
        yield "S6: a terminal status, and what belongs to it, never changes"
    elif case.new not in LEGAL[case.old]:
        yield f"S6: {case.old} never becomes {case.new}"


def _s09_start(case: Case) -> Iterator[str]:
    """S9 to S11, S12a, S14, S19: who may start."""
    first = case.old is NULL
    attempt = 0 if case.before is None else case.before.attempt
    if case.after.attempt != attempt + 1:
        yield "S12a: attempts are counted one by one"
    if not isinstance(case.after.state, Running) or case.run_given:
        yield "S17: a run starts only where none is open"
    if not case.wanted:
        yield "S9: it is not wanted"
    if first and not case.now.trusted:
        yield "S19: started by a clock that is not trusted"
    if first and case.now.wall_us < case.after.action.from_us:
        yield "S9: started before fromDate"
    if case.over:
        yield "S9: started after toDate"
    if case.policy is not None and not case.worker_free:
        yield "S9: committed without a worker that is ready"
    if first and case.full:
        yield "S14: more than max_running"
    if case.waited_seconds is not None and case.waited_seconds < _back_off(case):
        yield f"S12a: started after {case.waited_seconds} s, before its back-off was over"


def _back_off(case: Case) -> float:
    """The least that it has to wait, in seconds."""
    state = None if case.before is None else case.before.state
    replaced = isinstance(state, Waiting) and state.hold.delay_seconds == 0  # S15: at once
    crashed = isinstance(state, Null) and case.after.attempt >= HELD_FROM_ATTEMPT
    if not (isinstance(state, Waiting) and not replaced) and not crashed:
        return 0.0
    policy = case.policy or RestartPolicy()
    return policy.delay_seconds * (1 - JITTER) - 0.01


def _s10_never_started(case: Case) -> Iterator[str]:
    """S4, S10, S11a: NULL to its end without another run."""
    if not case.withdrawn and not case.missed:
        yield "S10: it is wanted, and its window is not over"
    expected = WONT_FINISH if case.after.attempt else WONT_START
    if case.new is not expected:
        yield f"S11a: it had {case.after.attempt} runs, and is {case.new}"


def _s13a_stop(case: Case) -> Iterator[str]:
    """Why a run may be stopped; a stop is recorded once, and only CHANGED gives way."""
    assert isinstance(case.after.state, Running)
    new, old = case.after.state.run.stop, case.run_stop
    if new is old:
        return
    if old not in (None, StopReason.CHANGED):
        yield f"S13a: a stop for {old} became one for {new}"
    if new is None:
        yield "S13a: a stop is never called off"
    if new is StopReason.WINDOW_OVER and not case.over:
        yield "S13: stopped before toDate"
    if new is StopReason.WITHDRAWN and not case.withdrawn:
        yield "S5: stopped, and it is wanted"
    if new is StopReason.OPERATOR and not case.stop_asked:
        yield "S13a: stopped, and nobody asked for it"
    if new is StopReason.CHANGED and not _work_differs(case):
        yield "S15: stopped for a change of nothing"
    if new in OF_THE_DAEMON:
        yield "S16: a stop of the daemon's own settles nothing"


def _work_differs(case: Case) -> bool:
    assert case.run_action is not None
    return any(one is not None and not _same_work(one, case.run_action) for one in case.sent)


def _same_work(one: Action, other: Action) -> bool:
    """S15: apps are compared as a set, type and args by value."""
    if set(one.app_names) != set(other.app_names):
        return False
    return (one.type, one.args) == (other.type, other.args)


def _s12a_waiting(case: Case) -> Iterator[str]:
    """Between two attempts: what may come but the next one."""
    assert case.before is not None
    assert isinstance(case.before.state, Waiting)
    if case.new is NULL:
        yield "S12a: a back-off does not become NULL"
    if not case.new.terminal:
        return
    allowed = set()
    if case.missed and not case.before.state.last_begun:
        allowed.add(WONT_FINISH)
    elif case.missed:
        allowed.add(FINISHED if case.before.state.last_ok else FAILED)
    if case.withdrawn or case.stop_asked:
        allowed.add(WONT_FINISH)
    if case.new not in allowed:
        yield f"S12a: {case.new} while it waited; allowed: {sorted(allowed)}"


# --- the end of a run -----------------------------------------------------------------------


def _s12_end(case: Case) -> Iterator[str]:
    if case.lives:
        yield "S12: settled while its tree lives"
    expected = _expected(case)
    found = "waiting" if isinstance(case.after.state, Waiting) else case.new.value
    if found not in expected:
        yield f"{found}, and not {' or '.join(sorted(expected)) or 'as it was'}: {case.phase}"


def _ended_before(case: Case, result: RunResult | None) -> bool:
    """S12: of itself, before its window was over; or it was found before that, that its
    worker is lost."""
    if result is None:
        return case.loss_came_first and case.phase is not Phase.STARTING
    return result.cause is not EndCause.STOPPED and result.ended_us < case.after.action.to_us


def _expected(case: Case) -> set[str]:
    """How the action may go on; empty where the end settles nothing."""
    assert case.before is not None
    starting = case.phase is Phase.STARTING
    result = case.kept if starting else case.result
    reason = case.run_stop
    if reason is StopReason.WINDOW_OVER and case.over and _ended_before(case, result):
        reason = None  # it was decided a moment ahead, and the run has ended in that moment
    if reason is None and result is not None and result.cause is EndCause.STOPPED:
        reason = result.stop_reason  # S13a, where its record could not be written
    if starting and result is not None and reason is None:
        return _ended_of_itself(case, result)  # S2, first
    if reason is StopReason.WINDOW_OVER:
        return _window_over(case)
    if reason in OUTCOME_OF_STOP:
        return {OUTCOME_OF_STOP[reason].value}
    if starting:
        return {_s2(case)}
    if reason is StopReason.CHANGED and case.phase is Phase.TURN:
        return _window_over(case) if case.missed else {"waiting"}
    if reason is not None:
        return set()  # S16
    if case.phase is Phase.LEAVING and (result is None or result.signal is not None):
        return set()  # S16: ends by signal, and ends that nobody saw
    return _unseen(case) if result is None else _ended_of_itself(case, result)


def _s2(case: Case) -> str:
    """S2 of a run that nobody heard, from its third rule on."""
    assert case.before is not None
    if not case.before.wanted:
        return WONT_FINISH.value
    return WONT_FINISH.value if case.over else NULL.value


def _ended_of_itself(case: Case, result: RunResult) -> set[str]:
    """S12, S12a, S13: by how its script ended, and when."""
    late = case.now.trusted and result.ended_us >= case.after.action.to_us
    if late and result.cause is not EndCause.WATCHDOG:
        return _window_over(case)
    exited = result.cause is EndCause.EXITED
    ok = exited and result.exit_code == 0 and result.signal is None
    return _or_again(case, ok, never_ran=result.cause is EndCause.CANNOT_START)


def _window_over(case: Case) -> set[str]:
    """S13: it ran until the end of its window, if its script began before that."""
    if case.began and case.begin_known:
        return {FINISHED.value}
    unclear = case.began is None or case.began  # it did, and nobody told the daemon
    return {WONT_FINISH.value, FINISHED.value} if unclear else {WONT_FINISH.value}


def _unseen(case: Case) -> set[str]:
    """S9, S12: no script for its type, or its worker was lost."""
    if case.run_given and case.missed and not case.loss_came_first:
        return _window_over(case)
    return _or_again(case, ok=False, never_ran=not case.run_given)


def _or_again(case: Case, ok: bool, *, never_ran: bool) -> set[str]:
    over = {FINISHED.value if ok else FAILED.value}
    policy = case.policy
    if never_ran or policy is None or policy.mode is RestartMode.NEVER:
        return over
    if policy.mode is RestartMode.ON_FAILURE and ok:
        return over
    gives_up = 0 < policy.restarts_max < case.after.attempt
    return over | {"waiting"} if gives_up else {"waiting"}


# --- what may not be so at the end of a turn --------------------------------------------------


def overdue(record: Record, now: Moment) -> Iterator[str]:
    """What the clock has said, and the daemon has not done."""
    if not now.trusted or now.wall_us < record.action.to_us:
        return
    match record.state:
        case Null() if missed(record, now):
            yield "S10: NULL after toDate"
        case Waiting() if missed(record, now):
            yield "S12a: waiting after toDate"
        case Running(run) if run.stop in (None, StopReason.CHANGED):
            yield "S13: runs after toDate, and is not asked to stop"
        case _:
            return


def missed(record: Record, now: Moment) -> bool:
    """By a trusted clock's own reading, its window is over."""
    return now.trusted and record.action.to_us <= now.read_us


def is_due(record: Record, now: Moment) -> bool:
    if not isinstance(record.state, Null) or not now.trusted:
        return False
    return record.action.from_us <= now.wall_us < record.action.to_us


def next_edge_us(record: Record, now: Moment) -> int | None:
    """Where time alone changes it next, if the clock is trusted and that is still to come."""
    action = record.action
    if not now.trusted:
        return None
    match record.state:
        case Null() if action.from_us > now.wall_us:
            return action.from_us
        case Running(run) if run.stop not in (None, StopReason.CHANGED):
            return None
        case Running():
            return action.to_us if action.to_us > now.wall_us else None
        case _:
            return action.to_us if action.to_us > now.read_us else None


def not_obeyed(record: Record, started_with: Action | None) -> Iterator[str]:
    """What a whole snapshot has said, and the daemon has not begun to do."""
    stop = record.state.run.stop if isinstance(record.state, Running) else None
    if not record.wanted and not isinstance(record.state, Running):
        yield "S4: not wanted, and open"
    if not record.wanted and isinstance(record.state, Running) and stop not in OUTCOME_OF_STOP:
        yield "S5: not wanted, and not asked to stop"
    replaced = started_with is not None and not _same_work(record.action, started_with)
    if isinstance(record.state, Running) and stop is None and replaced:
        yield "S15: it runs with what the backend has changed"
