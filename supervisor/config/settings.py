"""The settings: what the configuration file may say, and what holds where it says nothing.

`load` is the only reader of that file; it checks every key, type and range (SPEC S20) and
looks at nothing else. Whether the host has what the settings name is `preflight.py`'s.

A field's name says how its text is read: `..._seconds` is a duration, `..._bytes` a size,
and the key in the file is the name without the unit.
"""

import os
import re
import signal
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

from ...ipc import paths
from . import backend_checks, parsers

FILE_BYTES_MAX = 1024 * 1024
HEARTBEAT_SECONDS_MAX = 5.0
DIRECTORIES = ("state_dir", "runtime_dir", "log_dir")
#: What a daemon begins with and keeps until it ends.
UNTIL_RESTART = (*DIRECTORIES, "map_size_bytes", "clock_wait_seconds", "clock_must_sync")

_KIB, _MIB, _GIB = 1024, 1024**2, 1024**3
_HOUR, _DAY = 3600.0, 86_400.0


class SettingsError(Exception):
    """The operator's to mend: one line that names the file, the key and the reason."""


class _BadKeyError(ValueError):
    def __init__(self, key: str, reason: object) -> None:
        super().__init__(f"{key}: {reason}")


def _key(name: str) -> str:
    return name.removesuffix("_seconds").removesuffix("_bytes")


class _Section(msgspec.Struct, frozen=True, kw_only=True, rename=_key):
    """One table of the file."""


Section = TypeVar("Section", bound=_Section)


class DaemonSettings(_Section, frozen=True, kw_only=True):
    """Paths are absolute. `backup_interval_seconds` 0 is none."""

    state_dir: Path = Path(paths.DEFAULT_STATE_DIR)
    runtime_dir: Path = Path(paths.DEFAULT_RUNTIME_DIR)
    log_dir: Path = Path(paths.DEFAULT_LOG_DIR)
    max_running: Annotated[int, Meta(ge=1, le=10_000)] = 32
    clock_wait_seconds: Annotated[float, Meta(ge=0, le=7 * _DAY)] = 600.0
    clock_must_sync: bool = False
    arm_ahead_seconds: Annotated[float, Meta(ge=0, le=60)] = 2.0
    spare_workers: Annotated[int, Meta(ge=0, le=64)] = 1
    map_size_bytes: Annotated[int, Meta(ge=_MIB, le=64 * _GIB)] = 64 * _MIB
    retention_seconds: Annotated[float, Meta(ge=0, le=3650 * _DAY)] = 14 * _DAY
    backup_interval_seconds: Annotated[float, Meta(ge=0, le=365 * _DAY)] = _DAY


class BackendSettings(_Section, frozen=True, kw_only=True):
    """`url` has no slash at its end and is never "" but for file; there `path` is never None."""

    kind: Literal["http", "trpc", "file"] = "http"
    url: Annotated[str, Meta(max_length=2048)] = ""
    path: Path | None = None
    token_file: Path | None = None
    auth: Literal["token", "oauth"] = "token"
    oauth_grant: Literal["refresh_token", "client_credentials"] = "refresh_token"
    oauth_token_url: Annotated[str, Meta(max_length=2048)] = ""
    oauth_device_url: Annotated[str, Meta(max_length=2048)] = ""
    oauth_client_id: Annotated[str, Meta(max_length=512)] = ""
    oauth_client_secret_file: Path | None = None
    oauth_audience: Annotated[str, Meta(max_length=2048)] = ""
    oauth_scope: Annotated[str, Meta(max_length=2048)] = ""
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    proxy: Annotated[str, Meta(max_length=2048)] = ""
    poll_interval_seconds: Annotated[float, Meta(ge=0.2, le=_DAY)] = 60.0
    start_splay_seconds: Annotated[float, Meta(ge=0, le=_DAY)] = 0.0
    timeout_seconds: Annotated[float, Meta(ge=0.1, le=_HOUR)] = 30.0
    max_body_bytes: Annotated[int, Meta(ge=_KIB, le=_GIB)] = 8 * _MIB
    max_actions: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    report: bool = True


class LimitSettings(_Section, frozen=True, kw_only=True):
    """Of one process of a script, `processes` of its user; 0 leaves a limit as it is."""

    address_space_bytes: Annotated[int, Meta(ge=0, le=1024 * _GIB)] = 0
    open_files: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    processes: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    file_size_bytes: Annotated[int, Meta(ge=0, le=1024 * _GIB)] = 0
    cpu_seconds: Annotated[float, Meta(ge=0, le=7 * _DAY)] = 0.0


class ScriptSettings(_Section, frozen=True, kw_only=True):
    """How actions of one type are run. `watchdog_seconds` 0 is off, `max_restarts` 0 no limit."""

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
    user: Annotated[str, Meta(max_length=256)] = ""
    group: Annotated[str, Meta(max_length=256)] = ""
    cwd: Path = Path("/")
    umask: int = 0o022
    nice: Annotated[int, Meta(ge=-20, le=19)] = 0
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    limits: LimitSettings = LimitSettings()
    env: Annotated[dict[str, str], Meta(max_length=256)] = {}

    @property
    def heartbeat_seconds(self) -> float:
        """How often the worker beats: two may be lost before it counts as silent."""
        return min(HEARTBEAT_SECONDS_MAX, self.heartbeat_timeout_seconds / 3)


class ControlSettings(_Section, frozen=True, kw_only=True):
    """`operators`: names or numbers, as text, of the users that may sync, stop and shut
    down, besides root and the daemon's own. Whoever else reaches the socket may look."""

    operators: Annotated[tuple[str, ...], Meta(max_length=100)] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of one daemon. `scripts` is by action type, `source` the file."""

    daemon: DaemonSettings
    backend: BackendSettings
    scripts: Mapping[str, ScriptSettings]
    control: ControlSettings
    source: Path

    def without_restart(self, other: "Settings") -> "Settings":
        """These settings, but for what a daemon that began with the others has to keep."""
        kept = {name: getattr(other.daemon, name) for name in UNTIL_RESTART}
        return msgspec.structs.replace(self, daemon=msgspec.structs.replace(self.daemon, **kept))


def load(path: Path) -> Settings:
    """The settings that the file holds; relative paths in it are relative to its directory.

    Raises `SettingsError`.
    """
    source = path.absolute()
    try:
        return _settings(_document(source), source)
    except OSError as error:
        raise SettingsError(f"cannot read {source}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"cannot use {source}: {error}") from None
    except RecursionError:
        raise SettingsError(f"cannot use {source}: nested too deep") from None


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """The keys that differ and that a reload cannot change."""
    differs = [n for n in UNTIL_RESTART if getattr(old.daemon, n) != getattr(new.daemon, n)]
    return [f"daemon.{_key(name)}" for name in differs]


def _document(source: Path) -> dict[str, Any]:
    with source.open("rb") as file:
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"longer than {FILE_BYTES_MAX} bytes")
    return tomllib.loads(content.decode())


def _settings(document: dict[str, Any], source: Path) -> Settings:
    _refuse_unknown("", document, ("daemon", "backend", "scripts", "control"))
    base = source.parent
    return Settings(
        daemon=_daemon(document.get("daemon", {}), base),
        backend=_backend(document.get("backend", {}), base),
        scripts=_scripts(document.get("scripts", {}), base),
        control=_control(document.get("control", {}), base),
        source=source,
    )


# --- each table, and what one key alone cannot say --------------------------------------


def _daemon(table: object, base: Path) -> DaemonSettings:
    daemon = _section("daemon", table, DaemonSettings, base)
    taken: dict[str, str] = {}
    for key in DIRECTORIES:
        # Locks and files of one directory would be taken for another's.
        other = taken.setdefault(os.path.normpath(getattr(daemon, key)), key)
        if other != key:
            raise _BadKeyError(f"daemon.{key}", f"is the same directory as daemon.{other}")
    return daemon


def _backend(table: object, base: Path) -> BackendSettings:
    backend = _section("backend", table, BackendSettings, base)
    for key, reason in backend_checks.mistakes(backend):
        raise _BadKeyError(f"backend.{key}", reason)
    return msgspec.structs.replace(backend, url=backend.url.rstrip("/"))


def _scripts(tables: object, base: Path) -> dict[str, ScriptSettings]:
    return {kind: _script(kind, table, base) for kind, table in _table("scripts", tables).items()}


def _script(kind: str, table: object, base: Path) -> ScriptSettings:
    prefix = f"scripts.{_shown(kind)}"
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", kind):
        raise _BadKeyError(prefix, "a type is 1 to 64 of the characters A-Z a-z 0-9 _ . -")
    given = dict(_table(prefix, table))
    limits = _section(f"{prefix}.limits", given.pop("limits", {}), LimitSettings, base)
    _check_env(f"{prefix}.env", given.get("env"))
    for key in ("user", "group"):
        given |= {key: str(given[key])} if type(given.get(key)) is int else {}
    script = _section(prefix, given, ScriptSettings, base)
    script = msgspec.structs.replace(script, limits=limits)
    if limits.cpu_seconds % 1:
        raise _BadKeyError(f"{prefix}.limits.cpu", "expected whole seconds")
    _require(f"{prefix}.user", parsers.check_person, script.user)
    _require(f"{prefix}.group", parsers.check_person, script.group)
    _require(f"{prefix}.command", parsers.check_command, script.command)
    if 0 < script.watchdog_seconds < 0.1:
        raise _BadKeyError(f"{prefix}.watchdog", 'expected 0 or at least "100ms"')
    if script.restart_delay_max_seconds < script.restart_delay_seconds:
        raise _BadKeyError(f"{prefix}.restart_delay_max", "is shorter than restart_delay")
    program, *arguments = script.command
    if "/" in program:
        program = str(base / program)
    return msgspec.structs.replace(script, command=(program, *arguments))


def _check_env(prefix: str, table: object) -> None:
    """Each variable by its name, for `msgspec` names none; what is no table is its to say."""
    for name, value in table.items() if isinstance(table, dict) else ():
        _require(f"{prefix}.{_shown(name)}", partial(parsers.check_env, name), value)


def _control(table: object, base: Path) -> ControlSettings:
    """Numbers of users become text: nobody can be called like a number that is not theirs."""
    given = _table("control", table)
    operators = given.get("operators")
    if isinstance(operators, list):
        texts = [str(one) if type(one) is int else one for one in operators]
        given = given | {"operators": texts}
    return _section("control", given, ControlSettings, base)


# --- one table --------------------------------------------------------------------------


def _section(prefix: str, table: object, kind: type[Section], base: Path) -> Section:
    """The table as its struct. Raises `_BadKeyError`."""
    given = _table(prefix, table)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    _refuse_unknown(f"{prefix}.", given, tuple(fields))
    for name, field in fields.items():
        if field.required and name not in given:
            raise _BadKeyError(f"{prefix}.{name}", "is missing")
    read = {
        name: _require(f"{prefix}.{name}", _reader(fields[name]), value)
        for name, value in given.items()
    }
    try:
        return msgspec.convert(read, kind, dec_hook=_path_below(base))
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        reason = reason[0].lower() + reason[1:].replace("`float`", "seconds")
        raise _BadKeyError(f"{prefix}{place.rstrip('`')}", reason) from None


def _table(key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _BadKeyError(key, f"expected a table, got {value!r:.60}")
    return value


def _refuse_unknown(prefix: str, table: Mapping[str, object], known: tuple[str, ...]) -> None:
    for name in table:
        if name not in known:
            raise _BadKeyError(
                f"{prefix}{_shown(name)}", f"unknown key (known: {', '.join(known)})"
            )


def _shown(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_.-]+", name) else f"{name!r:.60}"


def _require(key: str, read: Callable[[Any], Any], value: object) -> Any:
    """What `read` makes of the value; its `ValueError` gets the key."""
    try:
        return read(value)
    except ValueError as error:
        raise _BadKeyError(key, error) from None


def _reader(field: msgspec.structs.FieldInfo) -> Callable[[Any], Any]:
    """What turns the file's value of a field into one that `msgspec` can check."""
    if field.name.endswith("_seconds"):
        return parsers.seconds
    if field.name.endswith("_bytes"):
        return parsers.size_bytes
    if field.name == "umask":
        return parsers.umask
    if field.name == "stop_signal":
        return parsers.stop_signal
    choices = get_args(field.type) if get_origin(field.type) is Literal else ()
    return lambda value: _chosen(value, choices)


def _chosen(value: object, choices: tuple[object, ...]) -> object:
    if choices and value not in choices:
        raise ValueError(f"expected one of {', '.join(map(str, choices))}, got {value!r:.60}")
    return value


def _path_below(base: Path) -> Callable[[type, object], Path]:
    def convert(_: type, value: object) -> Path:
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ValueError(f"expected a path, got {value!r:.60}")
        return base / value

    return convert
