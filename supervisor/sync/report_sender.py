"""Sender of the outbox: reports of status changes, in batches, until the backend accepts them.

A report stays pending until it is accepted, or set aside after ten refusals (S18). Its key
makes repetition harmless.
"""

import logging

from ...ipc.messages.sync import REPORTS_PER_EXCHANGE_MAX, ErrorKind, Report, Taken
from ...ipc.signals import signal_name
from ..core.model import Instant, StatusChange
from ..store.daemondb import DaemonDB, Verdicts
from .exchange import ExchangeRunner

log = logging.getLogger(__name__)

SEQUENCE_DIGITS_MAX = 19
#: Pause between exchanges while more is pending than one takes: after an outage of weeks all
#: devices of a fleet have much to report.
BACKLOG_PAUSE_SECONDS = 1.0
#: Verdicts wait no longer than this for something else to be committed.
VERDICTS_WAIT_SECONDS_MAX = 0.05


class ReportSender:
    """Sends pending reports, and has the verdicts of the backend stored.

    `enabled` is the setting `backend.report`; `last_error` is None after an exchange in which
    no report was refused. Verdicts wait for a commit: until they are stored nothing is sent, for
    it would be sent once more.
    """

    def __init__(self, exchanges: ExchangeRunner, db: DaemonDB) -> None:
        self.enabled = True
        self.last_error: str | None = None
        self._exchanges = exchanges
        self._db = db
        self._in_flight: dict[str, int] = {}  # sequence in the outbox, by key
        self._backlog_until_monotonic = 0.0
        self._quiet_until_monotonic = 0.0
        self._verdicts: Verdicts | None = None
        self._verdicts_due_monotonic = 0.0

    @property
    def pending(self) -> bool:
        """Reports wait in the outbox, and may be sent."""
        return self.enabled and self._db.outbox_depth > 0

    @property
    def settling(self) -> bool:
        """Verdicts have yet to be stored."""
        return self._verdicts is not None

    @property
    def held_until_monotonic(self) -> float:
        """End of the pause in a backlog, or of that while runs start."""
        return max(self._backlog_until_monotonic, self._quiet_until_monotonic)

    def due_at_monotonic(self, now: Instant) -> float | None:
        """Return the instant at which the next exchange may begin, or verdicts are stored without
        company; None without any report."""
        if self.settling:
            return self._verdicts_due_monotonic
        if not self.pending:
            return None
        wait_seconds = self._exchanges.backoff.wait_seconds(pull=False, now=now)
        return max(self.held_until_monotonic, now.monotonic_seconds + wait_seconds)

    def hurry(self) -> None:
        """End the pause between exchanges, and the wait of verdicts for company."""
        self._backlog_until_monotonic = self._verdicts_due_monotonic = 0.0

    def keep_quiet(self, now: Instant, seconds: float) -> None:
        """Pause reports for `seconds`, because runs start; a pause under way is not lengthened."""
        if self._quiet_until_monotonic <= now.monotonic_seconds:
            self._quiet_until_monotonic = now.monotonic_seconds + seconds

    def send(self, now: Instant, *, pause: bool) -> bool:
        """Begin an exchange with the oldest reports; False where none can be read.

        With `pause`, the next exchange of a backlog begins a while later.
        """
        pending = self._db.outbox_pending(REPORTS_PER_EXCHANGE_MAX)
        if not pending:
            return False
        generation = self._db.meta.generation
        reports = [report_of(generation, sequence, change) for sequence, change in pending]
        self._in_flight = {
            report.key: sequence for report, (sequence, _) in zip(reports, pending, strict=True)
        }
        if pause and self._db.outbox_depth > len(reports):
            self._backlog_until_monotonic = now.monotonic_seconds + BACKLOG_PAUSE_SECONDS
        self._exchanges.report(reports, now)
        return True

    def heard(self, taken: Taken, now: Instant, *, waited: bool) -> tuple[int, str | None]:
        """Take the verdicts on the reports in flight, to be stored with the next commit, or in a
        moment without one; at once where a client has `waited` for them.

        Returns the number of accepted ones, and an error where none was.
        """
        refused_error = taken.refused[0][1] if taken.refused else None
        self.last_error = refused_error and f"{ErrorKind.REFUSED}: {refused_error}"
        for key, error in taken.refused:
            log.warning("The backend refused report %s: %s", key, error, extra={"event": "refused"})
        accepted = tuple(self._in_flight[key] for key in taken.accepted if key in self._in_flight)
        refused = tuple(self._in_flight[key] for key, _ in taken.refused if key in self._in_flight)
        if accepted or refused:
            self._verdicts = Verdicts(accepted, refused)
            wait_seconds = 0.0 if waited else VERDICTS_WAIT_SECONDS_MAX
            self._verdicts_due_monotonic = now.monotonic_seconds + wait_seconds
        return len(accepted), None if accepted else self.last_error or "no report was taken"

    def verdicts(self, now: Instant, *, in_company: bool) -> Verdicts | None:
        """Return the verdicts to store in this turn, which commits something where they are
        `in_company`; None where there are none, or they may wait."""
        due = in_company or now.monotonic_seconds >= self._verdicts_due_monotonic
        return self._verdicts if due else None

    def stored(self) -> None:
        """Forget the verdicts, which are on disk. A success ends the back-off only now."""
        assert self._verdicts is not None
        if self._verdicts.accepted:
            self._exchanges.backoff.succeeded(pull=False)
        self._verdicts = None

    def not_stored(self, now: Instant) -> bool:
        """Drop verdicts that the store did not take; false where there are none. Their reports stay
        pending and are sent again: their keys make that harmless (S18)."""
        if self._verdicts is None:
            return False
        self._verdicts = None
        self._exchanges.backoff.failed(pull=False, now=now)
        return True

    def failed(self, message: str) -> None:
        """Keep the error for `status`, and log it when it is a new one."""
        if self.last_error != message:
            log.warning("Cannot report: %s", message, extra={"event": "report-failed"})
        self.last_error = message


def report_of(generation: str, sequence: int, change: StatusChange) -> Report:
    """Return the report of a status change. Pure."""
    return Report(
        key=report_key(generation, sequence),
        action_id=change.action_id,
        status=change.new.value,
        at_us=change.at_us,
        attempt=change.attempt,
        run_id=change.run_id,
        exit_code=change.exit_code,
        signal=None if change.signal is None else signal_name(change.signal),
        reason=change.reason.value if change.reason else "",
    )


def report_key(generation: str, sequence: int) -> str:
    """Return the key of a report, unique over all stores."""
    return f"{generation}-{sequence}"


def sequence_of(key: str, generation: str) -> int | None:
    """Return the sequence in a key of this store, None for any other text."""
    _, _, number = key.rpartition("-")
    own = number.isascii() and number.isdigit() and len(number) <= SEQUENCE_DIGITS_MAX
    return int(number) if own and key == report_key(generation, int(number)) else None
