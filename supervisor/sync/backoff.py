"""When the next exchange may begin: failures in a row, kept over restarts of the daemon.

Else a daemon that crashes again and again would be to a backend in trouble what a daemon
without any back-off is. What is kept lies in `runtime_dir`: it outlives the daemon, not
the boot, and names instants of the boot clock, which no clock step can move. It is written
only when an exchange fails, or is the first to succeed again. How long to wait is
`core/retry.py`'s to say.
"""

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from ...workers.host.files import open_regular, replace_whole
from ...workers.host.procfs import boot_id
from ..core.model import Instant
from ..core.retry import RETRY_AFTER_SECONDS_MAX, RETRY_BASE_SECONDS, RETRY_CAP_SECONDS, retry_delay

log = logging.getLogger(__name__)

KEPT_BYTES_MAX = 4096
#: More than this says nothing more, and does not fit what is kept.
FAILURES_MAX = 1000


class Wait(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one kind of exchange: how often it failed in a row, and until when to wait."""

    failures: Annotated[int, msgspec.Meta(ge=0, le=FAILURES_MAX)] = 0
    until: float = 0.0  # seconds since boot


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`source` is the backend that has failed: its failures say nothing of another."""

    boot_id: str
    source: str
    pull: Wait
    report: Wait


_NOTHING = Wait()
_decode = msgspec.json.Decoder(Kept).decode


class Backoff:
    """`path` is where it is kept. `cap_seconds` is the longest wait of our own choice,
    `pull_base_seconds` what the waits for a pull begin to double from."""

    def __init__(
        self, path: Path, now: Instant, *, chance: Callable[[], float] = random.random
    ) -> None:
        self.cap_seconds = RETRY_CAP_SECONDS
        self.pull_base_seconds = RETRY_BASE_SECONDS
        self._path = path
        self._chance = chance
        self._source = ""
        self._pull = self._report = _NOTHING
        self._kept = _read(path, now)

    def turn_to(self, source: str) -> None:
        """The backend to speak to from now on; "" is one that nothing is kept of."""
        if source == self._source:
            return
        self._source = source
        self.pull_base_seconds = RETRY_BASE_SECONDS
        self._pull = self._report = _NOTHING
        if source and self._kept is not None and self._kept.source == source:
            self._pull, self._report = self._kept.pull, self._kept.report
        else:
            self._keep()

    def may(self, *, pull: bool, now: Instant) -> bool:
        return now.boot_seconds >= self._of(pull).until

    def wait_seconds(self, *, pull: bool, now: Instant) -> float:
        """How long until an exchange of this kind may begin; never negative."""
        return max(0.0, self._of(pull).until - now.boot_seconds)

    def hurry(self) -> None:
        """Somebody asked for it: what was to be waited for counts no more."""
        self._pull = msgspec.structs.replace(self._pull, until=0.0)
        self._report = msgspec.structs.replace(self._report, until=0.0)

    def failed(self, *, pull: bool, now: Instant, retry_after_seconds: float = 0.0) -> None:
        """No exchange of this kind for a while, and longer each time in a row."""
        failures = self._of(pull).failures
        delay = retry_delay(
            failures,
            self._chance(),
            base_seconds=self.pull_base_seconds if pull else RETRY_BASE_SECONDS,
            cap_seconds=self.cap_seconds,
            retry_after_seconds=retry_after_seconds,
        )
        self._set(pull, Wait(min(failures + 1, FAILURES_MAX), now.boot_seconds + delay))

    def succeeded(self, *, pull: bool) -> None:
        self._set(pull, _NOTHING)

    def _of(self, pull: bool) -> Wait:
        return self._pull if pull else self._report

    def _set(self, pull: bool, wait: Wait) -> None:
        if pull:
            self._pull = wait
        else:
            self._report = wait
        self._keep()

    def _keep(self) -> None:
        """On disk is what a daemon that starts now has to know; no file is nothing."""
        failing = (self._pull, self._report) != (_NOTHING, _NOTHING)
        kept = Kept(boot_id(), self._source, self._pull, self._report)
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


def _read(path: Path, now: Instant) -> Kept | None:
    """What an earlier daemon of this boot kept; None where there is nothing of use."""
    try:
        with open_regular(path) as file:
            kept = _decode(file.read(KEPT_BYTES_MAX))
        latest = now.boot_seconds + RETRY_AFTER_SECONDS_MAX
        if kept.boot_id == boot_id() and max(kept.pull.until, kept.report.until) > latest:
            raise ValueError("it would wait for longer than any back-off is")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("Ignored %s: %s", path, error, extra={"event": "backoff-ignored"})
        return None
    return kept if kept.boot_id == boot_id() else None
