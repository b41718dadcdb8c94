"""Outcomes of daemonDB's transactions, and what of the store is held in memory."""

from collections import Counter

import msgspec

from ...ipc.actions import ExecutionStatus
from .tables.history import Event
from .tables.meta import Meta


class Committed(msgspec.Struct, frozen=True):
    """The result of a commit: the changes that won their compare-and-swap, in order; their events;
    and the ids of runs that newer ones replaced in the history, whose output can be removed."""

    won: tuple[bool, ...]
    events: tuple[Event, ...]
    runs_forgotten: tuple[str, ...] = ()


class Forgotten(msgspec.Struct, frozen=True):
    """Number of actions removed, ids of their runs, and the next `start`, b"" at the end."""

    actions: int
    runs: tuple[str, ...]
    cursor: bytes


class Known(msgspec.Struct, frozen=True):
    """The part of the store held in memory; replaced when a transaction is committed."""

    meta: Meta
    counts: Counter[ExecutionStatus]
    last_sequence: int
