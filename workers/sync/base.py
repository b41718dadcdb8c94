"""Interface between the synchroniser and a kind of backend.

A backend carries out one exchange at a time, as a whole or not at all, and keeps nothing that
the next exchange depends on.
"""

from typing import Protocol

import msgspec

from ...ipc.actions import Action
from ...ipc.messages.sync import ErrorKind, NotModified, Pull, Send, SetAside, Taken


class ExchangeError(Exception):
    """An exchange failed, and nothing of it counts.

    `detail` is one sentence for people, without secrets. `retry_after_seconds` is 0 where the
    backend asked for no wait.
    """

    def __init__(self, kind: ErrorKind, detail: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds


class Snapshot(msgspec.Struct, frozen=True):
    """A whole and checked snapshot, without an id twice; other fields as in `Pulled`."""

    actions: tuple[Action, ...]
    etag: str = ""
    digest: str = ""
    set_aside: tuple[SetAside, ...] = ()
    set_aside_ids: tuple[str, ...] = ()
    set_aside_total: int = 0
    unreadable_ids: int = 0


class Backend(Protocol):
    """One kind of backend. `pull` and `send` raise `ExchangeError`.

    A class that inherits this has its methods checked, is made with what gives the files of a
    backend (`backend_files.FilesOf`), and is registered in `ipc/backends.py`.
    """

    def prepare(self) -> None:
        """Load what an exchange would load late, while this process may still read it: modules,
        and files that no setting names. Raises `OSError`."""

    def pull(self, pull: Pull) -> Snapshot | NotModified:
        """Return the whole snapshot, or `NotModified` if it has the given ETag or digest."""

    def send(self, send: Send) -> Taken:
        """Send reports and return their verdicts; a key that is not named stays pending."""
