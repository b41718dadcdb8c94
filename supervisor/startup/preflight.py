"""Preflight checks of the host: the directories, commands, files and users of the settings.

They read the file system and the user database, and create nothing. The configuration file itself
is checked by `config/settings.py`, the daemon's own directories by `directories.py`.
"""

import contextlib
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...ipc.backends import BACKENDS
from ...ipc.paths import status_journal
from ...workers.host import programs, trust
from ...workers.host.execution import (
    Credentials,
    UnusableConditionsError,
    credentials_of,
    foreign,
    reserved,
)
from ...workers.host.files import open_regular
from ...workers.host.linux import open_files_max
from ...workers.host.lookup import find_program
from ...workers.host.programs import Surroundings
from ..config.backend_checks import exposures
from ..config.descriptors import shortage
from ..config.sections import (
    BackendSettings,
    DaemonSettings,
    ScriptSettings,
    Settings,
    SettingsError,
)
from ..runs.run_order import DEFAULT_PATH, conditions_of
from . import directories, kernel, storage_probe, sync_user

#: Keys of `[backend]` that name files with secrets.
_SECRETS = ("token_file", "oauth_client_secret_file", "client_key")


def check(settings: Settings) -> list[str]:
    """Return the faults that would keep the daemon from its work, a line each; create nothing."""
    if problems := [*_kernel_problems()]:
        return problems  # the checks below need it, too
    return [
        *directories.problems(settings.daemon),
        *directories.socket_problems(settings.daemon),
        *_map_problems(settings.daemon),
        *_backend_problems(settings.backend),
        *_token_problems(settings),
        *sync_user.problems(settings.backend.user),
        *_command_problems(settings, users=True),
        *_operator_problems(settings),
        *_descriptor_problems(),
        *_rights_problems(settings),
        *_cwd_problems(settings, users=True),
        *_watchdog_problems(settings),
        *trust_problems(settings),
    ]


def warnings(settings: Settings) -> list[str]:
    """Return the faults that a daemon can start with, because they may be corrected later.

    Looks up no user: a name service may hang, and the start of the daemon with it (law 2).
    """
    return [*remarks(settings), *_command_problems(settings), *_cwd_problems(settings)]


def remarks(settings: Settings) -> Iterator[str]:
    """Yield what is no fault, and that an operator may not have meant."""
    yield from _exposed_secrets(settings.backend)
    for key, reason in exposures(settings.backend):
        yield f"backend.{key}: {reason}"
    yield from sync_user.remarks(settings.backend.user)
    if not settings.scripts:
        yield "scripts: none is configured, so every action fails with no-script"


def require_kernel() -> None:
    """Raise `SettingsError` where the kernel refuses what no daemon can do without."""
    for problem in _kernel_problems():
        raise SettingsError(f"cannot work on this host: {problem}")


def _kernel_problems() -> Iterator[str]:
    if reason := kernel.why_not():
        yield reason


def require_address_space(settings: Settings) -> None:
    """Raise `SettingsError` where this process cannot map the store."""
    for problem in _map_problems(settings.daemon):
        raise SettingsError(f"cannot use {settings.source}: {problem}")


def _map_problems(daemon: DaemonSettings) -> Iterator[str]:
    if reason := storage_probe.no_address_space(daemon.map_size_bytes):
        yield f"daemon.map_size: {reason}"


def trust_problems(settings: Settings, *, of_backend: bool = True) -> list[str]:
    """Return the files that a daemon as root must not trust, because others can write them;
    `of_backend`: those of `[backend]`, too."""
    if os.geteuid() != 0:
        return []
    found = [f"others can write it: {reason}"] if (reason := trust.why_not(settings.source)) else []
    for kind, script in settings.scripts.items():
        program = _found(script) or script.command[0]
        reason = trust.why_not(Path(program)) if "/" in program else ""
        found += [f"scripts.{kind}.command: others can write it: {reason}"] if reason else []
    return [*found, *(_untrusted_files(settings) if of_backend else ())]


def _untrusted_files(settings: Settings) -> Iterator[str]:
    """Yield the files of `[backend]` by which others could choose whom the daemon believes, and as
    whom it acts. Those in a `state_dir` of others are told of with that."""
    state_dir = settings.daemon.state_dir
    for key in (*_SECRETS, "ca_file", "client_cert"):
        given: str = getattr(settings.backend, key)
        path = Path(given)
        reason = trust.why_not(path, to_be_made=True) if given else ""
        inside = reason and path.is_relative_to(state_dir)
        if reason and not (inside and trust.why_not(state_dir, to_be_made=True)):
            yield f"backend.{key}: others can write it: {reason}"


def refuse_untrusted(settings: Settings, *, of_backend: bool = True) -> None:
    """Raise `SettingsError` where others can write what a daemon as root would trust. Arguments
    as for `trust_problems`."""
    for problem in trust_problems(settings, of_backend=of_backend):
        raise SettingsError(f"cannot use {settings.source}: {problem}")


def refuse_foreign_users(settings: Settings) -> None:
    """Raise `SettingsError` where a script is to run as somebody else and this process is not
    root: where that has capabilities it could be done, and would give them to the script."""
    if os.geteuid() == 0:
        return
    for kind, script in settings.scripts.items():
        for problem in foreign(_who(script)):
            raise SettingsError(f"cannot use {settings.source}: scripts.{kind}.{problem}")


def _rights_problems(settings: Settings) -> Iterator[str]:
    """Yield the users that a script cannot become, and the limits that it cannot be given."""
    for kind, script in settings.scripts.items():
        wanted, who = conditions_of(script), None
        try:
            who = credentials_of(wanted)
        except UnusableConditionsError as error:
            yield f"scripts.{kind}.{error}"
        yield from (f"scripts.{kind}.{problem}" for problem in reserved(wanted, who))


def _watchdog_problems(settings: Settings) -> Iterator[str]:
    """Yield the scripts that cannot be watched, because their user does not reach `runtime_dir`.
    That itself lets them through, once it is the daemon's."""
    above = os.fspath(settings.daemon.runtime_dir.parent)
    for kind, script in settings.scripts.items():
        if script.watchdog_seconds and not programs.may_search(above, _who(script)):
            yield f"scripts.{kind}.watchdog: its user cannot enter {above} to notify"


def _cwd_problems(settings: Settings, *, users: bool = False) -> Iterator[str]:
    for kind, script in settings.scripts.items():
        if not os.path.isdir(script.cwd):  # unlike Path, never raises
            yield f"scripts.{kind}.cwd: {script.cwd} is not a directory"
        elif not programs.may_search(script.cwd, _who(script) if users else None):
            yield f"scripts.{kind}.cwd: {script.cwd} cannot be entered by its user"


def _backend_problems(backend: BackendSettings) -> Iterator[str]:
    for key, path in _given(backend, _SECRETS):
        if not (os.path.isfile(path) and _may(path, os.R_OK)):  # unlike Path, never raises
            yield f"backend.{key}: cannot read {path}"
        elif key in _SECRETS and (mode := _mode(path)) & (stat.S_IWGRP | stat.S_IWOTH):
            yield f"backend.{key}: others than its owner can write {path} (mode {mode:04o})"
    from ...workers.host import tls_files  # only here: a daemon that works has no use for OpenSSL

    if problem := tls_files.why_not(backend.ca_file, backend.client_cert, backend.client_key):
        yield f"backend.{problem}"
    if BACKENDS[backend.kind].needs != "path":
        return
    parent = Path(backend.path).parent
    if not os.path.isdir(parent):
        yield f"backend.path: {parent} is not a directory"
        return
    if reason := _unreadable(Path(backend.path)):
        yield f"backend.path: {reason}"
    if backend.report:
        yield from _journal_problems(status_journal(backend.path))


def _journal_problems(journal: Path) -> Iterator[str]:
    """Yield why reports cannot be appended to the file beside that of the actions."""
    told = "backend.path: reports cannot be kept"
    if os.geteuid() == trust.ROOT and (reason := trust.why_not(journal, to_be_made=True)):
        yield f"{told} in {journal}: others can write it: {reason}"
        return
    try:
        found = journal.stat().st_mode
    except FileNotFoundError:
        if not _may(journal.parent, os.W_OK | os.X_OK):
            yield f"{told} beside it: {journal.parent} is not writable"
        elif reason := storage_probe.why_not(journal.parent, "log_dir"):
            yield f"{told} beside it: {reason}"
        return
    except OSError as error:
        yield f"{told} in {journal}: {error.strerror}"
        return
    if not stat.S_ISREG(found):
        yield f"{told} in {journal}: it is not a regular file"
    elif not _may(journal, os.W_OK):
        yield f"{told} in {journal}: it is not writable"


def _unreadable(path: Path) -> str:
    """Return the reason why a file that is there cannot be read; "" also where none is there:
    it may come later, as by a rename."""
    try:
        open_regular(path).close()
    except FileNotFoundError:
        return f"{path} is a link to nothing" if path.is_symlink() else ""
    except OSError as error:
        return f"cannot read {path}: {error.strerror or error}"
    return ""


def _token_problems(settings: Settings) -> Iterator[str]:
    """Yield the faults of the file of tokens, which the daemon keeps, perhaps in a directory that
    it has yet to make."""
    if settings.backend.auth != "oauth":
        return
    tokens = Path(settings.backend.token_file)
    to_be_made = tokens.parent == settings.daemon.state_dir and not os.path.exists(tokens.parent)
    if not to_be_made and not _may(tokens.parent, os.W_OK | os.X_OK):
        yield f"backend.token_file: new tokens cannot be kept: {tokens.parent} is not writable"
    elif missing := login_missing(settings.backend):
        yield missing
    elif reason := _unreadable(tokens):
        yield f"backend.token_file: {reason}"


def login_missing(backend: BackendSettings) -> str:
    """Return the fault that a person has yet to log in; "" for none."""
    tokens = backend.token_file
    person = backend.auth == "oauth" and backend.oauth_grant == "refresh_token"
    if not person or os.path.exists(tokens):
        return ""
    return f"backend.token_file: nobody has logged in yet: geosched-ctl login makes {tokens}"


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


def _command_problems(settings: Settings, *, users: bool = False) -> Iterator[str]:
    """Yield what an execution of each program would fail of; with `users`, for the user that the
    script is to run as, who has to be looked up."""
    for kind, script in settings.scripts.items():
        program, found = script.command[0], _found(script)
        if found is None:
            yield f"scripts.{kind}.command: {program} is not there"
            continue
        within = Surroundings(script.cwd, {"PATH": _path(script)}, _who(script) if users else None)
        if reason := programs.why_not(found, within):
            yield f"scripts.{kind}.command: {program} cannot be executed: {reason}"


def _who(script: ScriptSettings) -> Credentials | None:
    try:
        return credentials_of(conditions_of(script))
    except UnusableConditionsError:
        return None  # `_rights_problems` says so


def _found(script: ScriptSettings) -> str | None:
    """Return the program of a script, as its worker will look it up; None where there is none."""
    program = script.command[0]
    if os.path.dirname(program):
        return program if os.path.lexists(program) else None
    return find_program(program, {"PATH": _path(script)})


def _path(script: ScriptSettings) -> str:
    return script.env.get("PATH", os.environ.get("PATH", DEFAULT_PATH))


def _operator_problems(settings: Settings) -> Iterator[str]:
    for operator in settings.control.operators:
        try:
            number = operator.isascii() and operator.isdecimal()
            known = number or bool(pwd.getpwnam(operator))
        except (KeyError, ValueError):
            known = False
        if not known:
            yield f"control.operators: there is no user {operator!r}"


def _descriptor_problems() -> Iterator[str]:
    if reason := shortage(open_files_max(hard=True)):
        yield reason


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=True)
