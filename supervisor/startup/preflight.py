"""Preflight checks of the host: the directories, commands, files and users of the settings.

They read the file system and the user database, and create nothing but the daemon's own
directories. The configuration file itself is checked by `config/settings.py`.
"""

import contextlib
import logging
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...ipc.backends import BACKENDS
from ...ipc.paths import ENDPOINT_PATH_BYTES_MAX, Runtime
from ...workers.host import trust
from ...workers.host.execution import UnusableConditionsError, credentials_of, reserved
from ...workers.host.linux import open_files_max
from ...workers.host.lookup import find_program
from ..config.descriptors import shortage
from ..config.sections import (
    BackendSettings,
    DaemonSettings,
    ScriptSettings,
    Settings,
    SettingsError,
)
from ..runs.run_order import DEFAULT_PATH, conditions_of

log = logging.getLogger(__name__)

#: Keys of `[backend]` that name files with secrets.
_SECRETS = ("token_file", "oauth_client_secret_file", "client_key")
_MODES = {"state_dir": 0o700, "runtime_dir": 0o750, "log_dir": 0o750}


def check(settings: Settings) -> list[str]:
    """Return the faults that would keep the daemon from its work, a line each; create nothing."""
    return [
        *_directory_problems(settings.daemon),
        *_socket_problems(settings.daemon),
        *_backend_problems(settings.backend),
        *_token_problems(settings),
        *_command_problems(settings),
        *_operator_problems(settings),
        *_descriptor_problems(),
        *_rights_problems(settings),
        *_cwd_problems(settings),
        *trust_problems(settings),
    ]


def warnings(settings: Settings) -> list[str]:
    """Return the faults that a daemon can start with, because they may be corrected later.

    Looks up no user: a name service may hang, and the start of the daemon with it (law 2).
    """
    exposed = _exposed_secrets(settings.backend)
    if not settings.scripts:
        return [*exposed, "scripts: none is configured, so every action fails with no-script"]
    return [*exposed, *_command_problems(settings), *_cwd_problems(settings)]


def trust_problems(settings: Settings) -> list[str]:
    """Return the files that a daemon as root must not trust, because others can write them."""
    if os.geteuid() != 0:
        return []
    found = [f"others can write it: {reason}"] if (reason := trust.why_not(settings.source)) else []
    for kind, script in settings.scripts.items():
        program = _found(script) or script.command[0]
        reason = trust.why_not(Path(program)) if "/" in program else ""
        found += [f"scripts.{kind}.command: others can write it: {reason}"] if reason else []
    return found


def refuse_untrusted(settings: Settings) -> None:
    """Raise `SettingsError` where others can write what a daemon as root would trust."""
    for problem in trust_problems(settings):
        raise SettingsError(f"cannot use {settings.source}: {problem}")


def _rights_problems(settings: Settings) -> Iterator[str]:
    """Yield the users that a script cannot become, and the limits that it cannot be given."""
    for kind, script in settings.scripts.items():
        wanted, who = conditions_of(script), None
        try:
            who = credentials_of(wanted)
        except UnusableConditionsError as error:
            yield f"scripts.{kind}.{error}"
        yield from (f"scripts.{kind}.{problem}" for problem in reserved(wanted, who))


def _cwd_problems(settings: Settings) -> Iterator[str]:
    for kind, script in settings.scripts.items():
        if not os.path.isdir(script.cwd):  # unlike Path, never raises
            yield f"scripts.{kind}.cwd: {script.cwd} is not a directory"


def prepare_directories(settings: Settings) -> None:
    """Create those of the daemon's directories that are missing, never their parents.

    Raises `SettingsError`, but not for `log_dir`: without it output is lost, never a run.
    """
    for problem in _socket_problems(settings.daemon):
        raise SettingsError(f"cannot use {settings.source}: {problem}")
    for key, mode in _MODES.items():
        directory: Path = getattr(settings.daemon, key)
        problem = _create(directory, mode) or _unusable(directory)
        if problem and key == "log_dir":
            log.warning(
                "Output of runs is lost: %s: %s", directory, problem, extra={"event": "no-log-dir"}
            )
        elif problem:
            raise SettingsError(f"cannot use {settings.source}: daemon.{key}: {problem}")


def _create(directory: Path, mode: int) -> str:
    """Create a directory; return the reason where that fails, else ""."""
    try:
        directory.mkdir()
        directory.chmod(mode)  # whatever the umask
    except FileExistsError:
        return ""
    except OSError as error:
        return f"cannot create {directory}: {error.strerror}"
    return ""


def _unusable(directory: Path) -> str:
    """Return the reason why nothing can be kept in an existing directory, or ""."""
    if not directory.is_dir():
        return f"{directory} is not a directory"
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return f"{directory} is not writable"
    return ""


def _directory_problems(daemon: DaemonSettings) -> Iterator[str]:
    for key in _MODES:
        directory: Path = getattr(daemon, key)
        present = os.path.lexists(directory)
        problem = _unusable(directory if present else directory.parent)
        if problem:
            yield (
                f"daemon.{key}: {problem}"
                if present
                else (f"daemon.{key}: cannot create {directory}: {problem}")
            )


def _socket_problems(daemon: DaemonSettings) -> Iterator[str]:
    runtime = Runtime(daemon.runtime_dir)
    sockets = (runtime.control_socket, runtime.worker_socket, runtime.sync_socket)
    longest = max(len(os.fsencode(path)) for path in sockets)
    if longest > ENDPOINT_PATH_BYTES_MAX:
        room = ENDPOINT_PATH_BYTES_MAX - (longest - len(os.fsencode(daemon.runtime_dir)))
        yield f"daemon.runtime_dir: longer than {room} bytes, so sockets cannot be bound in it"


def _backend_problems(backend: BackendSettings) -> Iterator[str]:
    for key, path in _given(backend, _SECRETS):
        if not (path.is_file() and _may(path, os.R_OK)):
            yield f"backend.{key}: cannot read {path}"
        elif key in _SECRETS and (mode := _mode(path)) & (stat.S_IWGRP | stat.S_IWOTH):
            yield f"backend.{key}: others than its owner can write {path} (mode {mode:04o})"
    from ...workers.host import tls_files  # only here: a daemon that works has no use for OpenSSL

    if problem := tls_files.why_not(backend.ca_file, backend.client_cert, backend.client_key):
        yield f"backend.{problem}"
    if BACKENDS[backend.kind].needs != "path":
        return
    parent = Path(backend.path).parent
    if not parent.is_dir():
        yield f"backend.path: {parent} is not a directory"
    elif backend.report and not _may(parent, os.W_OK | os.X_OK):
        yield f"backend.path: reports cannot be kept beside it: {parent} is not writable"


def _token_problems(settings: Settings) -> Iterator[str]:
    """Yield the faults of the file of tokens, which the daemon keeps, perhaps in a directory that
    it has yet to make."""
    if settings.backend.auth != "oauth":
        return
    tokens = Path(settings.backend.token_file)
    to_be_made = tokens.parent == settings.daemon.state_dir and not tokens.parent.exists()
    if not to_be_made and not _may(tokens.parent, os.W_OK | os.X_OK):
        yield f"backend.token_file: new tokens cannot be kept: {tokens.parent} is not writable"
    elif settings.backend.oauth_grant == "refresh_token" and not tokens.exists():
        yield f"backend.token_file: nobody has logged in yet: geosched-ctl login makes {tokens}"


def _exposed_secrets(backend: BackendSettings) -> Iterator[str]:
    for key, path in _given(backend, _SECRETS):
        with contextlib.suppress(OSError):  # cannot be read: the first pull says so
            if (mode := _mode(path)) & (stat.S_IRGRP | stat.S_IROTH):
                yield f"backend.{key}: others than its owner can read {path} (mode {mode:04o})"


def _given(backend: BackendSettings, keys: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Yield the keys and files that are given, without the file of tokens that the daemon keeps."""
    for key in keys:
        path: str = getattr(backend, key)
        if path and not (key == "token_file" and backend.auth == "oauth"):
            yield key, Path(path)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _command_problems(settings: Settings) -> Iterator[str]:
    for kind, script in settings.scripts.items():
        program = script.command[0]
        if _found(script) is None:
            reason = "is there, but not executable" if Path(program).is_file() else "is not there"
            yield f"scripts.{kind}.command: {program} {reason}"


def _found(script: ScriptSettings) -> str | None:
    """Return the program of a script, as its worker will look it up; None where there is none."""
    program = script.command[0]
    if os.path.dirname(program):
        usable = os.access(program, os.X_OK) and not os.path.isdir(program)
        return program if usable else None
    path = script.env.get("PATH", os.environ.get("PATH", DEFAULT_PATH))
    return find_program(program, {"PATH": path})


def _operator_problems(settings: Settings) -> Iterator[str]:
    for operator in settings.control.operators:
        try:
            known = operator.isdecimal() or bool(pwd.getpwnam(operator))
        except (KeyError, ValueError):
            known = False
        if not known:
            yield f"control.operators: there is no user {operator!r}"


def _descriptor_problems() -> Iterator[str]:
    if reason := shortage(open_files_max(hard=True)):
        yield reason


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=True)
