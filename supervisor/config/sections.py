"""The sections of the configuration file as structs, and the errors of reading it.

A field's name says how its text is read: `..._seconds` is a duration, `..._bytes` a size,
and the key in the file is the name without the unit (`key_of`). What `settings.py` loads is
one `Settings`.
"""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from ...ipc import paths
from ...ipc.messages.runs import Conditions
from ...ipc.messages.sync import ExchangeSettings

HEARTBEAT_SECONDS_MAX = 5.0
DIRECTORIES = ("state_dir", "runtime_dir", "log_dir")
#: Fields of `DaemonSettings` that a daemon keeps until it ends: a reload does not change them.
UNTIL_RESTART = (
    *DIRECTORIES,
    "map_size_bytes",
    "clock_wait_seconds",
    "clock_must_sync",
    "immortal_heap",
)

_KIB, _MIB, _GIB = 1024, 1024**2, 1024**3
_HOUR, _DAY = 3600.0, 86_400.0


class SettingsError(Exception):
    """A fault that the operator has to correct: one line that names file, key and reason."""


class BadKeyError(ValueError):
    """A key with a value that cannot be used; the file is not known here."""

    def __init__(self, key: str, reason: object) -> None:
        super().__init__(f"{key}: {reason}")


def key_of(name: str) -> str:
    """Return the key in the file of the field `name`: the name without its unit."""
    return name.removesuffix("_seconds").removesuffix("_bytes")


Section = TypeVar("Section", bound=msgspec.Struct)


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[daemon]`. Paths are absolute. `backup_interval_seconds` 0 is none."""

    state_dir: Path = Path(paths.DEFAULT_STATE_DIR)
    runtime_dir: Path = Path(paths.DEFAULT_RUNTIME_DIR)
    log_dir: Path = Path(paths.DEFAULT_LOG_DIR)
    max_running: Annotated[int, Meta(ge=1, le=10_000)] = 32
    clock_wait_seconds: Annotated[float, Meta(ge=0, le=7 * _DAY)] = 600.0
    clock_must_sync: bool = False
    arm_ahead_seconds: Annotated[float, Meta(ge=0, le=60)] = 2.0
    spare_workers: Annotated[int, Meta(ge=0, le=64)] = 1
    immortal_heap: bool = True
    map_size_bytes: Annotated[int, Meta(ge=_MIB, le=64 * _GIB)] = 64 * _MIB
    retention_seconds: Annotated[float, Meta(ge=0, le=3650 * _DAY)] = 14 * _DAY
    backup_interval_seconds: Annotated[float, Meta(ge=0, le=365 * _DAY)] = _DAY


class BackendSettings(ExchangeSettings, frozen=True, kw_only=True):
    """`[backend]`: the keys that the synchroniser reads are inherited, the others are the
    daemon's own."""

    poll_interval_seconds: Annotated[float, Meta(ge=0.2, le=_DAY)] = 60.0
    start_splay_seconds: Annotated[float, Meta(ge=0, le=_DAY)] = 0.0
    report: bool = True


class ScriptSettings(Conditions, frozen=True, kw_only=True, array_like=False):
    """`[scripts.<type>]`: how actions of one type are run.

    The keys that a process takes on before it becomes the script are inherited.
    `watchdog_seconds` 0 is off, `max_restarts` 0 no limit.
    """

    command: Annotated[tuple[str, ...], Meta(min_length=1, max_length=256)]
    stop_signal: int = signal.SIGTERM.value
    stop_grace_seconds: Annotated[float, Meta(ge=0, le=600)] = 10.0
    restart: Literal["never", "on-failure", "always"] = "never"
    restart_delay_seconds: Annotated[float, Meta(ge=0.1, le=_HOUR)] = 1.0
    restart_delay_max_seconds: Annotated[float, Meta(ge=0.1, le=_DAY)] = 300.0
    max_restarts: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    heartbeat_timeout_seconds: Annotated[float, Meta(ge=1, le=_HOUR)] = 15.0
    watchdog_seconds: Annotated[float, Meta(ge=0, le=_DAY)] = 0.0
    output_max_bytes: Annotated[int, Meta(ge=_KIB, le=_GIB)] = _MIB
    env: Annotated[dict[str, str], Meta(max_length=256)] = msgspec.field(default_factory=dict)

    @property
    def heartbeat_seconds(self) -> float:
        """Interval of the worker's heartbeats: two may be lost before it counts as silent."""
        return min(HEARTBEAT_SECONDS_MAX, self.heartbeat_timeout_seconds / 3)


class ControlSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[control]`. `operators` are names or numbers, as text, of the users that may sync, stop
    and shut down, besides root and the daemon's own; all others may only look."""

    operators: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...], Meta(max_length=100)
    ] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of one daemon. `scripts` is by action type, `source` the file.

    `max_running_asked` is that of the file, where no more fit than `daemon.max_running`.
    """

    daemon: DaemonSettings
    backend: BackendSettings
    scripts: Mapping[str, ScriptSettings]
    control: ControlSettings
    source: Path
    max_running_asked: int | None = None

    def without_restart(self, other: "Settings") -> "Settings":
        """Return these settings with the fields that a daemon that began with `other` keeps."""
        kept = {name: getattr(other.daemon, name) for name in UNTIL_RESTART}
        return msgspec.structs.replace(self, daemon=msgspec.structs.replace(self.daemon, **kept))
