"""The daemon's dealings with its backend: when to pull and report, and what came of it.

Between `exchange.py` (one exchange) and the loop (decisions, commits): it feeds a
pulled snapshot into the loop's turns, settles what was reported, and answers those who
wait for a `sync`. What a snapshot means for an action is `core/reconcile.py`'s.
"""

import logging
from collections.abc import Callable

from ... import __version__
from ...ipc.backends import BACKENDS
from ...ipc.instants import format_optional
from ...ipc.messages.sync import ErrorKind
from ...ipc.messages.views import BackendView, SyncView
from ..config.derived import address
from ..config.sections import BackendSettings
from ..core.model import Instant, Record
from ..core.reconcile import Verdict
from ..core.turn import Turn
from ..participant import News, Participant
from ..store.daemondb import DaemonDB, MetaUpdate
from ..store.errors import StoreError
from .apply import Applying
from .backoff import RETRY_BASE_SECONDS, RETRY_CAP_SECONDS
from .compare import KEPT_SECONDS, Comparison
from .exchange import (
    REPORTS_PER_EXCHANGE_MAX,
    Failed,
    Outcome,
    PullDone,
    ReportsDone,
    Snapshot,
    Synchronisation,
)
from .report_sender import report_of
from .syncs import Progress, SyncAsked

log = logging.getLogger(__name__)

OPEN_RECORDS_PER_TURN_MAX = 500
#: While more is pending than one exchange takes, the next one begins so much later: after an
#: outage of weeks all of a fleet has much to say.
BACKLOG_PAUSE_SECONDS = 1.0


class SyncManager(Participant):
    """The pulls and reports of the daemon: which is wanted, under way, applied, failed.

    `quiet_seconds(now)` tells for how long reports wait because actions are starting.
    """

    def __init__(
        self,
        settings: BackendSettings,
        synchronisation: Synchronisation,
        db: DaemonDB,
        quiet_seconds: Callable[[Instant], float],
    ) -> None:
        self._quiet_seconds = quiet_seconds
        self.progress = Progress()
        self.asked: SyncAsked | None = None
        self.comparison: Comparison | None = None
        self.not_stored = False  # the store did not take the newest snapshot
        self._sync = synchronisation
        self._db = db
        self._applying: Applying | None = None
        self._pull_wanted = False
        self._in_flight: dict[str, int] = {}
        self._backlog_until = 0.0  # on the monotonic clock
        self._report_at = 0.0  # on the monotonic clock
        self._pulling_from = ""
        self._comparisons = 0
        self.reconfigure(settings)

    @property
    def applying(self) -> bool:
        """Whether the next turn has a slice of a snapshot to look at or to decide."""
        looking = self.comparison is not None and self.comparison.looking
        return self._applying is not None or looking

    def share_applied(self) -> tuple[int, int] | None:
        """How many entries of the snapshot that is being applied are settled, and of how many."""
        applying = self._applying
        if applying is None:
            return None
        total = applying.snapshot.told.total
        return min(total, sum(applying.counts.values())), total

    @property
    def bad_messages(self) -> int:
        return self._sync.bad_messages

    def reconfigure(self, settings: BackendSettings) -> None:
        self.settings = settings
        self._sync.address = address(settings)
        if self._applying is not None and self._pulling_from != self._source():
            self._applying = None  # half of what another backend holds
            self._pull_wanted = True
        # Backing off spares a server: a file is simply looked at again.
        backoff, local = self._sync.backoff, BACKENDS[settings.kind].local
        backoff.cap_seconds = settings.poll_interval_seconds if local else RETRY_CAP_SECONDS
        backoff.turn_to("" if local else f"{settings.kind} {settings.url}")

    def want_pull(self) -> None:
        self._pull_wanted = True

    def ask(self) -> SyncAsked:
        """Pull and report now; a second wish joins the first."""
        if self.asked is None or self.asked.done:
            self._pull_wanted = True
            self._hurry(SyncAsked())
        assert self.asked is not None
        return self.asked

    def ask_report(self) -> SyncAsked:
        """Report now; joins a wish for all of it."""
        if self.asked is None or self.asked.done:
            self._hurry(SyncAsked(begun=True, pulled=True))
        assert self.asked is not None
        return self.asked

    def ask_comparison(self) -> Comparison:
        """Pull and compare now; a second wish joins the first while that is not done."""
        if self.comparison is None or self.comparison.done:
            self._comparisons += 1
            self.comparison = Comparison(self._comparisons)
        return self.comparison

    def _hurry(self, asked: SyncAsked) -> None:
        self.asked = asked
        self._sync.backoff.hurry()
        self._backlog_until = 0.0

    # --- the turns of the loop ----------------------------------------------------------

    def gather(self, news: News, now: Instant) -> None:
        outcome = self._sync.gather(news, now)
        if outcome is not None:
            self._heard(outcome, now)
        self._begin(now)
        done_at = None if self.comparison is None else self.comparison.done_at
        if done_at is not None and now.monotonic_seconds - done_at > KEPT_SECONDS:
            self.comparison = None

    def decide(self, turn: Turn, calm_seconds: Callable[[], float]) -> MetaUpdate | None:
        """A slice of the snapshot, if there is one; with the last, the snapshot's mark. With
        any other that changes something there is none: what is stored then is of two.
        `calm_seconds` tells for how long nothing is near."""
        if self.comparison is not None and self.comparison.looking:
            self.comparison.slice(turn, self._open_records)
        applying = self._applying
        if applying is None:
            return None
        changes = len(turn.changes)
        applying.slice(turn, calm_seconds())
        if not applying.done and len(turn.changes) == changes and not turn.absences:
            return None
        told = applying.snapshot.told
        clean = applying.done and told.set_aside_total == 0
        mark = (told.etag, told.digest, self._source()) if clean else ("", "", "")
        meta = self._db.meta
        if mark == (meta.etag, meta.digest, meta.source):
            return None
        return MetaUpdate(etag=mark[0], digest=mark[1], source=mark[2])

    def after_turn(self, now: Instant) -> None:
        """End the pull if the turn held the last slice, and begin what is wanted. Reports
        wait for actions that start; once, not for one start after the other."""
        if self._report_at <= now.monotonic_seconds:
            self._report_at = now.monotonic_seconds + self._quiet_seconds(now)
        if self._applying is not None and self._applying.done:
            self._pull_done(self._applying, now)
            self._applying = None
        self._begin(now)

    def not_committed(self, now: Instant, detail: str) -> None:
        """The store failed in the middle of a snapshot: it has to be pulled again."""
        if self._applying is not None:
            self._applying = None
            self._sync.backoff.failed(pull=True, now=now)  # it is not asked again at once
            self._pull_failed(f"local: {detail}", now)
            self.not_stored = True

    def next_deadline(self, now: Instant) -> float | None:
        if self.applying:
            return now.monotonic_seconds
        deadlines = [self._sync.next_deadline()]
        if not self._sync.busy and not self.applying:
            if self._pull_wanted:
                deadlines.append(self._may_at(now, pull=True))
            if self._may_report():
                wanted = max(self._backlog_until, self._report_at)
                deadlines.append(max(wanted, self._may_at(now, pull=False)))
        return min((d for d in deadlines if d is not None), default=None)

    def _may_at(self, now: Instant, *, pull: bool) -> float:
        return now.monotonic_seconds + self._sync.backoff.wait_seconds(pull=pull, now=now)

    def abandon(self) -> None:
        self._sync.abandon()
        self._applying = None

    def view(self, next_poll_seconds: float | None, now: Instant) -> BackendView:
        progress = self.progress
        retry_seconds = self._sync.backoff.wait_seconds(pull=True, now=now)
        next_pull_in_seconds = retry_seconds if self._pull_wanted else next_poll_seconds
        return BackendView(
            kind=self.settings.kind,
            last_pull_at=format_optional(progress.last_pull_us),
            last_pull_ok=progress.last_ok,
            last_error=progress.last_error,
            last_success_at=format_optional(progress.last_success_us),
            next_pull_in_seconds=next_pull_in_seconds,
            quarantined=progress.quarantined,
            quarantine=progress.quarantine,
            ignored_terminal=progress.ignored_terminal,
            last_report_error=progress.last_report_error,
        )

    # --- exchanges ----------------------------------------------------------------------

    def _begin(self, now: Instant) -> None:
        """Begin what is wanted, if nothing is under way: reports wait for no pull."""
        if self.applying or self._sync.busy:
            return
        if self.comparison is not None and self.comparison.wanted:
            self.comparison.pulling = True
            self._pulling_from = self._source()
            self._sync.pull(now, etag="", digest="")
        elif self._pull_wanted and self._sync.may(pull=True, now=now):
            self._pull_wanted = False
            self._pulling_from = self._source()
            if self.asked is not None:
                self.asked.begun = True
            meta = self._db.meta
            known = meta.source == self._source()
            self._sync.pull(
                now, etag=meta.etag if known else "", digest=meta.digest if known else ""
            )
        elif self._may_report() and self._sync.may(pull=False, now=now):
            if now.monotonic_seconds >= max(self._backlog_until, self._report_at):
                self._report(now)
        elif self.asked and not self.asked.done and self.asked.pulled:
            self._finish_asked()

    def _may_report(self) -> bool:
        return self.settings.report and self._db.outbox_depth > 0

    def _report(self, now: Instant) -> None:
        pending = self._db.outbox_pending(REPORTS_PER_EXCHANGE_MAX)
        if not pending:
            self._finish_asked()
            return
        generation = self._db.meta.generation
        reports = [report_of(generation, sequence, change) for sequence, change in pending]
        self._in_flight = {
            report.key: sequence for report, (sequence, _) in zip(reports, pending, strict=True)
        }
        asked = self.asked is not None and not self.asked.done
        if self._db.outbox_depth > len(reports) and not asked:
            self._backlog_until = now.monotonic_seconds + BACKLOG_PAUSE_SECONDS
        self._sync.report(reports, now)

    def _heard(self, outcome: Outcome, now: Instant) -> None:
        comparison = self.comparison
        compares = comparison is not None and comparison.pulling
        match outcome:
            case PullDone() | Failed(pull=True) if comparison is not None and compares:
                self._heard_to_compare(comparison, outcome, now)
            case PullDone() if self._pulling_from != self._source():
                self._pull_wanted = True  # reloaded meanwhile: another backend's answer
            case PullDone(None):
                self._pull_succeeded(now)
            case PullDone(Snapshot() as snapshot):
                self._applying = Applying(
                    snapshot, self._db.read_keys, self._db.open_keys, self._db.ended_page
                )
            case ReportsDone(taken):
                self._reports_done(list(taken.accepted), list(taken.refused), now)
            case Failed(pull, kind, detail):
                message = f"{kind.value}: {detail}"
                if pull:
                    self._pull_failed(message, now)
                else:
                    self._report_failed(message, cannot=kind is ErrorKind.NO_REPORTS)

    def _heard_to_compare(
        self, comparison: Comparison, outcome: PullDone | Failed, now: Instant
    ) -> None:
        if isinstance(outcome, Failed):
            why = f"cannot pull: {outcome.kind.value}: {outcome.detail}"
            comparison.failed(why, now.monotonic_seconds)
        elif self._pulling_from != self._source() or outcome.snapshot is None:
            comparison.failed("cannot compare: reloaded meanwhile", now.monotonic_seconds)
        else:
            self._sync.backoff.succeeded(pull=True)
            comparison.pulled(outcome.snapshot)

    def _open_records(self, cursor: str) -> tuple[list[Record], str]:
        return self._db.open_page(cursor, OPEN_RECORDS_PER_TURN_MAX)

    def _pull_done(self, applied: Applying, now: Instant) -> None:
        counts, told = applied.counts, applied.snapshot.told
        self.progress.quarantined = told.set_aside_total
        self.progress.quarantine = applied.quarantine
        self.progress.ignored_terminal = counts[Verdict.IGNORED]
        for line in applied.quarantine:
            log.warning(
                "Set aside an entry of the snapshot: %s", line, extra={"event": "set-aside"}
            )
        log.info(
            "Pulled: %d added, %d updated, %d withdrawn, %d unchanged, %d set aside",
            counts[Verdict.ADDED],
            counts[Verdict.UPDATED],
            counts[Verdict.WITHDRAWN],
            counts[Verdict.UNCHANGED] + counts[Verdict.IGNORED],
            told.set_aside_total,
            extra={"event": "pulled"},
        )
        self._pull_succeeded(now, applied)

    def _pull_succeeded(self, now: Instant, applied: Applying | None = None) -> None:
        progress, self.not_stored = self.progress, False
        self._sync.backoff.succeeded(pull=True)
        if progress.last_ok is False:
            log.info("Pulls succeed again", extra={"event": "pull-recovered"})
        progress.last_pull_us = progress.last_success_us = now.wall_us
        progress.last_ok, progress.last_error = True, None
        # From now on, a first failure is followed by a retry when, on average, a poll would
        # have come. Until now every second counted.
        twice = 2 * self.settings.poll_interval_seconds
        self._sync.backoff.pull_base_seconds = max(RETRY_BASE_SECONDS, twice)
        if self.asked is not None and self.asked.begun and not self.asked.done:
            self.asked.pulled = True
            self.asked.counts = self._counts(applied)

    def _counts(self, applied: Applying | None) -> SyncView:
        if applied is None:
            return SyncView(unchanged=sum(self._db.counts().values()))
        counts = applied.counts
        return SyncView(
            added=counts[Verdict.ADDED],
            updated=counts[Verdict.UPDATED],
            withdrawn=counts[Verdict.WITHDRAWN],
            unchanged=counts[Verdict.UNCHANGED] + counts[Verdict.IGNORED],
            quarantined=applied.snapshot.told.set_aside_total,
        )

    def _pull_failed(self, message: str, now: Instant) -> None:
        progress, self.not_stored = self.progress, False
        if progress.last_error != message:
            log.warning("Cannot pull: %s", message, extra={"event": "pull-failed"})
        progress.last_pull_us, progress.last_ok, progress.last_error = now.wall_us, False, message
        self._pull_wanted = True  # again, once the back-off is over
        if self.asked is not None and self.asked.begun and not self.asked.done:
            self.asked.error = f"cannot pull: {message}"
            self.asked.done = True

    def _reports_done(
        self, accepted: list[str], refused: list[tuple[str, str]], now: Instant
    ) -> None:
        self.progress.last_report_error = refused[0][1] if refused else None
        for key, error in refused:
            log.warning("The backend refused report %s: %s", key, error, extra={"event": "refused"})
        taken = [self._in_flight[key] for key in accepted if key in self._in_flight]
        rejected = [self._in_flight[key] for key, _ in refused if key in self._in_flight]
        try:
            self._db.settle_reports(taken, rejected)
        except StoreError as error:
            if error.fatal:
                raise
            # They stay pending and are told again: their keys make that harmless (S18).
            self._sync.backoff.failed(pull=False, now=now)
            self._report_failed(f"local: {error}")
            return
        if taken:
            self._sync.backoff.succeeded(pull=False)
        if self.asked is not None and not self.asked.done:
            counts = self.asked.counts
            self.asked.counts = SyncView(
                counts.added,
                counts.updated,
                counts.withdrawn,
                counts.unchanged,
                counts.quarantined,
                counts.reported + len(taken),
            )
        if not taken:
            self._report_failed(self.progress.last_report_error or "no report was taken")

    def _report_failed(self, message: str, *, cannot: bool = False) -> None:
        """`cannot`: this backend takes none at all, which is no failure of a `sync`."""
        if self.progress.last_report_error != message:
            log.warning("Cannot report: %s", message, extra={"event": "report-failed"})
        self.progress.last_report_error = message
        if cannot:
            self._finish_asked()
        elif self.asked is not None and not self.asked.done:
            self.asked.error = f"cannot report: {message}"
            self.asked.done = True

    def _finish_asked(self) -> None:
        if self.asked is not None and self.asked.pulled:
            self.asked.done = True

    def _source(self) -> str:
        """What the stored ETag belongs to: it means nothing to any other backend."""
        where = self.settings.url or self.settings.path
        return f"{self.settings.kind} {where} {__version__}"
