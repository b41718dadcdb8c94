"""Operators: users that may act besides root and the daemon's own, and the lookup of their names.

A number counts at once. A name counts once a helper has found its user, for a name service may
hang (law 2): names are looked up at the start and at each reload, and no request waits for it.
"""

import logging
import os
from collections.abc import Collection

from ...ipc.messages.helper import FindUsers, UsersFound
from ...ipc.messages.views import OperatorsView
from ...workers.host.liveness import patience_seconds
from ..core.model import Instant
from ..host.helpers import Helpers, Job
from ..participant import News, Participant

log = logging.getLogger(__name__)

#: What could not be looked up, and what no account had, is looked up again after this time, which
#: doubles up to the longest: a directory service that is away knows nobody (fact P45).
AGAIN_SECONDS = 10.0
AGAIN_SECONDS_MAX = 600.0
#: A lookup that takes longer is told of.
SLOW_SECONDS = 2.0


class Operators(Participant):
    """Who may act. `given` are names and numbers of users, as text."""

    def __init__(self, helpers: Helpers, given: Collection[str]) -> None:
        self._helpers = helpers
        self._numbers: frozenset[int] = frozenset()
        self._uids: dict[str, int] = {}  # of the names that were found
        self._unknown: frozenset[str] = frozenset()  # that no account had, the last time
        self._open: tuple[str, ...] = ()  # names to look up
        self._job: Job | None = None
        self._job_is_stale = False  # it was begun before the last reload
        self._slow_at_monotonic: float | None = None
        self._failures = 0
        self._again_monotonic = 0.0
        self.permit(given)

    def permit(self, given: Collection[str]) -> None:
        """Replace the operators, after a reload. A name that was found counts on as it did until
        it is found once more."""
        numbers = [each for each in given if _is_number(each)]
        self._numbers = frozenset(map(int, numbers))
        self._open = tuple(each for each in given if each not in numbers)
        self._uids = {name: uid for name, uid in self._uids.items() if name in self._open}
        self._unknown &= set(self._open)
        self._job_is_stale = self._job is not None
        self._failures, self._again_monotonic = 0, 0.0

    def may_act(self, uid: int) -> bool:
        return uid in (0, os.geteuid()) or uid in self._numbers or uid in self._uids.values()

    @property
    def view(self) -> OperatorsView:
        """The names that count for nobody: those still to be looked up, and those of no account."""
        pending = [name for name in self._open if name not in (*self._uids, *self._unknown)]
        return OperatorsView(tuple(pending), tuple(sorted(self._unknown)))

    def gather(self, _news: News, now: Instant) -> None:
        """Have names looked up, and take what was found."""
        if self._job is not None and self._job.done:
            job, self._job, self._slow_at_monotonic = self._job, None, None
            if self._job_is_stale:
                self._job_is_stale = False
            else:
                self._settle(job, now)
        if self._job is None and self._open and now.monotonic_seconds >= self._again_monotonic:
            self._job = self._helpers.submit(FindUsers(self._open), now, waited=False)
            self._slow_at_monotonic = now.monotonic_seconds + SLOW_SECONDS
        if self._slow_at_monotonic is not None and now.monotonic_seconds >= self._slow_at_monotonic:
            self._slow_at_monotonic = None
            self._tell("are still being looked up")

    def next_deadline(self, _now: Instant) -> float | None:
        """Return when to look up again, or when a lookup is slow."""
        if self._job is not None:
            return self._slow_at_monotonic
        return self._again_monotonic if self._open else None

    def _settle(self, job: Job, now: Instant) -> None:
        """Take the answer of a lookup; what it lacks is looked up again, later."""
        if isinstance(job.answer, UsersFound):
            found = {name: uid for name, uid in job.answer.uids.items() if name in self._open}
            self._note(found)
        else:
            self._tell(f"cannot be looked up: {job.why_not or job.answer}")
        if self._open:
            wait_seconds = patience_seconds(
                AGAIN_SECONDS, tries_failed=self._failures, longest=AGAIN_SECONDS_MAX
            )
            self._again_monotonic = now.monotonic_seconds + wait_seconds
            self._failures += 1

    def _note(self, found: dict[str, int]) -> None:
        for name, uid in found.items():
            if self._uids.get(name) != uid:
                log.info(
                    "Operator %s is uid %d", name, uid, extra={"event": "operator", "uid": uid}
                )
        missing = frozenset(self._open) - found.keys()
        for name in sorted(missing - self._unknown):
            log.warning(
                "control.operators: there is no user %r", name, extra={"event": "no-such-operator"}
            )
        for name in missing:
            self._uids.pop(name, None)
        self._uids |= found
        self._open, self._unknown = tuple(sorted(missing)), missing

    def _tell(self, how: str) -> None:
        if pending := self.view.pending:
            log.warning(
                "The operators %s %s; until then they may look, but not act",
                ", ".join(map(repr, pending)),
                how,
                extra={"event": "operators-pending"},
            )


def _is_number(operator: str) -> bool:
    return operator.isascii() and operator.isdecimal()
