"""Reconciliation of a snapshot with the records, one entry or one absence at a time (S3 to S8).

Each gets a verdict, which is counted; the rules are in `lifecycle.py`.
"""

import enum

from ...ipc.actions import Action
from .lifecycle import Rules, decide, first_seen
from .model import Absent, Change, Instant, Over, Record, Sent


class Verdict(enum.StrEnum):
    """The effect of a pull on one action."""

    ADDED = "added"
    UPDATED = "updated"
    WITHDRAWN = "withdrawn"
    UNCHANGED = "unchanged"
    IGNORED = "ignored"  # it is over, and the backend sent something else under its id (S6)


def reconcile_sent(
    record: Record | None, action: Action, now: Instant, rules: Rules
) -> tuple[Verdict, Change | None]:
    """Apply the snapshot's entry `action` to the record of the same id, if there is one."""
    if record is None:
        return Verdict.ADDED, first_seen(action, now, rules)
    if isinstance(record.state, Over):
        same = record.action == action
        return (Verdict.UNCHANGED if same else Verdict.IGNORED), None
    return _verdict(decide(record, Sent(action), now, rules))


def reconcile_absent(record: Record, now: Instant, rules: Rules) -> tuple[Verdict, Change | None]:
    """Apply the absence of this record's id from a whole snapshot (S8)."""
    return _verdict(decide(record, Absent(), now, rules))


def _verdict(change: Change | None) -> tuple[Verdict, Change | None]:
    if change is None:
        return Verdict.UNCHANGED, None
    if change.before is not None and change.before.wanted and not change.after.wanted:
        return Verdict.WITHDRAWN, change
    return Verdict.UPDATED, change
