"""What `geosched-ctl` and the daemon say to each other: requests, replies, and the views
that are printed as JSON (INTERFACE, "Commands").

A request is answered by one reply that ends it: `Done…`, a view, or `Refused`. Verbs that
take time answer `Accepted` first, so that a client can tell a daemon that is slow to
finish from one that does not answer at all.
"""

import enum
from typing import Annotated, TypeAlias

import msgspec

from .messages import Message

SCHEMA_VERSION = 1
#: Actions in one page of `list`: with the longest ids and apps, a page fits its frame.
LIST_PAGE_MAX = 200
#: Reports in one page of `outbox list`.
REPORTS_PAGE_MAX = 200
LOG_CHUNK_BYTES_MAX = 64 * 1024
RUNS_SHOWN_MAX = 20
EVENTS_KEPT = 100


class View(msgspec.Struct, frozen=True, rename="camel"):
    """The base of everything that is printed as JSON; names as INTERFACE has them."""


class RunView(View, frozen=True):
    run_id: str
    attempt: int
    worker_pid: int | None = None
    script_pid: int | None = None
    started_at: str | None = None
    ended_at: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    reason: str | None = None
    detail: str = ""
    last_heartbeat_at: str | None = None
    status_text: str = ""


class ActionView(View, frozen=True):
    id: str
    from_date: str
    to_date: str
    should_be_executed: bool
    wanted: bool
    app_names: tuple[str, ...]
    type: str
    execution_status: str | None
    phase: str
    reason: str | None
    detail: str
    attempt: int
    run: RunView | None = None


class EventView(View, frozen=True):
    seq: int
    at: str
    id: str
    from_: str | None = msgspec.field(name="from")
    to: str | None
    reason: str | None
    run_id: str | None = None


class DaemonView(View, frozen=True):
    pid: int
    version: str
    started_at: str
    uptime_seconds: float
    shutting_down: bool = False
    degraded: str | None = None  # why daemonDB cannot be written, while it cannot


class BackendView(View, frozen=True):
    kind: str
    last_pull_at: str | None = None
    last_pull_ok: bool | None = None
    last_error: str | None = None
    last_success_at: str | None = None
    next_pull_in_seconds: float | None = None
    quarantined: int = 0
    quarantine: tuple[str, ...] = ()  # at most ten: "id: reason"
    ignored_terminal: int = 0  # ids used again after their end (SPEC S6)
    last_report_error: str | None = None


class OutboxView(View, frozen=True):
    depth: int
    oldest_at: str | None = None
    dropped: int = 0  # beyond the bound of the outbox, since the store was made
    refused: int = 0  # set aside after refusals


class IncidentView(View, frozen=True):
    """What happened to daemonDB. `set_aside` and `backup` are directories, or null."""

    at: str
    detail: str
    set_aside: str | None = None
    backup: str | None = None


class StoreView(View, frozen=True):
    """daemonDB. `state` is `ok`, or why it cannot be written: `map-full`, `full`,
    `read-only`. `preallocated`: it has all the disk it will ever need."""

    state: str
    used_bytes: int
    map_bytes: int
    file_system: str
    preallocated: bool
    damaged_values: int = 0  # that were found since the daemon began
    last_backup_at: str | None = None
    backup_error: str | None = None
    incidents: tuple[IncidentView, ...] = ()  # that nobody has acknowledged, oldest first


class ClockView(View, frozen=True):
    trusted: bool
    detail: str = ""


class StatusView(View, frozen=True):
    daemon: DaemonView
    counts: dict[str, int]
    running: int
    queued: int
    next_edge: str | None
    backend: BackendView
    outbox: OutboxView
    clock: ClockView
    containment: str
    store: StoreView
    stuck: int = 0
    output_lost_bytes: int = 0
    lost_swaps: int = 0  # compare-and-swap lost; normal, and rare
    bad_messages: int = 0


class ReportView(View, frozen=True):
    """A report that the backend has not taken; `set_aside` after too many refusals."""

    key: str
    id: str
    execution_status: str | None
    at: str
    attempt: int
    run_id: str | None
    exit_code: int | None
    signal: str | None
    reason: str | None
    refusals: int
    set_aside: bool


class SyncView(View, frozen=True):
    added: int = 0
    updated: int = 0
    withdrawn: int = 0
    unchanged: int = 0
    quarantined: int = 0
    reported: int = 0


# --- requests --------------------------------------------------------------------------


class Ping(Message, tag="ping", frozen=True):
    pass


class GetStatus(Message, tag="status", frozen=True):
    pass


class ListActions(Message, tag="list", frozen=True):
    """One page, in no order that means anything: the client sorts what it has gathered.

    `cursor` is "" at first, then the `cursor` of the page before.
    """

    statuses: tuple[str, ...] = ()
    cursor: str = ""


class ShowAction(Message, tag="show", frozen=True):
    id: str


class Sync(Message, tag="sync", frozen=True):
    wait: bool = True


class StopAction(Message, tag="stop", frozen=True):
    id: str


class ReadLog(Message, tag="logs", frozen=True):
    """Output of a run from byte `offset` on; a negative one counts back from its end.

    `attempt` 0 is the newest run.
    """

    id: str
    attempt: int = 0
    offset: int = 0


class ReadEvents(Message, tag="events", frozen=True):
    """Events after `after`; with `wait`, answered when there is one, or after 10 s empty."""

    after: int = 0
    wait: bool = False


class ListReports(Message, tag="outbox", frozen=True):
    """One page, oldest first, of what is pending, or of what was set aside.

    `cursor` is 0 at first, then the `cursor` of the page before.
    """

    set_aside: bool = False
    cursor: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0


class FlushReports(Message, tag="outbox-flush", frozen=True):
    """Try again to report what was set aside, and all else that is pending."""


class DropReports(Message, tag="outbox-drop", frozen=True):
    """Forget reports that were set aside: those of `keys`, or all where there is none."""

    keys: tuple[str, ...] = ()


class Shutdown(Message, tag="shutdown", frozen=True):
    pass


class AcknowledgeIncidents(Message, tag="acknowledge", frozen=True):
    """A person has seen what happened to daemonDB."""


Request: TypeAlias = (
    Ping
    | GetStatus
    | ListActions
    | ShowAction
    | Sync
    | StopAction
    | ReadLog
    | ReadEvents
    | Shutdown
    | AcknowledgeIncidents
    | ListReports
    | FlushReports
    | DropReports
)


class Call(msgspec.Struct, frozen=True):
    """A request under a number of the client's, which comes back with each reply to it."""

    number: int
    request: Request


# --- replies ---------------------------------------------------------------------------


class RefusalKind(enum.StrEnum):
    BAD_REQUEST = "bad-request"  # exit 2
    NOT_PERMITTED = "not-permitted"  # exit 4
    NO_SUCH_ACTION = "no-such-action"  # exit 5
    CONFLICT = "conflict"  # exit 6
    FAILED = "failed"  # exit 1


class Refused(Message, tag="refused", frozen=True):
    kind: RefusalKind
    detail: str


class Accepted(Message, tag="accepted", frozen=True):
    """Under way; `bound_seconds` is how long it may take by its own rules."""

    bound_seconds: float


class Pong(Message, tag="pong", frozen=True):
    pid: int
    version: str


class StatusIs(Message, tag="status-is", frozen=True):
    status: StatusView


class ActionsAre(Message, tag="actions-are", frozen=True):
    """`cursor` is "" on the last page."""

    actions: tuple[ActionView, ...]
    cursor: str


class ActionIs(Message, tag="action-is", frozen=True):
    """`runs` newest first, at most 20."""

    action: ActionView
    runs: tuple[RunView, ...]


class Synced(Message, tag="synced", frozen=True):
    """`error` is why the pull or the report failed, else None."""

    result: SyncView
    error: str | None = None


class ReportsAre(Message, tag="reports-are", frozen=True):
    """`cursor` is 0 on the last page."""

    reports: tuple[ReportView, ...]
    cursor: int


class Flushed(Message, tag="flushed", frozen=True):
    """`flushed` were put back; `reported` were taken since, until `error` ended it, if any."""

    flushed: int
    reported: int
    error: str | None = None


class Dropped(Message, tag="dropped", frozen=True):
    dropped: int


class Stopped(Message, tag="stopped", frozen=True):
    action: ActionView


class LogChunk(Message, tag="log-chunk", frozen=True):
    """`data` starts at `offset`; the next read starts at `offset + len(data)`.

    Output that was cut (beyond the run's `output_max`) is marked inside the data itself.
    `ended`: the run is over and nothing follows what has now been read.
    """

    run_id: str
    attempt: int
    offset: int
    data: bytes
    ended: bool


class EventsAre(Message, tag="events-are", frozen=True):
    events: tuple[EventView, ...]


class ShuttingDown(Message, tag="shutting-down", frozen=True):
    """Sent when the orderly stop begins; the daemon is gone when its socket is."""

    pid: int
    bound_seconds: float


class Acknowledged(Message, tag="acknowledged", frozen=True):
    incidents: tuple[IncidentView, ...]


Answer: TypeAlias = (
    Refused
    | Accepted
    | Pong
    | StatusIs
    | ActionsAre
    | ActionIs
    | Synced
    | Stopped
    | LogChunk
    | EventsAre
    | ShuttingDown
    | Acknowledged
    | ReportsAre
    | Flushed
    | Dropped
)


class Reply(msgspec.Struct, frozen=True):
    number: int
    answer: Answer
