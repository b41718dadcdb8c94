"""Requests of `geosched-ctl` and answers of the daemon (INTERFACE, "Commands").

Each request is in `Looking` or in `Acting`, which says who may make it. One answer ends it:
its own, or `Refused`. A request that takes time is answered by `Accepted` first, so that a
client can tell a daemon that is slow to finish from one that does not answer, and by
`Progress` where it asks for that. Views, which are printed as JSON, are in `views.py`.
"""

import enum
from typing import Annotated, TypeAlias

import msgspec

from .base import Message, Pid
from .views import (
    ActionView,
    DifferenceView,
    EventView,
    IncidentView,
    ReportView,
    RunView,
    StatusView,
    SyncView,
)

SCHEMA_VERSION = 1
#: Actions in one page of `list`.
LIST_PAGE_MAX = 200
#: Reports in one page of `outbox list`.
REPORTS_PAGE_MAX = 200
LOG_CHUNK_BYTES_MAX = 64 * 1024
RUNS_SHOWN_MAX = 20
#: The answer to `ReadEvents(wait=True)` comes at the latest after this time.
EVENTS_WAIT_SECONDS = 10.0


# --- requests --------------------------------------------------------------------------


class Ping(Message, tag="ping", frozen=True):
    pass


class GetStatus(Message, tag="status", frozen=True):
    pass


class ListActions(Message, tag="list", frozen=True):
    """Read one page of the actions, in no useful order: the client sorts all of them.

    `cursor` is "" at first, then the `cursor` of the page before.
    """

    statuses: tuple[str, ...] = ()
    cursor: str = ""


class ShowAction(Message, tag="show", frozen=True):
    id: str


class Sync(Message, tag="sync", frozen=True):
    """Pull and report now. With `progress`, `Progress` is sent now and then until it is done."""

    wait: bool = True
    progress: bool = False


class Compare(Message, tag="compare", frozen=True):
    """Pull, apply nothing, and compare with daemonDB."""


class ListDifferences(Message, tag="differences", frozen=True):
    """Read one page of comparison `number`; `cursor` is 0 at first, then that of the page
    before."""

    number: int
    cursor: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0


class StopAction(Message, tag="stop", frozen=True):
    id: str


class ReadLog(Message, tag="logs", frozen=True):
    """Read the output of a run from byte `offset` on; a negative one counts back from its end.

    `attempt` 0 is the newest run.
    """

    id: str
    attempt: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    offset: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] = 0


class ReadEvents(Message, tag="events", frozen=True):
    """Read the events after sequence number `after`. With `wait` the answer comes when there
    is one, or empty after `EVENTS_WAIT_SECONDS`."""

    after: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    wait: bool = False


class ListReports(Message, tag="outbox", frozen=True):
    """Read one page, oldest first, of the reports that are pending, or were set aside.

    `cursor` is 0 at first, then the `cursor` of the page before.
    """

    set_aside: bool = False
    cursor: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0


class FlushReports(Message, tag="outbox-flush", frozen=True):
    """Report now everything that is pending, what was set aside included."""


class DropReports(Message, tag="outbox-drop", frozen=True):
    """Forget reports that were set aside: those of `keys`, or all where it is empty."""

    keys: tuple[str, ...] = ()


class Shutdown(Message, tag="shutdown", frozen=True):
    pass


class AcknowledgeIncidents(Message, tag="acknowledge", frozen=True):
    """Forget the incidents of daemonDB: a person has seen them."""


#: Requests that anybody who reaches the socket may make.
Looking: TypeAlias = (
    Ping
    | GetStatus
    | ListActions
    | ShowAction
    | ReadLog
    | ReadEvents
    | ListReports
    | ListDifferences
)
#: Requests that need the right to act: root, the daemon's own user, the operators.
Acting: TypeAlias = (
    Sync | Compare | StopAction | FlushReports | DropReports | AcknowledgeIncidents | Shutdown
)
Request: TypeAlias = Looking | Acting


class Call(msgspec.Struct, frozen=True):
    """A request under a number that the client chooses; each reply to it has that number."""

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
    """The request is under way; `bound_seconds` is the time that it may take."""

    bound_seconds: float


class Progress(Message, tag="progress", frozen=True):
    """`settled` of `total` entries of the snapshot are applied; more replies follow."""

    settled: int
    total: int


class Pong(Message, tag="pong", frozen=True):
    pid: Pid
    version: str


class StatusIs(Message, tag="status-is", frozen=True):
    status: StatusView


class ActionsAre(Message, tag="actions-are", frozen=True):
    """`cursor` is "" on the last page; one before it may be empty, because the rows that are read
    for a page are bounded."""

    actions: tuple[ActionView, ...]
    cursor: str


class ActionIs(Message, tag="action-is", frozen=True):
    """`runs` are the newest, at most `RUNS_SHOWN_MAX`, newest first."""

    action: ActionView
    runs: tuple[RunView, ...]


class Synced(Message, tag="synced", frozen=True):
    """`error` is the reason for which the pull or the report failed, else None."""

    result: SyncView
    error: str | None = None


class ReportsAre(Message, tag="reports-are", frozen=True):
    """`cursor` is 0 on the last page."""

    reports: tuple[ReportView, ...]
    cursor: int


class Flushed(Message, tag="flushed", frozen=True):
    """`flushed` reports were put back; `reported` were taken since then, until `error`, if any,
    ended it."""

    flushed: int
    reported: int
    error: str | None = None


class Dropped(Message, tag="dropped", frozen=True):
    dropped: int


class Compared(Message, tag="compared", frozen=True):
    """`different` actions can be read by `number`; `error` is set where the pull failed.

    `set_aside` entries of the backend cannot be used, and were not compared.
    """

    number: int
    different: int
    set_aside: int
    error: str | None = None


class DifferencesAre(Message, tag="differences-are", frozen=True):
    """`cursor` is 0 on the last page."""

    differences: tuple[DifferenceView, ...]
    cursor: int


class Stopped(Message, tag="stopped", frozen=True):
    action: ActionView


class LogChunk(Message, tag="log-chunk", frozen=True):
    """`data` starts at byte `offset`; the next read starts at `offset + len(data)`.

    Output that was cut (beyond the run's `output_max`) is marked inside the data itself.
    `ended`: the run is over, and nothing follows `data`.
    """

    run_id: str
    attempt: int
    offset: int
    data: bytes
    ended: bool


class EventsAre(Message, tag="events-are", frozen=True):
    events: tuple[EventView, ...]


class ShuttingDown(Message, tag="shutting-down", frozen=True):
    """Sent when the orderly stop begins. The daemon ends within `bound_seconds`."""

    pid: Pid
    bound_seconds: float


class Acknowledged(Message, tag="acknowledged", frozen=True):
    incidents: tuple[IncidentView, ...]


Answer: TypeAlias = (
    Refused
    | Accepted
    | Progress
    | Pong
    | Compared
    | DifferencesAre
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
