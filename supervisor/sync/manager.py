"""Manager of pulls and reports: begins exchanges when they are due, and applies their outcome.

It is between `exchange.py` (one exchange) and the loop (decisions, commits): it divides a
pulled snapshot among the loop's turns, and keeps the state of a `sync` that clients wait for.
The rules by which a snapshot changes an action are in `core/reconcile.py`.
"""

import logging
from collections.abc import Callable

import msgspec

from ... import __version__
from ...ipc.backends import BACKENDS
from ...ipc.instants import format_optional
from ...ipc.messages.sync import ErrorKind, Taken
from ...ipc.messages.views import BackendView, SyncView
from ...workers.host.privileges import drops_to
from ..config.backend_checks import exposures
from ..config.derived import address
from ..config.sections import BackendSettings
from ..core.model import Instant, Record
from ..core.reconcile import Verdict
from ..core.turn import Turn
from ..participant import News, Participant
from ..store.daemondb import DaemonDB, MetaUpdate, Verdicts
from .apply import Applying
from .backoff import RETRY_BASE_SECONDS, RETRY_CAP_SECONDS
from .compare import KEPT_SECONDS, Comparison
from .exchange import ExchangeRunner, Failed, Outcome, PullDone, ReportsDone
from .packed_snapshot import PackedSnapshot
from .report_sender import ReportSender

log = logging.getLogger(__name__)

OPEN_RECORDS_PER_TURN_MAX = 500


class PullOutcome(msgspec.Struct):
    """Outcome of the last pull, for `status`."""

    last_pull_us: int | None = None
    last_success_us: int | None = None
    last_ok: bool | None = None
    last_error: str | None = None
    quarantined: int = 0
    quarantine: tuple[str, ...] = ()
    ignored_terminal: int = 0


class SyncAsked(msgspec.Struct):
    """A `sync` under way: a pull, then reports until none is left or one fails.

    A pull that began before the request does not count, so `begun` comes before `pulled`.
    """

    counts: SyncView = msgspec.field(default_factory=SyncView)
    begun: bool = False
    pulled: bool = False
    error: str | None = None
    done: bool = False


class SyncManager(Participant):
    """Everything between the daemon and its backend, one exchange at a time.

    A pull is wanted, begins once the back-off is over, and is applied in slices by the turns that
    follow (`decide`); reports go between pulls. Each turn calls `gather`, `decide` and
    `after_turn`, or `not_committed` where the store failed. `asked` and `comparison` are the
    newest requests of clients; `not_stored`: the store did not take the newest snapshot.
    `quiet_seconds` returns the rest of the quiet time, in which only runs start.
    """

    def __init__(
        self,
        settings: BackendSettings,
        exchanges: ExchangeRunner,
        db: DaemonDB,
        *,
        quiet_seconds: Callable[[Instant], float],
    ) -> None:
        self.progress = PullOutcome()
        self.asked: SyncAsked | None = None
        self.comparison: Comparison | None = None
        self.not_stored = False
        self._exchanges = exchanges
        self._db = db
        self._reports = ReportSender(exchanges, db)
        self._quiet_seconds = quiet_seconds
        self._applying: Applying | None = None
        self._pull_wanted = False
        self._pulling_from = ""
        self._comparisons = 0
        self.reconfigure(settings)

    @property
    def applying(self) -> bool:
        """The next turn has a slice of a snapshot to look at or to decide."""
        looking = self.comparison is not None and self.comparison.looking
        return self._applying is not None or looking

    @property
    def hurries(self) -> bool:
        """Somebody waits for the exchange under way: anybody, but for one of reports alone."""
        asked = self.asked is not None and not self.asked.done
        return asked or (self._exchanges.busy and not self._exchanges.reports)

    def share_applied(self) -> tuple[int, int] | None:
        """Return the number of applied entries of the snapshot under way, and of all entries."""
        applying = self._applying
        if applying is None:
            return None
        total = applying.snapshot.told.total
        return min(total, sum(applying.counts.values())), total

    @property
    def bad_messages(self) -> int:
        """Messages for which a synchroniser was killed."""
        return self._exchanges.bad_messages

    def reconfigure(self, settings: BackendSettings) -> None:
        """Use these settings from now on; the rest of another backend's snapshot is dropped."""
        self.settings = settings
        self._exchanges.address = address(settings)
        self._reports.enabled = settings.report
        if self._applying is not None and self._pulling_from != self._source():
            self._applying = None
            self._pull_wanted = True
        # A back-off spares a server; a local backend is read again at the next poll.
        backoff, local = self._exchanges.backoff, BACKENDS[settings.kind].local
        backoff.cap_seconds = settings.poll_interval_seconds if local else RETRY_CAP_SECONDS
        backoff.turn_to("" if local else f"{settings.kind} {settings.url}")

    def want_pull(self) -> None:
        """Pull as soon as no exchange is under way and the back-off is over."""
        self._pull_wanted = True

    def ask(self) -> SyncAsked:
        """Pull and report now; a second request joins the first."""
        if self.asked is None or self.asked.done:
            self._pull_wanted = True
            self._hurry(SyncAsked())
        assert self.asked is not None
        return self.asked

    def ask_report(self) -> SyncAsked:
        """Report now; the request joins a `sync` that is under way."""
        if self.asked is None or self.asked.done:
            self._hurry(SyncAsked(begun=True, pulled=True))
        assert self.asked is not None
        return self.asked

    def ask_comparison(self) -> Comparison:
        """Pull and compare now; a second request joins the first while that is not done."""
        if self.comparison is None or self.comparison.done:
            self._comparisons += 1
            self.comparison = Comparison(self._comparisons)
        return self.comparison

    def _hurry(self, asked: SyncAsked) -> None:
        self.asked = asked
        self._exchanges.backoff.hurry()
        self._reports.hurry()

    # --- the turns of the loop ----------------------------------------------------------

    def gather(self, news: News, now: Instant) -> None:
        """Continue the exchange under way, take its outcome, and begin the next one."""
        outcome = self._exchanges.gather(news, now)
        if outcome is not None:
            self._heard(outcome, now)
        self._begin(now)
        done_at = None if self.comparison is None else self.comparison.done_at_monotonic
        if done_at is not None and now.monotonic_seconds - done_at > KEPT_SECONDS:
            self.comparison = None

    def decide(self, turn: Turn, calm_seconds: Callable[[], float]) -> MetaUpdate | None:
        """Decide a slice of the snapshot, if there is one; return the mark to commit with it.

        With the last slice that is the snapshot's own. With any other that changes something it
        is empty, because the store then has parts of two snapshots. `calm_seconds` returns for
        how long nothing else is due.
        """
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
        """Take note that the turn is committed: with the last slice, the pull is done.

        Reports pause while runs start; further starts do not lengthen a pause.
        """
        self._reports.keep_quiet(now, self._quiet_seconds(now))
        if self._applying is not None and self._applying.done:
            self._pull_done(self._applying, now)
            self._applying = None
        self._begin(now)

    def verdicts(self, now: Instant, *, in_company: bool) -> Verdicts | None:
        """Return the verdicts on reports that this turn is to commit, which commits something else
        where they are `in_company`."""
        return self._reports.verdicts(now, in_company=in_company)

    def verdicts_stored(self) -> None:
        """Take note that they are on disk."""
        self._reports.stored()

    def not_committed(self, now: Instant, detail: str) -> None:
        """Give up the snapshot in the middle of which the store failed, and pull it again; and the
        verdicts on reports, which are then sent again."""
        if self._reports.not_stored(now):
            self._report_failed(f"local: {detail}")
        if self._applying is not None:
            self._applying = None
            self._exchanges.backoff.failed(pull=True, now=now)  # it is not asked again at once
            self._pull_failed(f"local: {detail}", now)
            self.not_stored = True

    def next_deadline(self, now: Instant) -> float | None:
        """Return the instant of the next work; now while a snapshot is looked at or decided."""
        if self.applying:
            return now.monotonic_seconds
        deadlines = [self._exchanges.next_deadline()]
        if not self._exchanges.busy:
            if self._pull_wanted:
                wait_seconds = self._exchanges.backoff.wait_seconds(pull=True, now=now)
                deadlines.append(now.monotonic_seconds + wait_seconds)
            deadlines.append(self._reports.due_at_monotonic(now))
        return min((d for d in deadlines if d is not None), default=None)

    def abandon(self) -> None:
        """Cut off the exchange under way: the daemon leaves."""
        self._exchanges.abandon()
        self._applying = None

    def view(self, next_poll_seconds: float | None, now: Instant) -> BackendView:
        """Return the view for `status`. The next poll is the schedule's, a retry the back-off's."""
        progress = self.progress
        retry_seconds = self._exchanges.backoff.wait_seconds(pull=True, now=now)
        next_pull_in_seconds = retry_seconds if self._pull_wanted else next_poll_seconds
        return BackendView(
            kind=self.settings.kind,
            user=drops_to(self.settings.user),
            last_pull_at=format_optional(progress.last_pull_us),
            last_pull_ok=progress.last_ok,
            last_error=progress.last_error,
            last_success_at=format_optional(progress.last_success_us),
            next_pull_in_seconds=next_pull_in_seconds,
            quarantined=progress.quarantined,
            quarantine=progress.quarantine,
            ignored_terminal=progress.ignored_terminal,
            last_report_error=self._reports.last_error,
            warnings=tuple(f"backend.{key}: {why}" for key, why in exposures(self.settings)),
        )

    # --- exchanges ----------------------------------------------------------------------

    def _begin(self, now: Instant) -> None:
        """Begin the next exchange, if none is under way: reports do not wait for a pull."""
        if self.applying or self._exchanges.busy:
            return
        if self.comparison is not None and self.comparison.wanted:
            self.comparison.pulling = True
            self._pulling_from = self._source()
            self._exchanges.pull(now, etag="", digest="")
        elif self._pull_wanted and self._may_pull(now):
            self._pull_wanted = False
            self._pulling_from = self._source()
            if self.asked is not None:
                self.asked.begun = True
            meta = self._db.meta
            known = meta.source == self._source()
            self._exchanges.pull(
                now, etag=meta.etag if known else "", digest=meta.digest if known else ""
            )
        elif self._reports.settling:
            return  # what is stored then may be all
        elif self._reports.pending and self._exchanges.may(pull=False, now=now):
            asked = self.asked is not None and not self.asked.done
            held = now.monotonic_seconds < self._reports.held_until_monotonic
            if not held and not self._reports.send(now, pause=not asked):
                self._finish_asked()
        elif self.asked and not self.asked.done and self.asked.pulled:
            self._finish_asked()

    def _may_pull(self, now: Instant) -> bool:
        """The back-off is over, or a client waits for a pull: another exchange that was under way
        when it asked may have failed since, and begun the next wait."""
        asked = self.asked is not None and not (self.asked.begun or self.asked.done)
        return asked or self._exchanges.may(pull=True, now=now)

    def _heard(self, outcome: Outcome, now: Instant) -> None:
        comparison = self.comparison
        match outcome:
            case PullDone() | Failed(pull=True) if comparison is not None and comparison.pulling:
                self._heard_to_compare(comparison, outcome, now)
            case PullDone() if self._pulling_from != self._source():
                self._pull_wanted = True  # reloaded meanwhile: another backend's answer
            case PullDone(None):
                self._pull_succeeded(now)
            case PullDone(PackedSnapshot() as snapshot):
                db = self._db
                self._applying = Applying(
                    snapshot, db.read_keys, db.open_keys, db.ended_page, short=self.not_stored
                )
            case ReportsDone(taken):
                self._reports_done(taken, now)
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
            self._exchanges.backoff.succeeded(pull=True)
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
        self._exchanges.backoff.succeeded(pull=True)
        if progress.last_ok is False:
            log.info("Pulls succeed again", extra={"event": "pull-recovered"})
        progress.last_pull_us = progress.last_success_us = now.wall_us
        progress.last_ok, progress.last_error = True, None
        # From now on, the retry after a first failure comes, on average, when a poll would have
        # come. Until the first success it comes as early as possible.
        twice = 2 * self.settings.poll_interval_seconds
        self._exchanges.backoff.pull_base_seconds = max(RETRY_BASE_SECONDS, twice)
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

    def _reports_done(self, taken: Taken, now: Instant) -> None:
        waited = self.asked is not None and not self.asked.done
        accepted, error = self._reports.heard(taken, now, waited=waited)
        if error is not None:
            self._report_failed(error)
        elif self.asked is not None and not self.asked.done:
            counts = self.asked.counts
            self.asked.counts = msgspec.structs.replace(counts, reported=counts.reported + accepted)

    def _report_failed(self, message: str, *, cannot: bool = False) -> None:
        """Note that no report was taken. With `cannot` the backend takes none at all, which
        is no failure of a `sync`."""
        self._reports.failed(message)
        if cannot:
            self._finish_asked()
        elif self.asked is not None and not self.asked.done:
            self.asked.error = f"cannot report: {message}"
            self.asked.done = True

    def _finish_asked(self) -> None:
        if self.asked is not None and self.asked.pulled:
            self.asked.done = True

    def _source(self) -> str:
        """Return the backend that the stored ETag is from: it means nothing to any other."""
        where = self.settings.url or self.settings.path
        return f"{self.settings.kind} {where} {__version__}"
