"""Views: the JSON that `geosched-ctl` prints (INTERFACE, "Commands"), which only ever grows."""

from typing import Any

import msgspec


class View(msgspec.Struct, frozen=True, rename="camel"):
    """The base of all views; in JSON the names of fields are camelCase."""


class RunView(View, frozen=True):
    """A run. `started_at` is the instant of its commit, `begun_at` that of its script's first
    instruction, None before that and where nobody saw it. `rss_bytes` and `cpu_seconds` are
    those of the script's own process at the last heartbeat; None where they are not known, and
    when the run is over."""

    run_id: str
    attempt: int
    worker_pid: int | None = None
    script_pid: int | None = None
    started_at: str | None = None
    begun_at: str | None = None
    ended_at: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    reason: str | None = None
    detail: str = ""
    last_heartbeat_at: str | None = None
    status_text: str = ""
    rss_bytes: int | None = None
    cpu_seconds: float | None = None


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
    degraded: str | None = None  # the reason, while nothing can be written or started


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
    warnings: tuple[str, ...] = ()  # of its settings: who can read the token
    user: str | None = None  # whose rights the synchroniser has, where these are not the daemon's


class OutboxView(View, frozen=True):
    depth: int
    oldest_at: str | None = None
    dropped: int = 0  # beyond the bound of the outbox, since the store was made
    refused: int = 0  # set aside after refusals


class IncidentView(View, frozen=True):
    """Damage or loss of daemonDB. `set_aside` and `backup` are directories, or null."""

    at: str
    detail: str
    set_aside: str | None = None
    backup: str | None = None


#: State of a store that can be written.
STORE_OK = "ok"
#: State of a store whose files are not at their path any more, while they are still open.
STORE_REMOVED = "removed"
#: What `degraded` of the daemon then says of it.
STORE_REMOVED_WORDS = "its files were removed or replaced"
#: Between the reasons in `degraded`.
REASONS_JOINED_BY = "; "


class StoreView(View, frozen=True):
    """daemonDB. `state` is `ok`, or the reason why it cannot be written: `map-full`, `full`,
    `read-only`, or kept: `removed`. `preallocated`: all the disk that it can ever need is
    allocated."""

    state: str
    used_bytes: int
    map_bytes: int
    file_system: str
    preallocated: bool
    damaged_values: int = 0  # found since the daemon began
    last_backup_at: str | None = None
    backup_error: str | None = None
    incidents: tuple[IncidentView, ...] = ()  # not acknowledged yet, oldest first


class ClockView(View, frozen=True):
    trusted: bool
    detail: str = ""


class LimitsView(View, frozen=True):
    """Descriptors, and what they leave room for. `max_running` counts; `max_running_asked` is
    that of the configuration where no more fit, else None."""

    open_files: int = 0
    max_running: int = 0
    max_running_asked: int | None = None
    connections: int = 0  # of the control socket, at once
    connections_max: int = 0
    connections_refused: int = 0  # for what they sent, or for want of room


class OperatorsView(View, frozen=True):
    """Names of operators that count for nobody: those `pending` are not looked up yet, `unknown`
    ones are no user's."""

    pending: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


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
    lost_swaps: int = 0  # lost compare-and-swaps; normal, and rare
    bad_messages: int = 0
    limits: LimitsView = LimitsView()
    operators: OperatorsView = OperatorsView()
    immortal_heap: str = ""  # `on`, or `off` and the reason; "" before the zygote has said


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


class DifferenceView(View, frozen=True):
    """A field of an action that differs between the backend and daemonDB. Field `id` means an
    action that is missing in one of them, whose value is null."""

    id: str
    field: str
    backend: Any
    daemon: Any
    owner: str  # the one that is right: `backend` or `daemon`


class SyncView(View, frozen=True):
    added: int = 0
    updated: int = 0
    withdrawn: int = 0
    unchanged: int = 0
    quarantined: int = 0
    reported: int = 0
