"""Sender of the outbox: reports of status changes, in batches, until the backend accepts them.

A report stays pending until it is accepted, or set aside after ten refusals (S18). Its key
makes repetition harmless.
"""

import logging

from ...ipc.messages.sync import REPORTS_PER_EXCHANGE_MAX, ErrorKind, Report, Taken
from ...ipc.signals import signal_name
from ..core.model import Instant, StatusChange
from ..store.daemondb import DaemonDB
from ..store.errors import StoreError
from .exchange import ExchangeRunner

log = logging.getLogger(__name__)

SEQUENCE_DIGITS_MAX = 19
#: Pause between exchanges while more is pending than one takes: after an outage of weeks all
#: devices of a fleet have much to report.
BACKLOG_PAUSE_SECONDS = 1.0


class ReportSender:
    """Sends pending reports, and settles in daemonDB what the backend answered.

    `enabled` is the setting `backend.report`; `last_error` is None after an exchange in which
    no report was refused.
    """

    def __init__(self, exchanges: ExchangeRunner, db: DaemonDB) -> None:
        self.enabled = True
        self.last_error: str | None = None
        self._exchanges = exchanges
        self._db = db
        self._in_flight: dict[str, int] = {}  # sequence in the outbox, by key
        self._backlog_until_monotonic = 0.0
        self._quiet_until_monotonic = 0.0

    @property
    def pending(self) -> bool:
        """Reports wait in the outbox, and may be sent."""
        return self.enabled and self._db.outbox_depth > 0

    @property
    def held_until_monotonic(self) -> float:
        """End of the pause in a backlog, or of that while runs start."""
        return max(self._backlog_until_monotonic, self._quiet_until_monotonic)

    def due_at_monotonic(self, now: Instant) -> float | None:
        """Return the instant at which the next exchange may begin; None without any report."""
        if not self.pending:
            return None
        wait_seconds = self._exchanges.backoff.wait_seconds(pull=False, now=now)
        return max(self.held_until_monotonic, now.monotonic_seconds + wait_seconds)

    def hurry(self) -> None:
        """End the pause between exchanges."""
        self._backlog_until_monotonic = 0.0

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

    def settle(self, taken: Taken, now: Instant) -> tuple[int, str | None]:
        """Record the verdicts on the reports in flight.

        Returns the number of accepted ones, and an error where none was.
        Raises `StoreError` where that is fatal.
        """
        refused_error = taken.refused[0][1] if taken.refused else None
        self.last_error = refused_error and f"{ErrorKind.REFUSED}: {refused_error}"
        for key, error in taken.refused:
            log.warning("The backend refused report %s: %s", key, error, extra={"event": "refused"})
        accepted = [self._in_flight[key] for key in taken.accepted if key in self._in_flight]
        refused = [self._in_flight[key] for key, _ in taken.refused if key in self._in_flight]
        try:
            self._db.settle_reports(accepted, refused)
        except StoreError as error:
            if error.fatal:
                raise
            # They stay pending and are sent again: their keys make that harmless (S18).
            self._exchanges.backoff.failed(pull=False, now=now)
            return 0, f"local: {error}"
        if accepted:
            self._exchanges.backoff.succeeded(pull=False)
            return len(accepted), None
        return 0, self.last_error or "no report was taken"

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
