"""The seam between the synchroniser and a kind of backend.

A backend carries out one exchange at a time and either answers it whole or raises
`ExchangeError`; it keeps nothing between two exchanges that the second depends on.
"""

from typing import Protocol

import msgspec

from ...ipc.actions import Action
from ...ipc.messages.sync import ErrorKind, NotModified, Pull, Send, SetAside, Taken


class ExchangeError(Exception):
    """An exchange failed, and nothing of it counts.

    `detail` is one sentence for people, without secrets. `retry_after_seconds` is 0 where
    the backend named no time.
    """

    def __init__(self, kind: ErrorKind, detail: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot that is whole and checked, no id twice. The rest as `Pulled` has it."""

    actions: tuple[Action, ...]
    etag: str = ""
    digest: str = ""
    set_aside: tuple[SetAside, ...] = ()
    set_aside_ids: tuple[str, ...] = ()
    set_aside_total: int = 0
    unreadable_ids: int = 0


class Backend(Protocol):
    """One kind of backend. Both methods raise `ExchangeError`."""

    def pull(self, pull: Pull) -> Snapshot | NotModified:
        """The whole snapshot, or that it is the one whose digest or ETag was given."""

    def send(self, send: Send) -> Taken:
        """What became of the reports; a key that is not named stays pending."""
