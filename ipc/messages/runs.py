"""Messages between the supervisor (ROUTER) and a worker (DEALER) about one run and its result."""

import enum
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from ..instants import InstantUs
from .base import AbsolutePath, CInt, Count, Message, Pid

_GIB = 1024**3


class StopReason(enum.StrEnum):
    """A reason to stop a run (SPEC S13a). The last two settle nothing."""

    WINDOW_OVER = "window-over"
    WITHDRAWN = "withdrawn"
    OPERATOR = "operator"
    CHANGED = "changed"
    SHUTDOWN = "shutdown"  # the daemon is leaving (S16)
    ORPHANED = "orphaned"  # the daemon is gone: the worker's lifeline ended (S17)


class EndCause(enum.StrEnum):
    """The cause of a run's end."""

    EXITED = "exited"  # by itself: an exit code, or a signal that was not sent here
    STOPPED = "stopped"  # for `stop_reason`
    WATCHDOG = "watchdog"  # the script stopped sending WATCHDOG=1
    CANNOT_START = "cannot-start"
    NO_SCRIPT = "no-script"  # none is configured for the type of the action
    WORKER_LOST = "worker-lost"  # its worker died; nobody saw how the script ended
    WORKER_SILENT = "worker-silent"  # its worker sent no more heartbeats, and was killed


class RunResult(msgspec.Struct, frozen=True):
    """The result of a run: kept on disk, sent, and the basis on which the run is settled (law 14).

    `exit_code` and `signal` are the script's own, from `waitid`; both None where no script
    started or nobody saw its end. `begun_us` is the instant of the script's first instruction,
    restated where the wall clock was set back since; None where it has not executed any, or
    nobody saw it. `detail` is for people.
    """

    run_id: str
    cause: EndCause
    ended_us: InstantUs
    exit_code: CInt | None = None
    signal: CInt | None = None
    stop_reason: StopReason | None = None
    detail: str = ""
    script_pid: Pid | None = None
    status_text: str = ""
    output_lost_bytes: Count = 0
    begun_us: InstantUs | None = None


class Limits(msgspec.Struct, frozen=True):
    """Limits of one process of a script, `processes` of its user; 0 leaves one as it is.

    A field is a key of `[scripts.<type>.limits]`, with its range and default.
    """

    address_space_bytes: Annotated[int, Meta(ge=0, le=1024 * _GIB)] = 0
    open_files: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    processes: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    file_size_bytes: Annotated[int, Meta(ge=0, le=1024 * _GIB)] = 0
    cpu_seconds: Annotated[float, Meta(ge=0, le=7 * 86_400)] = 0.0


class Conditions(msgspec.Struct, frozen=True, array_like=True):
    """User, directory and limits of a script's process (`systemd.exec(5)`'s subject).

    A field is a key of `[scripts.<type>]`, with its range and default, and travels with every
    run; `ScriptSettings` adds the others. `user` and `group` are names or numbers, "" for the
    worker's own; 0 leaves `nice` and `oom_score_adj` as they are, but for a score below 0.
    `umask` is the bits themselves; `no_new_privs` is that of `prctl(2)`.
    """

    user: Annotated[str, Meta(max_length=256)] = ""
    group: Annotated[str, Meta(max_length=256)] = ""
    cwd: AbsolutePath = "/"
    umask: int = 0o022
    nice: Annotated[int, Meta(ge=-20, le=19)] = 0
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    limits: Limits = Limits()
    no_new_privs: bool = False


class Run(Message, tag="run", frozen=True):
    """Start this script. `environment` is complete, but for what `conditions.user` and the worker
    (`sd_notify(3)`) add; `input` is the content of standard input. The script begins when the
    wall clock reads `not_before_us`, which is a moment ahead at most; its worker keeps still for
    `still_seconds` after that, while other scripts begin that share the instant."""

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
    not_before_us: InstantUs = 0
    still_seconds: float = 0.0


class Stop(Message, tag="stop", frozen=True):
    """Stop the run: stop signal, grace, SIGKILL to the whole tree. The first reason stays, except
    one that is overtaken by a later one (S13a)."""

    run_id: str
    reason: StopReason


class Ack(Message, tag="ack", frozen=True):
    """The end is committed: forget the kept result and leave."""

    run_id: str


class Release(Message, tag="release", frozen=True):
    """Leave: there will be no run. Ignored by a worker that has one."""


ToWorker: TypeAlias = Run | Stop | Ack | Release


class Ready(Message, tag="ready", frozen=True):
    """The worker is connected and can be given a run."""


class Started(Message, tag="started", frozen=True):
    """The script executed its first instruction, at `at_us` by the wall clock."""

    run_id: str
    script_pid: Pid
    at_us: InstantUs


class Heartbeat(Message, tag="heartbeat", frozen=True):
    """The run goes on. `rss_bytes` and `cpu_seconds` are those of the script's own process, 0
    once it has ended; `status_text` is its last STATUS=; `output_lost_bytes` is the output
    that a failing log directory has cost."""

    run_id: str
    rss_bytes: Count = 0
    cpu_seconds: Annotated[float, Meta(ge=0)] = 0.0
    status_text: str = ""
    output_lost_bytes: Count = 0


class Ended(Message, tag="ended", frozen=True):
    """The run is over: its whole tree is gone. Repeated until acknowledged."""

    result: RunResult


FromWorker: TypeAlias = Ready | Started | Heartbeat | Ended
