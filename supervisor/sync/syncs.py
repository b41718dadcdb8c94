"""What is known of exchanges with the backend, for `status` and for who asked for one."""

import msgspec

from ...ipc.messages.views import SyncView


class Progress(msgspec.Struct):
    """What the last pull and the reports came to, for `status` and `sync`."""

    last_pull_us: int | None = None
    last_success_us: int | None = None
    last_ok: bool | None = None
    last_error: str | None = None
    last_report_error: str | None = None
    quarantined: int = 0
    quarantine: tuple[str, ...] = ()
    ignored_terminal: int = 0


class SyncAsked(msgspec.Struct):
    """A `sync` under way: a pull, then reports until none is left or one fails."""

    counts: SyncView = msgspec.field(default_factory=SyncView)
    begun: bool = False  # a pull that began before it was asked for does not count
    pulled: bool = False
    error: str | None = None
    done: bool = False
