"""What an onlooker knows of the daemon: what it committed, and what really happened.

It remembers over crashes. At each commit, and after each turn, it holds what the daemon
did against the rules (`rules.py`), by the truth and never by the daemon's own word.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import msgspec
from geosched.ipc.actions import Action, ExecutionStatus
from geosched.ipc.instants import SECOND_US
from geosched.ipc.messages.runs import Run, RunResult, StopReason
from geosched.ipc.messages.sync import Report
from geosched.supervisor.core.model import (
    Change,
    Instant,
    Null,
    Over,
    Record,
    Running,
    StartRun,
    Waiting,
)
from geosched.supervisor.core.restart import RestartPolicy
from geosched.supervisor.host.clock import RELEASED_US
from geosched.supervisor.store.daemondb import DaemonDB
from geosched.supervisor.store.tables.outbox import REFUSALS_MAX

from . import rules
from .rules import Case, Moment, Phase
from .seen import RunSeen, Seen, Told
from .world import BrokenRuleError, World

STARTED, NULL = ExecutionStatus.STARTED, ExecutionStatus.NULL
#: Waking up, and the rounding of a poll to milliseconds.
LATE_US_MAX = 3_000
#: A turn decides no further ahead than this; nothing happens ahead, but for rounding.
AHEAD_US_MAX = 1_500_000
ROUNDED_US_MAX = 1
#: What is no step of the clock.
STEP_US_MIN = 600_000
#: For so long a worker may wait for others, so that their runs share a commit.
TOGETHER_SECONDS_MAX = 0.015
#: For so long an end may wait for others, so that they share a commit.
ENDS_WAIT_US_MAX = 31_000
#: Turns in a row that took no time, and turns in ten seconds: more of them is spinning.
INSTANT_TURNS_MAX = 60
TURNS_IN_TEN_SECONDS_MAX = 1_500


class Oracle:
    def __init__(
        self,
        world: World,
        *,
        report: bool,
        max_running: int,
        must_synchronise: bool,
        policies: Mapping[str, RestartPolicy],
    ) -> None:
        self.world, self.report, self.max_running = world, report, max_running
        self.must_synchronise, self.policies = must_synchronise, policies
        self.known: dict[str, Seen] = {}
        self.open: dict[str, Seen] = {}
        self.runs: dict[str, RunSeen] = {}
        self.living: Mapping[str, object] = {}  # the host's scripts
        self.kept: Mapping[str, RunResult] = {}
        self.told = Told()
        self.stops_asked: set[str] = set()
        self.daemon = 0
        self.phase = Phase.TURN
        self.commits = 0
        self.changes = 0
        self.statuses: Counter[str] = Counter()
        self.now = Moment(0, False, 0, 0)
        self._mark_us = 0
        self._was_synchronised = False
        self._believe_from_us = 0
        self._begun_us = 0
        self._run_of: dict[str, RunSeen] = {}
        self._free: Collection[str] = ()  # workers that are ready and have no run
        self._heard: dict[str, int] = {}  # ends that are not settled, and when they were heard
        self._started: list[tuple[int, str]] = []
        self._instant_turns = 0
        self._turns = 0
        self._turns_since_us = 0

    # --- a daemon begins ------------------------------------------------------------------

    def daemon_starts(self, db: DaemonDB, free: Collection[str], wait_seconds: float) -> None:
        self.daemon += 1
        self._free = free
        self.phase = Phase.STARTING
        self._mark_us, self._was_synchronised = db.meta.clock_mark_us, False
        self._believe_from_us = self.world.boot_us + round(wait_seconds * SECOND_US)
        self._begun_us = self.world.monotonic_us
        self._heard.clear()
        self._started.clear()
        self.stops_asked.clear()
        self.compare(db)
        for seen in self.open.values():
            seen.since_us = min(seen.since_us, self._begun_us)  # the host may have booted

    def compare(self, db: DaemonDB) -> None:
        """S6, S18: what was committed is there, and nothing else."""
        for action_id, seen in self.known.items():
            self._demand(
                db.read(action_id) == seen.record, action_id, "law 4: it is not as committed"
            )
        known = sum(db.counts().values())
        self._demand(
            known == len(self.known), "", f"{known} actions stored, {len(self.known)} seen"
        )

    def clock_was_read(self, instant: Instant) -> None:
        """S19: whom the daemon may believe."""
        self._was_synchronised |= self.world.synchronised
        settled = self._was_synchronised or not self.must_synchronise
        plausible = instant.wall_us >= max(self._mark_us, RELEASED_US)
        believed = self.world.synchronised or (plausible and settled)
        if believed:
            self._mark_us = instant.wall_us
        trusted = believed or self.world.boot_us >= self._believe_from_us
        self._demand(instant.trusted == trusted, "", f"S19: trusted is {instant.trusted}")
        self.now = Moment(instant.wall_us, trusted, self.world.monotonic_us, instant.wall_us)

    def turn_is_for(self, instant: Instant) -> None:
        """What is decided for an edge that is a moment ahead, is decided as of that."""
        ahead = instant.wall_us - self.now.wall_us
        self._demand(0 <= ahead <= AHEAD_US_MAX, "", f"S9: decides {ahead} us ahead")
        self.now = replace(self.now, wall_us=instant.wall_us)

    # --- what really happens ----------------------------------------------------------------

    def run_is_sent(self, order: Run, worker: str) -> None:
        """S9: committed, and only then started."""
        action_id = order.environment["GEOSCHED_ACTION_ID"]
        seen, run = self.known[action_id], self.runs.get(order.run_id)
        state = seen.record.state
        is_open = isinstance(state, Running) and state.run.run_id == order.run_id
        self._demand(is_open and run is not None, action_id, "S9: started before it was on disk")
        assert run is not None
        self._demand(run.sent_us is None, action_id, "S17: one run was given out twice")
        run.sent_us = self.world.now_us
        self._run_of[worker] = run

    def worker_is_lost(self, worker: str) -> None:
        """The daemon found that it is gone, or has given it up and kills it."""
        run = self._run_of.pop(worker, None)
        if run is not None:
            run.lost_wall_us, run.lost_boot_us = self.now.read_us, self.world.boot_us

    def script_starts(self, run_id: str, action_id: str) -> None:
        self.world.note("script of %s starts (%s)", action_id, run_id[-4:])
        # A further attempt goes on although the clock was set back behind its window.
        first = action_id in self.known and self.known[action_id].record.attempt == 1
        run = self.runs.get(run_id)
        if first and run is not None and self.now.trusted:
            # What was decided before the clock was set back starts, however long the host slept.
            stepped = self.world.stepped_us > run.decided_us - 2 * SECOND_US
            early = run.action.from_us - self.world.wall_us > ROUNDED_US_MAX
            held = stepped or not early
            self._demand(held, action_id, "S9: its script starts before its window")
        if run is not None:
            run.begun_boot_us, run.begun_wall_us = self.world.boot_us, self.world.wall_us
        other = [s for s in self.living.values() if getattr(s, "action_id", "") == action_id]
        self._demand(not other, action_id, "S17: two runs of one action")

    def begin_is_heard(self, run_id: str) -> None:
        run = self.runs.get(run_id)
        if run is not None:
            run.begin_heard_by = self.daemon

    def worker_saw_end(self, result: RunResult) -> None:
        self.world.note(
            "run %s ends: %s code %s signal %s, %s",
            result.run_id[-6:],
            result.cause.value,
            result.exit_code,
            result.signal,
            result.stop_reason,
        )
        run = self.runs.get(result.run_id)
        if run is not None:
            run.result = result

    def end_is_heard(self, run_id: str) -> None:
        self._heard.setdefault(run_id, self.now.monotonic_us)

    def stop_is_asked(self, action_id: str) -> None:
        self.world.note("an operator stops %s", action_id)
        self.stops_asked.add(action_id)

    # --- reports ----------------------------------------------------------------------------

    def reported(self, report: Report, accepted: bool) -> None:
        """S18: every change of status, in order, at least once, and never before it is so."""
        seen = self.known.get(report.action_id)
        told = (ExecutionStatus(report.status), report.attempt)
        self._demand(self.report, report.action_id, "S18: reported, though nobody wants it")
        if seen is None or told in seen.reports[: seen.told]:
            return  # told again, and that is harmless
        if told not in seen.reports[seen.told : seen.told + 1]:
            owed = seen.reports[seen.told :]
            raise BrokenRuleError(f"{report.action_id}: S18: told {told}, owed is {owed}\n")
        seen.refusals = 0 if accepted else seen.refusals + 1
        if accepted or seen.refusals == REFUSALS_MAX:  # then it is set aside
            seen.told, seen.refusals = seen.told + 1, 0

    # --- commits ----------------------------------------------------------------------------

    def committed(self, changes: Sequence[Change], won: Sequence[bool], *, leaving: bool) -> None:
        self.commits += 1
        if self.phase is not Phase.STARTING:
            self.phase = Phase.LEAVING if leaving else Phase.TURN
        for change, is_won in zip(changes, won, strict=True):
            if is_won:
                self._changed(change)

    def _changed(self, change: Change) -> None:
        self.changes += 1
        action_id, after = change.after.action.id, change.after
        seen = self.known.get(action_id)
        before = None if seen is None else seen.record
        replaced = None if change.before is None else _as_stored(change.before, before)
        self._demand(before == replaced, action_id, "law 5: it was not what it replaces")
        self.world.note("%s: %s", action_id, _shown(after))
        for broken in rules.broken(self._case(seen, change)):
            raise BrokenRuleError(f"{action_id}: {broken}\n  from {before}\n  to   {after}")
        if seen is None:
            seen = self.known[action_id] = Seen(after, self.now.monotonic_us, self.daemon)
        self._remember(seen, change)

    def _case(self, seen: Seen | None, change: Change) -> Case:
        run = None if seen is None else seen.run
        return Case(
            before=None if seen is None else seen.record,
            after=change.after,
            now=self.now,
            phase=Phase.STARTING if run and run.daemon != self.daemon else self.phase,
            sent=self.told.of(change.after.action.id),
            stop_asked=change.after.action.id in self.stops_asked,
            run_stop=None if run is None else run.stop,
            run_action=None if run is None else run.action,
            run_given=run is not None and run.sent_us is not None,
            result=None if run is None else run.result,
            kept=None if run is None else self.kept.get(run.run_id),
            lives=run is not None and run.run_id in self.living,
            full=self.started >= self.max_running,
            policy=self.policies.get(change.after.action.type),
            waited_seconds=self._waited(seen),
            worker_free=self.workers_free > 0,
            loss_came_first=run is not None and self._loss_came_first(run, change.after.action),
            began=None if run is None else self._began(run, change.after.action),
            begin_known=run is not None and self._begin_known(run, seen),
        )

    @property
    def workers_free(self) -> int:
        """Workers that are ready, as the daemon knows it, and promised to none of its runs."""
        mine = (run for run in self.runs.values() if run.daemon == self.daemon)
        promised = sum(run.sent_us is None and not run.fails for run in mine)
        return len(self._free) - promised

    def _loss_came_first(self, run: RunSeen, action: Action) -> bool:
        """Whether its worker was found to be lost before its window was over, by the clock of then
        or as it has been set back since."""
        if run.lost_wall_us is None:
            return False
        restated_us = self.world.wall_us - (self.world.boot_us - run.lost_boot_us)
        return min(run.lost_wall_us, restated_us) < action.to_us

    def _began(self, run: RunSeen, action: Action) -> bool | None:
        """Whether its script really began before its window was over; None where a step of the
        clock since then makes that hard to tell."""
        if run.begun_boot_us is None:
            return False
        restated_us = self.world.wall_us - (self.world.boot_us - run.begun_boot_us)
        begun_us = min(run.begun_wall_us, restated_us)  # by one clock or the other
        until_us = action.to_us if run.until_us is None else run.until_us
        stepped = abs(restated_us - run.begun_wall_us) > ROUNDED_US_MAX
        if stepped and abs(begun_us - until_us) < STEP_US_MIN:
            return None
        if run.until_us is not None and stepped:
            return None  # its end was noted before the step, perhaps
        return begun_us < until_us

    def _begin_known(self, run: RunSeen, seen: Seen | None) -> bool:
        """Whether somebody told the daemon, or its record, that the script began."""
        assert seen is not None
        assert isinstance(seen.record.state, Running)
        if seen.record.state.run.begun_us is not None or run.begin_heard_by == self.daemon:
            return True
        told = self.kept.get(run.run_id) if self.phase is Phase.STARTING else run.result
        return told is not None and told.begun_us is not None

    def _waited(self, seen: Seen | None) -> float | None:
        """Since its state last changed; None where the clocks it was measured by moved."""
        if seen is None or seen.daemon != self.daemon:
            return None
        return (self.now.monotonic_us - seen.since_us) / SECOND_US

    @property
    def started(self) -> int:
        return sum(seen.record.status is STARTED for seen in self.open.values())

    def _remember(self, seen: Seen, change: Change) -> None:
        old, after = seen.record, change.after
        action_id = after.action.id
        if type(old.state) is not type(after.state) or old.attempt != after.attempt:
            seen.since_us, seen.daemon = self.now.monotonic_us, self.daemon
        seen.record = after
        for effect in change.effects:
            if isinstance(effect, StartRun):
                seen.run = RunSeen(effect.run_id, after.action, self.daemon, self.world.now_us)
                seen.run.fails = after.action.type not in self.policies
                self.runs[effect.run_id] = seen.run
                if old.status is NULL and not seen.run.fails:
                    self._started.append((after.action.from_us, action_id))
        if isinstance(after.state, Running):
            assert seen.run is not None
            if after.state.run.stop is StopReason.WINDOW_OVER is not seen.run.stop:
                seen.run.until_us = min(old.action.to_us, self.now.wall_us)
            seen.run.stop = after.state.run.stop
        elif seen.run is not None:
            self.runs.pop(seen.run.run_id, None)
            seen.run = None
        if isinstance(after.state, Over):
            self.open.pop(action_id, None)
        else:
            self.open[action_id] = seen
        status = change.status_change()
        if status is not None:
            self.statuses[status.new.value] += 1
            if status.new is not NULL and self.report:
                seen.reports.append((status.new, after.attempt))

    def forgotten(self, db: DaemonDB, retention_us: int) -> None:
        """Only what is over, long since, absent, and reported."""
        for action_id, seen in list(self.known.items()):
            if action_id in self.open or db.read(action_id) is not None:
                continue
            record = seen.record
            old = max(record.action.to_us, record.changed_us) <= self.now.wall_us - retention_us
            absent = any(one is None for one in self.told.of(action_id))
            why = f"S6: forgotten, though its id may come back ({old}, {absent}): {record}"
            self._demand(old and absent, action_id, why)
            self._demand(self.now.trusted, action_id, "S19: forgotten by an untrusted clock")
            owed = seen.reports[seen.told :]
            self._demand(not owed, action_id, f"S18: forgotten, and {owed} never told")
            del self.known[action_id]

    # --- after each turn, and before each sleep -----------------------------------------------

    def turn_is_over(self, *, can_write: bool, leaving: bool) -> None:
        started, self._started = self._started, []
        self.stops_asked.clear()
        if leaving:
            self._heard.clear()
        if leaving or not can_write:
            return
        self._heard = {run: at_us for run, at_us in self._heard.items() if run in self.runs}
        for run_id, at_us in self._heard.items():
            in_time = self.now.monotonic_us < at_us + ENDS_WAIT_US_MAX
            self._demand(in_time, run_id, "S12: it ended, and is not settled")
            self._demand(run_id in self.kept, run_id, "S2: its end waits, and nobody keeps it")
        left: list[tuple[int, str]] = []
        for action_id, seen in self.open.items():
            for overdue in rules.overdue(seen.record, self.now):
                raise BrokenRuleError(f"{action_id}: {overdue}: {seen.record}")
            if self._may_start(seen) and seen.record.action.type in self.policies:
                left.append((seen.record.action.from_us, action_id))
        if left:
            fair = not started or max(started) < min(left)
            self._demand(fair, min(left)[1], "S14: another one started before it")
            crowded = self._heard and self.started >= self.max_running
            self._demand(not crowded, min(left)[1], "S14: it waits for a slot, and so does an end")

    def _may_start(self, seen: Seen) -> bool:
        """Whether it is due and nothing holds it back for sure (S12a)."""
        record = seen.record
        if not rules.is_due(record, self.now):
            return False
        assert isinstance(record.state, Null)
        if record.state.hold is None:
            return True
        since_us = max(seen.since_us, self._begun_us)
        waited = (self.now.monotonic_us - since_us) / SECOND_US
        return waited > record.state.hold.delay_seconds + 0.1

    def waits_too_long(self, seen: Seen) -> bool:
        state = seen.record.state
        if not isinstance(state, Waiting):
            return False
        since_us = max(seen.since_us, self._begun_us)
        waited = (self.now.monotonic_us - since_us) / SECOND_US
        return waited > state.hold.delay_seconds + 0.1

    def goes_to_sleep(self, seconds: float, *, idle: bool, trust_in: float | None) -> None:
        """It neither spins nor sleeps past an edge. `idle`: nothing else keeps it awake."""
        self._count_turn(seconds)
        if not idle:
            return
        waits = bool(self._heard) and seconds > ENDS_WAIT_US_MAX / SECOND_US
        self._demand(not waits, str(self._heard), f"S12: sleeps {seconds} s, and an end waits")
        if seconds > TOGETHER_SECONDS_MAX and self.workers_free > 0:
            self._none_waits_for_a_worker()
        until_us = self.world.wall_us + round(seconds * SECOND_US) - LATE_US_MAX
        for action_id, seen in self.open.items():
            edge_us = rules.next_edge_us(seen.record, self.now)
            if edge_us is not None and max(edge_us, self.world.wall_us) < until_us:
                raise BrokenRuleError(
                    f"{action_id}: S13: sleeps {seconds} s, past an edge: {seen.record}"
                )
        if trust_in is not None:
            self._demand(seconds <= trust_in + 0.01, "", "S19: sleeps past clock_wait")

    def _none_waits_for_a_worker(self) -> None:
        """A worker that is ready does not go on being so while an action waits for it."""
        full = self.started >= self.max_running
        for action_id, seen in self.open.items():
            late = self.waits_too_long(seen) and not rules.missed(seen.record, self.now)
            self._demand(not late, action_id, "S12a: its back-off is over, and it waits")
            left = self._may_start(seen) and not full
            self._demand(not left, action_id, "S9: it is due, there is a worker, and it waits")

    def _count_turn(self, seconds: float) -> None:
        self._instant_turns = self._instant_turns + 1 if seconds <= 0 else 0
        self._demand(self._instant_turns < INSTANT_TURNS_MAX, "", "law 7: it spins")
        self._turns += 1
        if self._turns == TURNS_IN_TEN_SECONDS_MAX:
            took_us = self.world.now_us - self._turns_since_us
            self._demand(took_us > 10 * SECOND_US, "", "law 7: it spins, slowly")
            self._turns, self._turns_since_us = 0, self.world.now_us

    def snapshot_is_applied(self) -> None:
        """S3, S15: what is not over is as the newest snapshot has it."""
        self.told.whole()
        for action_id, seen in self.open.items():
            sent, record = self.told.applied.get(action_id), seen.record
            if not self.told.is_clear(action_id):
                continue
            wanted = sent is not None and sent.should_be_executed
            self._demand(record.wanted == wanted, action_id, f"S3: wanted is {record.wanted}")
            same = sent is None or record.action == sent
            self._demand(same, action_id, f"S3: it has not the newest configuration: {sent}")
            for broken in rules.not_obeyed(record, seen.run.action if seen.run else None):
                raise BrokenRuleError(f"{action_id}: {broken}: {record}")
        missing = [i for i, one in self.told.applied.items() if one and i not in self.known]
        missing = [i for i in missing if self.told.is_clear(i)]
        self._demand(not missing, str(missing), "S3: a new action was not added")

    def unsettled(self, outbox_depth: int) -> list[str]:
        """What is left to wait for, once nothing fails any more."""
        left = [f"{action_id}: {seen.record}" for action_id, seen in self.open.items()]
        left += [f"run {run_id} lives" for run_id in self.living]
        return left + ([f"{outbox_depth} reports"] if outbox_depth else [])

    def all_is_reported(self) -> None:
        for action_id, seen in self.known.items():
            owed = seen.reports[seen.told :]
            self._demand(not owed, action_id, f"S18: never told {owed}")

    def _demand(self, holds: bool, what: str, rule: str) -> None:
        if not holds:
            raise BrokenRuleError(f"{what}: {rule}")


def _as_stored(record: Record, stored: Record | None) -> Record:
    """The record without what the daemon's pool has told it of its run."""
    match record.state, stored and stored.state:
        case Running(run), Running(known) if run.run_id == known.run_id:
            return msgspec.structs.replace(
                record, state=Running(msgspec.structs.replace(run, begun_us=known.begun_us))
            )
    return record


def _shown(record: Record) -> str:
    state = record.state
    detail = state.run.stop or "" if isinstance(state, Running) else ""
    wanted = "" if record.wanted else " not wanted"
    kind = type(state).__name__ if record.status is STARTED else record.status.value
    return f"{kind} attempt {record.attempt}{wanted} {record.reason or ''} {detail}"
