"""Lookahead to the next edge: the lead of its turn, and the workers that are armed for it.

An edge is decided and committed a moment before it comes, as of its own instant, so that
neither the decision nor the disk delays a start. A script that is started then waits for that
instant in its own process (`Run.not_before_us`); a run that is to stop is told so at it
(`pool.py`). Decides about no status.
"""

from collections import deque
from collections.abc import Sequence

from ...ipc.actions import ExecutionStatus
from ...ipc.instants import SECOND_US
from ..config.sections import DaemonSettings
from ..core.model import Instant
from ..participant import Participant
from ..runs.pool import Pool
from ..store.daemondb import DaemonDB
from ..store.tables.codec import action_key
from .agenda import Agenda
from .queue import slots_free

#: Lead besides the commit: the poll's rounding, the turn, the way to a worker; and for each
#: start, its order and the worker's preparation (measured on two cores; with half of it, 500
#: starts were late by two to five times as much).
LEAD_SECONDS = 0.004
LEAD_SECONDS_PER_START = 0.004
LEAD_SECONDS_MAX = 1.5
#: The next commit is expected to take as long as the slowest of this many.
COMMITS_REMEMBERED = 8
FIRST_COMMIT_SECONDS = 0.005
COMMIT_SECONDS_MAX = 0.05
#: Time in which a worker is forked and ready: each further one is armed this much earlier.
ARM_SECONDS_PER_WORKER = 0.01
ARMED_AT_ONCE_MAX = 500
#: A turn arms what is to be armed so soon after it, too: each would want a turn of its own.
ARM_TOGETHER_SECONDS = 0.05
#: The quiet time: once the next starts have their workers, nothing else begins from this long
#: before their turn until this long after their instant; each start lengthens it.
QUIET_SECONDS = 0.05
QUIET_SECONDS_PER_START = 0.001


class Lookahead(Participant):
    """The instant that each turn decides for, and the workers that are armed for near starts.

    `settings` may be replaced at any time.
    """

    def __init__(self, db: DaemonDB, pool: Pool, agenda: Agenda, settings: DaemonSettings) -> None:
        self.settings = settings
        self._db = db
        self._pool = pool
        self._agenda = agenda
        self._commits = deque([FIRST_COMMIT_SECONDS], maxlen=COMMITS_REMEMBERED)
        self._reached: Instant | None = None
        self._starts = 0  # at the next edge
        self._prepare_seconds = 0.0  # of lead, for the starts at it and soon after it
        self._quiet_until_us = 0
        self._arm_at_us: int | None = None

    @property
    def lead_seconds(self) -> float:
        """Seconds by which the turn of the next edge precedes it."""
        needed = LEAD_SECONDS + max(self._commits) + self._prepare_seconds
        return min(needed, LEAD_SECONDS_MAX)

    def commit_took(self, seconds: float) -> None:
        """Remember the duration of a commit that changed something."""
        self._commits.append(min(seconds, COMMIT_SECONDS_MAX))

    def forget(self) -> None:
        """Forget the instant that was reached, because the wall clock was stepped."""
        self._reached = None
        self._quiet_until_us = 0

    def as_of(self, now: Instant) -> Instant:
        """Return the instant that a turn decides for: now, or a moment ahead."""
        edge_us = self._next_stored_us()
        self._reached = decided_for(now, self._reached, edge_us, lead_seconds=self.lead_seconds)
        if self._starts and self._reached.wall_us == edge_us:
            lasts = QUIET_SECONDS + self._starts * QUIET_SECONDS_PER_START
            self._quiet_until_us = edge_us + round(lasts * SECOND_US)
        cursor = self._agenda.cursor
        if cursor is not None and cursor[0] > self._reached.wall_us:
            # Set back by less than a step: edges before the cursor would not be looked at.
            self._agenda.look_again(now)
        return self._reached

    def quiet_seconds(self, now: Instant) -> float:
        """Return the rest of the quiet time, in which nothing but starts should begin."""
        return max(0.0, (self._quiet_until_us - now.wall_us) / SECOND_US)

    def next_deadline(self, now: Instant) -> float | None:
        """Return the instant of the next edge's turn, or at which the next worker is armed."""
        due = self._agenda.next_deadline(
            self._next_stored_us(), now, lead_seconds=self.lead_seconds
        )
        if self._arm_at_us is None or self._arm_at_us <= now.wall_us:
            return due
        arm_at = now.monotonic_seconds + (self._arm_at_us - now.wall_us) / SECOND_US
        return arm_at if due is None else min(due, arm_at)

    def after_turn(self, now: Instant) -> None:
        """Arm workers for the near starts, never more than may run."""
        # Before the turn that commits: it starts no more than are ready by then.
        ahead_seconds = self.settings.arm_ahead_seconds + self.lead_seconds
        free = slots_free(self.settings.max_running, self._db.counts()[ExecutionStatus.STARTED])
        queued = self._agenda.queue.lack_workers(free)
        most = min(free, ARMED_AT_ONCE_MAX)
        horizon_us = round((ahead_seconds + most * ARM_SECONDS_PER_WORKER) * SECOND_US)
        first_us, starts_us = self._near(now, horizon_us, most)
        self._starts = starts_us.count(first_us) if first_us is not None else 0
        self._prepare_seconds = prepare_seconds(starts_us, first_us or 0)
        idle = self._pool.idle - queued
        quiet_us = self._quiet_us(now, first_us, idle)
        if now.wall_us < quiet_us and idle >= 0:
            self._arm_at_us = quiet_us
            return
        until_us = now.wall_us + round(ARM_TOGETHER_SECONDS * SECOND_US)
        count, self._arm_at_us = to_arm(starts_us, until_us, ahead_seconds=ahead_seconds)
        edge_us = self._next_stored_us()
        if self._arm_at_us is None and most and edge_us is not None:
            self._arm_at_us = edge_us - horizon_us
        near = min(max(0, free - queued), count)
        spare = min(max(0, free - queued - near), self.settings.spare_workers)
        # For those that wait for a slot, too, as fast as slots become free.
        soon = self._agenda.queue.lack_workers(free + self._pool.turnover) - queued
        self._pool.arm(near + queued + soon, spare)

    def _near(self, now: Instant, horizon_us: int, most: int) -> tuple[int | None, list[int]]:
        """Return the first edge within the horizon, and the edges at which a run may start. Those
        that are reached are queued, or will be in the next turn."""
        if not most or not now.trusted:
            return None, []
        limit = most + len(self._pool.runs)  # the ends of those are among them
        reached_us = now.wall_us if self._reached is None else self._reached.wall_us
        edges = self._db.due(self._agenda.cursor, now.wall_us + horizon_us, limit)
        near = [(edge_us, key) for edge_us, key in edges if edge_us > reached_us]
        if not near:
            return None, []
        running = {action_key(run.action_id) for run in self._pool.runs.values()}
        return near[0][0], [edge_us for edge_us, key in near if key not in running]

    def _quiet_us(self, now: Instant, first_us: int | None, idle: int) -> int:
        """Return the instant before which nothing is armed, because the next starts have their
        workers among the `idle` ones, or have just begun."""
        if first_us is None or not 0 < self._starts <= idle:
            return self._quiet_until_us
        begins_us = first_us - round((self.lead_seconds + QUIET_SECONDS) * SECOND_US)
        return first_us if begins_us <= now.wall_us else self._quiet_until_us

    def _next_stored_us(self) -> int | None:
        cursor = self._agenda.cursor
        return self._db.next_edge_after(cursor[0] if cursor else 0)


def decided_for(
    now: Instant, reached: Instant | None, edge_us: int | None, *, lead_seconds: float
) -> Instant:
    """Return now, or the instant of an edge within `lead_seconds`; never earlier than the one
    that was `reached` before, unless the clock was set back."""
    latest = now
    if reached is not None and _is_ahead(reached, now):
        latest = now.at(reached.wall_us)
    until_us = now.wall_us + round(lead_seconds * SECOND_US)
    if now.trusted and edge_us is not None and latest.wall_us < edge_us <= until_us:
        return now.at(edge_us)
    return latest


def _is_ahead(reached: Instant, now: Instant) -> bool:
    """`reached` is ahead by both clocks: while the host sleeps, only one of them stops."""
    return reached.wall_us > now.wall_us and reached.monotonic_seconds > now.monotonic_seconds


def prepare_seconds(starts_us: Sequence[int], edge_us: int) -> float:
    """Return the lead of an edge's turn, so that each near start, earliest first, has its share of
    time before its own instant."""
    needed = (
        number * LEAD_SECONDS_PER_START - (start_us - edge_us) / SECOND_US
        for number, start_us in enumerate(starts_us, 1)
    )
    return max(0.0, max(needed, default=0.0))


def to_arm(
    starts_us: Sequence[int], now_us: int, *, ahead_seconds: float
) -> tuple[int, int | None]:
    """Return how many of the near starts, earliest first, need an armed worker by now, and the
    instant at which one more is needed."""
    arm_us = [
        start_us - round((ahead_seconds + number * ARM_SECONDS_PER_WORKER) * SECOND_US)
        for number, start_us in enumerate(starts_us)
    ]
    later_us = [at_us for at_us in arm_us if at_us > now_us]
    return len(arm_us) - len(later_us), min(later_us, default=None)
