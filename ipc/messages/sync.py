"""Messages between the supervisor and a synchroniser, over a channel of its own: pulls, reports.

What a synchroniser says has bounds in every field: it reads the network, and may have been
taken over. What else an honest one never says is looked for in `supervisor/sync/exchange.py`.
"""

import enum
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from ..actions import Action, ActionId
from ..instants import SECOND_US, InstantUs
from .base import AbsolutePath, CInt, Count, Message

#: Bounds of what a backend asks for by `Retry-After` (fact B8): a wrong header must silence a
#: device neither for ever nor not at all.
RETRY_AFTER_SECONDS_MIN = 1.0
RETRY_AFTER_SECONDS_MAX = 3600.0

#: Bounds of a page, which is applied in a slice of one turn of the supervisor's loop.
PAGE_ACTIONS_MAX = 100
PAGE_BYTES_MAX = 128 * 1024
PAGE_IDS_MAX = 1000
#: What MessagePack adds to the actions of a page.
PAGE_HEAD_BYTES_MAX = 16
#: All actions and ids of a snapshot as they travel, for each byte of its body: most take less than
#: in JSON, but a number in `args` may take four times as much.
BYTES_OF_A_BODY_BYTE_MAX = 4
#: An entry whose window ended this long ago does not count towards `max_actions`.
LONG_OVER_US = 24 * 60 * 60 * SECOND_US
#: Entries set aside that are named with their reason.
SET_ASIDE_MAX = 100
REASON_CHARS_MAX = 500
DETAIL_CHARS_MAX = 4096
#: ETags that are kept and sent back: an opaque word, that a header can carry. "" is none.
ETAG = r"^[\x21-\x7e]{0,256}\Z"
DIGEST = r"^([0-9a-f]{32})?\Z"
REPORTS_PER_EXCHANGE_MAX = 100
REPORT_KEY_CHARS_MAX = 64
#: Of the error of a report.
ERROR_CHARS_MAX = 200

_KIB, _MIB, _GIB = 1024, 1024**2, 1024**3


class ExchangeSettings(msgspec.Struct, frozen=True):
    """The settings of `[backend]` that the synchroniser reads; `BackendSettings` adds the others.

    A field here is a key of the configuration file, with its range and default, and travels
    with every exchange. Text that is not configured is "". `url` has no slash at its end.
    `token_file` holds a bearer token, or with `auth = "oauth"` the tokens that were granted
    (RFC 6749, RFC 8628; `oauth_grant` is the standard's own word). `ca_file` replaces the
    default authorities. `user` is whose rights a synchroniser has under root (DESIGN 6).
    """

    kind: str = "http"
    url: Annotated[str, Meta(max_length=2048)] = ""
    path: AbsolutePath = ""
    token_file: AbsolutePath = ""
    auth: Literal["token", "oauth"] = "token"
    oauth_grant: Literal["refresh_token", "client_credentials"] = "refresh_token"
    oauth_token_url: Annotated[str, Meta(max_length=2048)] = ""
    oauth_device_url: Annotated[str, Meta(max_length=2048)] = ""
    oauth_client_id: Annotated[str, Meta(max_length=512)] = ""
    oauth_client_secret_file: AbsolutePath = ""
    oauth_audience: Annotated[str, Meta(max_length=2048)] = ""
    oauth_scope: Annotated[str, Meta(max_length=2048)] = ""
    ca_file: AbsolutePath = ""
    client_cert: AbsolutePath = ""
    client_key: AbsolutePath = ""
    proxy: Annotated[str, Meta(max_length=2048)] = ""
    user: Annotated[str, Meta(max_length=256)] = ""
    timeout_seconds: Annotated[float, Meta(ge=0.1, le=3600)] = 30.0
    max_body_bytes: Annotated[int, Meta(ge=_KIB, le=_GIB)] = 8 * _MIB
    max_actions: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000


class BackendAddress(ExchangeSettings, frozen=True):
    """The backend of one exchange: its place, our identity there, the bounds of the exchange.

    With `clock_believed` the dates of certificates can be compared with this host's clock.
    """

    clock_believed: bool = True


class Report(msgspec.Struct, frozen=True):
    """The report of one status change. `key` makes repetition harmless."""

    key: str
    action_id: str
    status: str
    at_us: InstantUs
    attempt: Count
    run_id: str | None
    exit_code: CInt | None
    signal: str | None
    reason: str


class Pull(Message, tag="pull", frozen=True):
    """Order to read the snapshot. `etag` and `digest` are those of the applied one, or ""."""

    exchange: int
    backend: BackendAddress
    now_us: InstantUs
    etag: str = ""
    digest: str = ""


class Send(Message, tag="send", frozen=True):
    """Order to send these reports to the backend, in this order."""

    exchange: int
    backend: BackendAddress
    reports: tuple[Report, ...]


ToSynchroniser: TypeAlias = Pull | Send


class ErrorKind(enum.StrEnum):
    """Kinds of a failed exchange, by the remedy."""

    UNREACHABLE = "unreachable"  # no response, or half of one
    TIMEOUT = "timeout"  # no whole response in time
    UNTRUSTED = "untrusted"  # the peer's certificate cannot be verified
    UNAUTHORIZED = "unauthorized"  # our credentials are refused, or cannot be read
    REFUSED = "refused"  # a whole response with an error
    BUSY = "busy"  # 429 or 503: come back later
    NO_REPORTS = "no-reports"  # the backend cannot take reports
    BAD_ANSWER = "bad-answer"  # a response that is not what was asked for
    TOO_LARGE = "too-large"  # over a limit of ours
    LOCAL = "local"  # a fault on this host: our file, our disk


class SetAside(msgspec.Struct, frozen=True):
    """An unusable entry of a snapshot; `id` is None where it cannot be read."""

    id: ActionId | None
    reason: Annotated[str, Meta(max_length=REASON_CHARS_MAX)]


class Connected(Message, tag="connected", frozen=True):
    """The synchroniser takes orders."""


class NotModified(Message, tag="not-modified", frozen=True):
    """The backend still has the applied snapshot."""

    exchange: Count


class Page(Message, tag="page", frozen=True, gc=False):
    """A part of a whole and checked snapshot, and of the ids of what was set aside; pages come in
    order, none is empty, then `Pulled`."""

    exchange: Count
    actions: Annotated[tuple[Action, ...], Meta(max_length=PAGE_ACTIONS_MAX)] = ()
    set_aside_ids: Annotated[tuple[ActionId, ...], Meta(max_length=PAGE_IDS_MAX)] = ()


class Pulled(Message, tag="pulled", frozen=True):
    """End of a snapshot, whose pages had `total` actions.

    `set_aside` names at most 100 of the `set_aside_total` entries that were unusable; the pages
    had the ids of every one whose id could be read, and `unreadable_ids` counts the others.
    """

    exchange: Count
    total: Count
    etag: Annotated[str, Meta(pattern=ETAG)]
    digest: Annotated[str, Meta(pattern=DIGEST)]
    set_aside: Annotated[tuple[SetAside, ...], Meta(max_length=SET_ASIDE_MAX)] = ()
    set_aside_total: Count = 0
    unreadable_ids: Count = 0


_Key: TypeAlias = Annotated[str, Meta(max_length=REPORT_KEY_CHARS_MAX)]
_Error: TypeAlias = Annotated[str, Meta(max_length=ERROR_CHARS_MAX)]


class Taken(Message, tag="taken", frozen=True):
    """Verdicts on reports: accepted keys, refused ones with their error; others stay pending."""

    exchange: Count
    accepted: Annotated[tuple[_Key, ...], Meta(max_length=REPORTS_PER_EXCHANGE_MAX)]
    refused: Annotated[
        tuple[tuple[_Key, _Error], ...], Meta(max_length=REPORTS_PER_EXCHANGE_MAX)
    ] = ()


class ExchangeFailed(Message, tag="exchange-failed", frozen=True):
    """Nothing of the exchange counts. `retry_after_seconds` is 0 where no wait was asked for."""

    exchange: Count
    kind: ErrorKind
    detail: Annotated[str, Meta(max_length=DETAIL_CHARS_MAX)]
    retry_after_seconds: Annotated[float, Meta(ge=0, le=RETRY_AFTER_SECONDS_MAX)] = 0.0


FromSynchroniser: TypeAlias = Connected | NotModified | Page | Pulled | Taken | ExchangeFailed
