"""Loader of the configuration file: every key, type and range is checked (SPEC S20).

It reads that file and nothing else; the host is checked by `startup/preflight.py`. What a
section may hold is in `sections.py`.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from ...ipc.backends import BACKENDS
from ...ipc.messages.base import AbsolutePath
from ...ipc.messages.runs import Limits
from ...ipc.regular_files import CONFIGURATION_BYTES_MAX, open_regular
from . import backend_checks, parsers
from .sections import (
    DIRECTORIES,
    UNTIL_RESTART,
    BackendSettings,
    BadKeyError,
    ControlSettings,
    DaemonSettings,
    ScriptSettings,
    Section,
    Settings,
    SettingsError,
    key_of,
)


def load(path: Path) -> Settings:
    """Return the settings in the file; relative paths in it are relative to its directory.

    Raises `SettingsError`.
    """
    return parse(read(path), path)


def read(path: Path) -> bytes:
    """Return the content of the file. Raises `SettingsError`."""
    source = path.absolute()
    try:
        with open_regular(source) as file:
            content = file.read(CONFIGURATION_BYTES_MAX + 1)
    except OSError as error:
        raise SettingsError(f"cannot read {source}: {error.strerror or error}") from None
    if len(content) > CONFIGURATION_BYTES_MAX:
        raise SettingsError(f"cannot use {source}: longer than {CONFIGURATION_BYTES_MAX} bytes")
    return content


def parse(content: bytes, path: Path) -> Settings:
    """Return the settings in the content of the file at `path`. Raises `SettingsError`."""
    source = path.absolute()
    try:
        # Editors write a byte order mark.
        return _settings(tomllib.loads(content.decode("utf-8-sig")), source)
    except ValueError as error:
        raise SettingsError(f"cannot use {source}: {error}") from None
    except RecursionError:
        raise SettingsError(f"cannot use {source}: nested too deep") from None


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """Return the keys that differ and that a reload cannot change."""
    differs = [n for n in UNTIL_RESTART if getattr(old.daemon, n) != getattr(new.daemon, n)]
    return [f"daemon.{key_of(name)}" for name in differs]


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


# --- each table, with the checks that need more than one key ----------------------------


def _daemon(table: object, base: Path) -> DaemonSettings:
    daemon = _section("daemon", table, DaemonSettings, base)
    _require("daemon.map_size", parsers.check_map_size, daemon.map_size_bytes)
    taken: dict[str, str] = {}
    for key in DIRECTORIES:
        # Locks and files of one directory would be taken for another's.
        other = taken.setdefault(os.path.normpath(getattr(daemon, key)), key)
        if other != key:
            raise BadKeyError(f"daemon.{key}", f"is the same directory as daemon.{other}")
    return daemon


def _backend(table: object, base: Path) -> BackendSettings:
    given = dict(_table("backend", table))
    given |= {"user": str(given["user"])} if type(given.get("user")) is int else {}
    backend = _section("backend", given, BackendSettings, base)
    for key, reason in backend_checks.mistakes(backend):
        raise BadKeyError(f"backend.{key}", reason)
    _require("backend.user", parsers.check_person, backend.user)
    return msgspec.structs.replace(backend, url=backend.url.rstrip("/"))


def _scripts(tables: object, base: Path) -> dict[str, ScriptSettings]:
    return {kind: _script(kind, table, base) for kind, table in _table("scripts", tables).items()}


def _script(kind: str, table: object, base: Path) -> ScriptSettings:
    prefix = f"scripts.{_shown(kind)}"
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", kind):
        raise BadKeyError(prefix, "a type is 1 to 64 of the characters A-Z a-z 0-9 _ . -")
    given = dict(_table(prefix, table))
    limits = _section(f"{prefix}.limits", given.pop("limits", {}), Limits, base)
    _check_env(f"{prefix}.env", given.get("env"))
    for key in ("user", "group"):
        given |= {key: str(given[key])} if type(given.get(key)) is int else {}
    script = _section(prefix, given, ScriptSettings, base)
    script = msgspec.structs.replace(script, limits=limits)
    if limits.cpu_seconds % 1:
        raise BadKeyError(f"{prefix}.limits.cpu", "expected whole seconds")
    _require(f"{prefix}.user", parsers.check_person, script.user)
    _require(f"{prefix}.group", parsers.check_person, script.group)
    _require(f"{prefix}.command", parsers.check_command, script.command)
    if 0 < script.watchdog_seconds < 0.1:
        raise BadKeyError(f"{prefix}.watchdog", 'expected 0 or at least "100ms"')
    if script.restart_delay_max_seconds < script.restart_delay_seconds:
        raise BadKeyError(f"{prefix}.restart_delay_max", "is shorter than restart_delay")
    program, *arguments = script.command
    if "/" in program:
        program = str(base / program)
    return msgspec.structs.replace(script, command=(program, *arguments))


def _check_env(prefix: str, table: object) -> None:
    """Check each variable, so that errors name it; `msgspec` refuses what is no table."""
    for name, value in table.items() if isinstance(table, dict) else ():
        _require(f"{prefix}.{_shown(name)}", partial(parsers.check_env, name), value)


def _control(table: object, base: Path) -> ControlSettings:
    """Read `[control]`; numbers of users become text, as no user's name is another's number."""
    given = _table("control", table)
    operators = given.get("operators")
    if isinstance(operators, list):
        texts = [str(one) if type(one) is int else one for one in operators]
        for text in texts:
            if isinstance(text, str):
                _require("control.operators", parsers.check_person, text)
        given = given | {"operators": texts}
    return _section("control", given, ControlSettings, base)


# --- one table --------------------------------------------------------------------------


def _section(prefix: str, table: object, kind: type[Section], base: Path) -> Section:
    """Return the table as its struct. Raises `BadKeyError`."""
    given = _table(prefix, table)
    fields = {key_of(field.name): field for field in msgspec.structs.fields(kind)}
    _refuse_unknown(f"{prefix}.", given, tuple(fields))
    for name, field in fields.items():
        if field.required and name not in given:
            raise BadKeyError(f"{prefix}.{name}", "is missing")
    read = {
        fields[name].name: _require(f"{prefix}.{name}", _reader(fields[name], base), value)
        for name, value in given.items()
    }
    try:
        return msgspec.convert(read, kind, dec_hook=lambda _, path: parsers.path_below(base, path))
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        reason = reason[0].lower() + reason[1:].replace("got `float`", "got a fraction")
        reason = reason.replace("`float`", "seconds")
        raise BadKeyError(f"{prefix}{key_of(place.rstrip('`'))}", reason) from None


def _table(key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadKeyError(key, f"expected a table, got {value!r:.60}")
    return value


def _refuse_unknown(prefix: str, table: Mapping[str, object], known: tuple[str, ...]) -> None:
    for name in table:
        if name not in known:
            raise BadKeyError(f"{prefix}{_shown(name)}", f"unknown key (known: {', '.join(known)})")


def _shown(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_.-]+", name) else f"{name!r:.60}"


def _require(key: str, read: Callable[[Any], Any], value: object) -> Any:
    """Return `read(value)`; its `ValueError` becomes a `BadKeyError`."""
    try:
        return read(value)
    except ValueError as error:
        raise BadKeyError(key, error) from None


def _reader(field: msgspec.structs.FieldInfo, base: Path) -> Callable[[Any], Any]:
    """Return the parser of a field, which gives `msgspec` a value that it can check."""
    if field.name.endswith("_seconds"):
        return parsers.seconds
    if field.name.endswith("_bytes"):
        return parsers.size_bytes
    if field.name == "umask":
        return parsers.umask
    if field.name == "stop_signal":
        return parsers.stop_signal
    if field.type == AbsolutePath:
        return lambda value: str(parsers.path_below(base, value))
    if field.name == "kind":
        return lambda value: _chosen(value, tuple(BACKENDS))
    choices = get_args(field.type) if get_origin(field.type) is Literal else ()
    return lambda value: _chosen(value, choices)


def _chosen(value: object, choices: tuple[object, ...]) -> object:
    if choices and value not in choices:
        raise ValueError(f"expected one of {', '.join(map(str, choices))}, got {value!r:.60}")
    return value
