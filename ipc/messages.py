"""Every message that passes between the daemon's own processes, as typed structs.

What `geosched-ctl` and the daemon say to each other is in `control.py`. How a message
travels is in `sockets.py`. Nothing here decides anything.

Each direction of each channel is one tagged union, so that a receiver's `match` is
complete and a stranger's message is refused by the decoder. `*_us` are wall-clock
microseconds since 1970 UTC, `*_seconds` are durations.
"""

import enum
from typing import TypeAlias

import msgspec

from .actions import Action


class Message(msgspec.Struct, frozen=True, tag_field="t", forbid_unknown_fields=True):
    """The base of all messages: immutable, told apart by their name in field `t`."""


# --- supervisor and zygote: one SEQPACKET socketpair -----------------------------------


class ForkWorker(Message, tag="fork-worker", frozen=True):
    """Fork a worker that connects to `endpoint` under the name `name`; before that it forks
    what will be its script, if it is to do so ahead."""

    name: str
    endpoint: str
    forks_ahead: bool = False


class ForkSynchroniser(Message, tag="fork-synchroniser", frozen=True):
    name: str
    endpoint: str


ToZygote: TypeAlias = ForkWorker | ForkSynchroniser


class Forked(Message, tag="forked", frozen=True):
    """The child is there. Its pidfd comes with this message (SCM_RIGHTS)."""

    name: str
    pid: int
    start_ticks: int


class ForkFailed(Message, tag="fork-failed", frozen=True):
    name: str
    detail: str


class ChildExited(Message, tag="child-exited", frozen=True):
    """`wait_status` is raw, as `os.waitpid` gives it."""

    name: str
    pid: int
    wait_status: int


class ZygoteReady(Message, tag="zygote-ready", frozen=True):
    pid: int


FromZygote: TypeAlias = ZygoteReady | Forked | ForkFailed | ChildExited


# --- supervisor and worker: ROUTER in the supervisor, DEALER in the worker --------------


class StopReason(enum.StrEnum):
    """Why a run is stopped (SPEC S13a). The last two settle nothing."""

    WINDOW_OVER = "window-over"
    WITHDRAWN = "withdrawn"
    OPERATOR = "operator"
    CHANGED = "changed"
    SHUTDOWN = "shutdown"  # the daemon is leaving (S16)
    ORPHANED = "orphaned"  # the daemon is gone: the worker's lifeline ended (S17)


class EndCause(enum.StrEnum):
    """What ended a run."""

    EXITED = "exited"  # of itself: exit code or a signal that we did not send
    STOPPED = "stopped"  # asked to, for `stop_reason`
    WATCHDOG = "watchdog"  # the script stopped sending WATCHDOG=1
    CANNOT_START = "cannot-start"
    NO_SCRIPT = "no-script"  # none is configured for the action's type
    WORKER_LOST = "worker-lost"  # its worker died; nobody saw how the script ended
    WORKER_SILENT = "worker-silent"  # its worker stopped beating and was killed


class RunResult(msgspec.Struct, frozen=True):
    """How a run ended: the record that is kept on disk, sent, and settled by (law 14).

    `exit_code` and `signal` are the script's own, as `waitid` told them; both None where
    no script ever started or nobody saw its end. `detail` is for people.
    """

    run_id: str
    cause: EndCause
    ended_us: int
    exit_code: int | None = None
    signal: int | None = None
    stop_reason: StopReason | None = None
    detail: str = ""
    script_pid: int | None = None
    status_text: str = ""
    output_lost_bytes: int = 0


class Conditions(msgspec.Struct, frozen=True, array_like=True):
    """As whom, where and within which limits a script runs.

    `user` and `group` are names or numbers, "" for the worker's own; a limit of 0 is left
    as it is, and so are `nice` and `oom_score_adj`.
    """

    user: str = ""
    group: str = ""
    cwd: str = "/"
    umask: int = 0o022
    nice: int = 0
    oom_score_adj: int = 0
    address_space_bytes: int = 0
    open_files: int = 0
    processes: int = 0
    file_size_bytes: int = 0
    cpu_seconds: int = 0


class Run(Message, tag="run", frozen=True):
    """Start this script. `environment` is complete, but for what `conditions.user` adds;
    `input` is what standard input holds. The script begins when the wall clock reads
    `not_before_us`, which is a moment ahead at most; its worker keeps still for
    `still_seconds` more, while others begin that share the instant."""

    run_id: str
    title: str
    command: tuple[str, ...]
    environment: dict[str, str]
    input: bytes
    stop_signal: int
    stop_grace_seconds: float
    watchdog_seconds: float
    heartbeat_seconds: float
    output_path: str
    output_bytes_max: int
    conditions: Conditions = Conditions()
    not_before_us: int = 0
    still_seconds: float = 0.0


class Stop(Message, tag="stop", frozen=True):
    """Stop the run: stop signal, grace, SIGKILL to the whole tree. The first reason stays."""

    run_id: str
    reason: StopReason


class Ack(Message, tag="ack", frozen=True):
    """The end is committed: forget the kept result and leave."""

    run_id: str


class Release(Message, tag="release", frozen=True):
    """Leave; there is no run for you. Ignored by a worker that has one."""


ToWorker: TypeAlias = Run | Stop | Ack | Release


class Ready(Message, tag="ready", frozen=True):
    pid: int


class Started(Message, tag="started", frozen=True):
    run_id: str
    script_pid: int
    at_us: int


class Heartbeat(Message, tag="heartbeat", frozen=True):
    """`ready` is whether the script has sent READY=1; `output_lost_bytes` what a failing
    log directory cost."""

    run_id: str
    rss_bytes: int = 0
    cpu_seconds: float = 0.0
    status_text: str = ""
    ready: bool = False
    output_lost_bytes: int = 0


class Ended(Message, tag="ended", frozen=True):
    """The script and all it left behind are gone. Repeated until acknowledged."""

    result: RunResult


FromWorker: TypeAlias = Ready | Started | Heartbeat | Ended


# --- supervisor and synchroniser: ROUTER in the supervisor, DEALER in the synchroniser --


class OAuthClient(msgspec.Struct, frozen=True):
    """As whom tokens are asked for, where, and by which grant (RFC 6749, RFC 8628).

    `grant` is the standard's own word: `refresh_token` or `client_credentials`. What is not
    configured is "".
    """

    grant: str
    token_url: str
    device_url: str
    client_id: str
    client_secret_file: str
    audience: str
    scope: str


class BackendAddress(msgspec.Struct, frozen=True):
    """Where the backend is, as whom it is asked, and what one exchange may cost.

    Paths are absolute. `token_file` holds a bearer token, or where `oauth` is given the
    tokens that were got by it. `ca_file` stands in for the usual authorities; `proxy` is a
    url. What is not configured is "". `clock_believed`: the dates of certificates can be
    compared with this host's clock.
    """

    kind: str
    url: str
    path: str
    token_file: str
    timeout_seconds: float
    body_bytes_max: int
    actions_max: int
    oauth: OAuthClient | None = None
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    proxy: str = ""
    clock_believed: bool = True


class Report(msgspec.Struct, frozen=True):
    """One status change as the backend is told of it. `key` makes repetition harmless."""

    key: str
    action_id: str
    status: str
    at_us: int
    attempt: int
    run_id: str | None
    exit_code: int | None
    signal: str | None
    reason: str


class Pull(Message, tag="pull", frozen=True):
    """Read the snapshot. `etag` and `digest` are those of the applied one, or ""."""

    exchange: int
    backend: BackendAddress
    now_us: int
    etag: str = ""
    digest: str = ""


class Send(Message, tag="send", frozen=True):
    """Tell the backend these reports, in this order."""

    exchange: int
    backend: BackendAddress
    reports: tuple[Report, ...]


class Leave(Message, tag="leave", frozen=True):
    """No further exchange is near: exit."""


ToSynchroniser: TypeAlias = Pull | Send | Leave


class ErrorKind(enum.StrEnum):
    """Why an exchange failed, by what helps."""

    UNREACHABLE = "unreachable"  # no answer, or half of one
    TIMEOUT = "timeout"  # no whole answer in time
    UNTRUSTED = "untrusted"  # the peer's certificate proves nothing to us
    UNAUTHORIZED = "unauthorized"  # what tells who we are is refused, or cannot be read
    REFUSED = "refused"  # a whole answer that says no
    BUSY = "busy"  # 429 or 503: come back later
    NO_REPORTS = "no-reports"  # the backend has nothing that takes reports
    BAD_ANSWER = "bad-answer"  # an answer that is not what was asked for
    TOO_LARGE = "too-large"  # over a limit of ours
    LOCAL = "local"  # a fault on this host: our file, our disk


class SetAside(msgspec.Struct, frozen=True):
    """An entry of a snapshot that cannot be used; `id` is None where it cannot be read."""

    id: str | None
    reason: str


class Connected(Message, tag="connected", frozen=True):
    pid: int


class NotModified(Message, tag="not-modified", frozen=True):
    exchange: int


class Page(Message, tag="page", frozen=True, gc=False):
    """A part of a snapshot that is whole and checked; pages come in order, then `Pulled`."""

    exchange: int
    actions: tuple[Action, ...]


class Pulled(Message, tag="pulled", frozen=True):
    """The snapshot is complete: `total` actions were in its pages.

    `set_aside` names at most 100 of the `set_aside_total` entries that were unusable;
    `set_aside_ids` names every one whose id could be read, and `unreadable_ids` counts
    the others.
    """

    exchange: int
    total: int
    etag: str
    digest: str
    set_aside: tuple[SetAside, ...] = ()
    set_aside_ids: tuple[str, ...] = ()
    set_aside_total: int = 0
    unreadable_ids: int = 0


class Taken(Message, tag="taken", frozen=True):
    """What became of each report: accepted, refused (key and error), or neither."""

    exchange: int
    accepted: tuple[str, ...]
    refused: tuple[tuple[str, str], ...] = ()


class ExchangeFailed(Message, tag="exchange-failed", frozen=True):
    """Nothing of the exchange counts. `retry_after_seconds` is 0 where nothing was said."""

    exchange: int
    kind: ErrorKind
    detail: str
    retry_after_seconds: float = 0.0


FromSynchroniser: TypeAlias = Connected | NotModified | Page | Pulled | Taken | ExchangeFailed
