"""Comparison of a fresh snapshot with daemonDB, without applying it, for `geosched-ctl diff`.

It is made in slices, as a snapshot is applied. The ids that differ are remembered; their fields
are compared page by page, with the records as they are at that time.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from ...ipc.actions import Action
from ...ipc.instants import format_instant
from ...ipc.messages.views import DifferenceView
from ..core.model import Over, Record
from ..core.turn import Turn
from .apply import ENTRIES_PER_TURN_MIN
from .packed_snapshot import PackedSnapshot, unpack, unpack_ids

#: Bounds of a page, in actions and in their JSON: with one action more it still fits a frame.
PAGE_ACTIONS_MAX = 100
PAGE_BYTES_MAX = 64 * 1024
#: A value whose JSON is longer is cut, and shown as text.
VALUE_BYTES_MAX = 4096
#: A comparison that is done is kept this long; its client reads it at once.
KEPT_SECONDS = 60.0

BACKEND, DAEMON = "backend", "daemon"
OpenPage: TypeAlias = Callable[[str], tuple[list[Record], str]]


class Comparison(msgspec.Struct):
    """One comparison: asked for, then `pulling`, then `looking`, then `done`.

    `number` identifies it. `different` has, by id, the snapshot's entry, or None where the
    snapshot lacks the action.
    """

    number: int
    pulling: bool = False
    error: str | None = None
    done_at_monotonic: float | None = None
    set_aside: int = 0
    different: dict[str, Action | None] = msgspec.field(default_factory=dict)
    _snapshot: PackedSnapshot | None = None
    _seen: set[str] = msgspec.field(default_factory=set)
    _cursor: str = ""

    @property
    def wanted(self) -> bool:
        """Its pull has yet to begin."""
        return not (self.pulling or self.looking or self.done)

    @property
    def looking(self) -> bool:
        """Its snapshot is here, and not yet looked through."""
        return self._snapshot is not None

    @property
    def done(self) -> bool:
        """It can be read, or has failed with `error`."""
        return self.done_at_monotonic is not None

    def failed(self, error: str, now_monotonic: float) -> None:
        """End it without a result."""
        self.pulling, self.error, self.done_at_monotonic = False, error, now_monotonic

    def pulled(self, snapshot: PackedSnapshot) -> None:
        """Begin to look through this snapshot."""
        self.pulling, self._snapshot = False, snapshot
        self.set_aside = snapshot.told.set_aside_total

    def slice(self, turn: Turn, open_page: OpenPage) -> None:
        """Look at the next entries: those of the snapshot first, then those that it lacks."""
        snapshot = self._snapshot
        assert snapshot is not None
        if snapshot.pages:
            self._look_at_sent(turn, snapshot)
        elif snapshot.set_aside_ids:
            self._seen.update(unpack_ids(snapshot.set_aside_ids.popleft()))
        else:
            records, self._cursor = open_page(self._cursor)
            # An entry whose id cannot be read could be any of them.
            known = snapshot.told.unreadable_ids == 0
            missing = [r.action.id for r in records if r.wanted and r.action.id not in self._seen]
            self.different.update(dict.fromkeys(missing) if known else {})
            if not self._cursor:
                self._snapshot, self.done_at_monotonic = None, turn.now.monotonic_seconds

    def _look_at_sent(self, turn: Turn, snapshot: PackedSnapshot) -> None:
        looked_at = 0
        while snapshot.pages and looked_at < ENTRIES_PER_TURN_MIN:
            page = unpack(snapshot.pages.popleft())
            looked_at += len(page)
            for action in page:
                self._seen.add(action.id)
                record = turn.record(action.id)
                if record is None or record.action != action:
                    self.different[action.id] = action

    def page(
        self, start: int, read: Callable[[str], Record | None]
    ) -> tuple[list[DifferenceView], int]:
        """Return the differences of the actions from the `start`-th on, and the next start.

        A next start of 0 is the end.
        """
        views: list[DifferenceView] = []
        size_bytes = 0
        following = start
        for action_id, sent in islice(self.different.items(), start, start + PAGE_ACTIONS_MAX):
            found = differences(action_id, sent, read(action_id))
            views += found
            following += 1
            size_bytes += sum(len(msgspec.json.encode(each)) for each in found)
            if size_bytes > PAGE_BYTES_MAX:
                break
        return views, following if following < len(self.different) else 0


def differences(action_id: str, sent: Action | None, record: Record | None) -> list[DifferenceView]:
    """Return the fields that differ, each with its owner, whose value counts.

    The owner is the backend, except of actions that are over (S6).
    """
    owner = DAEMON if record is not None and isinstance(record.state, Over) else BACKEND
    there = {"id": None} if sent is None else _fields(sent)
    here = {"id": None} if record is None else _fields(record.action)
    if sent is None or record is None:
        there, here = {"id": there["id"]}, {"id": here["id"]}
    return [
        DifferenceView(action_id, name, _short(there[name]), _short(here[name]), owner)
        for name in there
        if there[name] != here[name]
    ]


def _fields(action: Action) -> dict[str, Any]:
    return {
        "id": action.id,
        "fromDate": format_instant(action.from_us),
        "toDate": format_instant(action.to_us),
        "shouldBeExecuted": action.should_be_executed,
        "appNames": action.app_names,
        "type": action.type,
        "args": msgspec.json.decode(action.args) if action.args else None,
    }


def _short(value: Any) -> Any:
    text = msgspec.json.encode(value)
    if len(text) <= VALUE_BYTES_MAX:
        return value
    return f"{text[:VALUE_BYTES_MAX].decode(errors='ignore')}… ({len(text)} bytes)"
