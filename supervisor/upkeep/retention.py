"""Retention of actions in daemonDB: old ones are forgotten, earlier where the store fills up.

`store/tables/ended.py` decides which may be forgotten at all. A bounded number of actions a
turn.
"""

import logging
from collections.abc import Callable, Iterable

from ...ipc.instants import SECOND_US
from ..config.sections import DaemonSettings
from ..core.model import Instant
from ..participant import News, Participant
from ..store.daemondb import DaemonDB
from ..store.errors import StoreError

log = logging.getLogger(__name__)

#: Above this share of its map the store forgets earlier than `retention` says (fact L14).
SOFT_LIMIT = 0.7


class Retention(Participant):
    """Forgets actions in passes, each from the oldest end on; `look_for_old` begins one.

    A pass pauses while `held_back` returns true: while a snapshot is applied, which may have an
    action again (S6). `remove_output` removes the output of runs by their ids. `settings` may
    be replaced at any time.
    """

    def __init__(
        self,
        db: DaemonDB,
        settings: DaemonSettings,
        held_back: Callable[[], bool],
        remove_output: Callable[[Iterable[str]], None],
    ) -> None:
        self.settings = settings
        self._remove_output = remove_output
        self._db = db
        self._held_back = held_back
        self._cursor: bytes | None = None  # None: no pass is under way
        self._short_of_room = False
        self._forgotten = 0

    def look_for_old(self) -> None:
        """Begin a pass, unless one is under way."""
        if self._cursor is None:
            self._cursor, self._short_of_room, self._forgotten = b"", False, 0

    def gather(self, _news: News, now: Instant) -> None:
        """Take the next step of a pass."""
        if self._cursor is not None and not self._held_back():
            self._forget_some(self._cursor, now)

    def next_deadline(self, now: Instant) -> float | None:
        """Return now, in monotonic seconds, where a pass has another step, else None."""
        waits = self._cursor is None or self._held_back()
        return None if waits else now.monotonic_seconds

    def _forget_some(self, cursor: bytes, now: Instant) -> None:
        self._cursor = None
        if not now.trusted:
            return  # nothing is decided by this clock (S19)
        age = 0.0 if self._short_of_room else self.settings.retention_seconds
        try:
            gone = self._db.forget(cursor, now.wall_us - int(age * SECOND_US))
            full = self._db.room().used_share > SOFT_LIMIT
        except StoreError as error:
            if error.fatal:
                raise
            log.warning("Cannot forget old actions: %s", error, extra={"event": "not-forgotten"})
            return
        self._remove_output(gone.runs)
        self._forgotten += gone.actions
        if gone.cursor and (full or not self._short_of_room):
            self._cursor = gone.cursor
        elif full and not self._short_of_room:
            self._cursor, self._short_of_room = b"", True
        elif self._forgotten:
            log.info("Forgot %d old actions", self._forgotten, extra={"event": "forgotten"})
