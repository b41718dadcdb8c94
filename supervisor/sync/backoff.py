"""Exponential back-off for exchanges with the backend, kept over restarts of the daemon.

Otherwise a daemon that crashes again and again would not spare a backend in trouble. The
back-off is kept in `runtime_dir`, which outlives the daemon but not the boot, as instants of
the boot clock, which no clock step moves. It is written only when an exchange fails, or is the
first to succeed again.
"""

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from ...ipc.decoding import DECODE_ERRORS
from ...ipc.messages.sync import RETRY_AFTER_SECONDS_MAX, RETRY_AFTER_SECONDS_MIN
from ...workers.host.files import open_regular, replace_whole
from ...workers.host.procfs import boot_id
from ..core.model import Instant

log = logging.getLogger(__name__)

RETRY_BASE_SECONDS = 2.0
RETRY_CAP_SECONDS = 900.0
RETRY_SECONDS_MIN = 0.1
#: Added at random: at most this fraction of the wait that the backend asked for, because a
#: date in `Retry-After` is the same instant for all devices.
RETRY_AFTER_SPREAD = 0.5
KEPT_BYTES_MAX = 4096
#: Further failures are not counted: they change no wait.
FAILURES_MAX = 1000


def retry_delay(
    failures: int,
    chance: float,
    *,
    base_seconds: float = RETRY_BASE_SECONDS,
    cap_seconds: float = RETRY_CAP_SECONDS,
    retry_after_seconds: float = 0.0,
) -> float:
    """Return the seconds to wait after this many failures in a row: full jitter, capped (fact B8).

    `chance` is uniform in [0, 1). `Retry-After` is honoured within its bounds. After a pull
    that succeeded, `base_seconds` is of the order of the poll interval: a fleet that retries
    much sooner than it would have polled overloads a backend in trouble. Pure.
    """
    if retry_after_seconds > 0:
        bounded = max(retry_after_seconds, RETRY_AFTER_SECONDS_MIN)
        return min(bounded * (1.0 + RETRY_AFTER_SPREAD * chance), RETRY_AFTER_SECONDS_MAX)
    ceiling = min(cap_seconds, base_seconds * 2.0 ** min(failures, 20))
    return max(RETRY_SECONDS_MIN, ceiling * chance)


class Wait(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Failures in a row of one kind of exchange, and the end of the wait after the last."""

    failures: Annotated[int, msgspec.Meta(ge=0, le=FAILURES_MAX)] = 0
    until_boot_seconds: float = msgspec.field(default=0.0, name="until")


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's content. `source` is the backend that failed; the waits are for no other."""

    boot_id: str
    source: str
    pull: Wait
    report: Wait


_NO_WAIT = Wait()
_decode = msgspec.json.Decoder(Kept).decode


class Backoff:
    """Waits for pulls and for reports, each with its own failures in a row.

    `path` is the file that keeps them. `cap_seconds` is the longest wait that no `Retry-After`
    asked for, `pull_base_seconds` the first ceiling for a pull, which each failure doubles.
    """

    def __init__(
        self, path: Path, now: Instant, *, chance: Callable[[], float] = random.random
    ) -> None:
        self.cap_seconds = RETRY_CAP_SECONDS
        self.pull_base_seconds = RETRY_BASE_SECONDS
        self._path = path
        self._boot_id = boot_id()  # once: where descriptors are short it cannot be read
        self._chance = chance
        self._source = ""
        self._pull = self._report = _NO_WAIT
        self._kept = _read(path, self._boot_id, now)

    def turn_to(self, source: str) -> None:
        """Apply to the backend `source` from now on; for "" nothing is kept."""
        if source == self._source:
            return
        self._source = source
        self.pull_base_seconds = RETRY_BASE_SECONDS
        self._pull = self._report = _NO_WAIT
        if source and self._kept is not None and self._kept.source == source:
            self._pull, self._report = self._kept.pull, self._kept.report
        else:
            self._keep()

    def may(self, *, pull: bool, now: Instant) -> bool:
        """The wait for an exchange of this kind is over."""
        return now.boot_seconds >= self._of(pull).until_boot_seconds

    def wait_seconds(self, *, pull: bool, now: Instant) -> float:
        """Return the time until an exchange of this kind may begin; never negative."""
        return max(0.0, self._of(pull).until_boot_seconds - now.boot_seconds)

    def hurry(self) -> None:
        """End both waits, because a client asked for an exchange; the failures still count."""
        self._pull = msgspec.structs.replace(self._pull, until_boot_seconds=0.0)
        self._report = msgspec.structs.replace(self._report, until_boot_seconds=0.0)

    def failed(self, *, pull: bool, now: Instant, retry_after_seconds: float = 0.0) -> None:
        """Begin a wait for exchanges of this kind, longer with each failure in a row."""
        failures = self._of(pull).failures
        delay_seconds = retry_delay(
            failures,
            self._chance(),
            base_seconds=self.pull_base_seconds if pull else RETRY_BASE_SECONDS,
            cap_seconds=self.cap_seconds,
            retry_after_seconds=retry_after_seconds,
        )
        self._set(pull, Wait(min(failures + 1, FAILURES_MAX), now.boot_seconds + delay_seconds))

    def succeeded(self, *, pull: bool) -> None:
        """Forget the failures in a row of this kind."""
        self._set(pull, _NO_WAIT)

    def _of(self, pull: bool) -> Wait:
        return self._pull if pull else self._report

    def _set(self, pull: bool, wait: Wait) -> None:
        if pull:
            self._pull = wait
        else:
            self._report = wait
        self._keep()

    def _keep(self) -> None:
        """Write the waits where they differ from the file; without any failure there is none."""
        failing = (self._pull, self._report) != (_NO_WAIT, _NO_WAIT)
        kept = Kept(self._boot_id, self._source, self._pull, self._report)
        wanted = kept if self._source and failing else None
        if wanted == self._kept:
            return
        try:
            if wanted is None:
                self._path.unlink(missing_ok=True)
            else:
                replace_whole(self._path, msgspec.json.encode(wanted), durable=False)
        except OSError as error:
            log.warning("Cannot keep the back-off: %s", error, extra={"event": "backoff-not-kept"})
        else:
            self._kept = wanted


def _read(path: Path, this_boot: str, now: Instant) -> Kept | None:
    """Return what an earlier daemon of this boot kept, None where nothing of it can be used."""
    try:
        with open_regular(path, follow_links=False) as file:
            kept = _decode(file.read(KEPT_BYTES_MAX))
        until = max(kept.pull.until_boot_seconds, kept.report.until_boot_seconds)
        if kept.boot_id == this_boot and until > now.boot_seconds + RETRY_AFTER_SECONDS_MAX:
            raise ValueError("it would wait for longer than any back-off is")
    except FileNotFoundError:
        return None
    except (OSError, *DECODE_ERRORS) as error:
        log.warning("Ignored %s: %s", path, error, extra={"event": "backoff-ignored"})
        return None
    return kept if kept.boot_id == this_boot else None
