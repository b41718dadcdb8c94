"""The daemon's own directories: what is wrong with them, and their making at a start.

A daemon of root works in a `state_dir` and a `runtime_dir` that nobody else can write: with links,
stores and results of their own others could have it write any file. What it makes there is reached
by paths, which nobody can change. An empty directory of others it takes for its own; any other it
refuses. A `log_dir` of others is not used: that costs output only, so it is warned of
(`workers/runfiles/output.py` refuses it whenever a file of it is opened).
"""

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ...ipc.paths import ENDPOINT_PATH_BYTES_MAX, PID_MAX, Runtime
from ...workers.host import trust
from ...workers.host.dirfd import Directory, UntrustedError
from ..config.sections import DaemonSettings, Settings, SettingsError
from . import storage_probe

log = logging.getLogger(__name__)

_MODES = {"state_dir": 0o700, "runtime_dir": 0o750, "log_dir": 0o750}


def problems(daemon: DaemonSettings) -> list[str]:
    """Return what would keep the daemon from its work in them, a line each; create nothing."""
    unusable = [*_unusable_ones(daemon)]
    keys = {problem.partition(": ")[0] for problem in unusable}
    exposed = (f"daemon.{key}: {reason}" for key in _MODES if (reason := _exposed(daemon, key)))
    return [*unusable, *(each for each in exposed if each.partition(": ")[0] not in keys)]


def prepare(settings: Settings) -> None:
    """Create `state_dir` and `runtime_dir` where they are missing, never their parents. As root,
    take what is empty from others, and refuse what is not. Raises `SettingsError`."""
    for problem in socket_problems(settings.daemon):
        raise SettingsError(f"cannot use {settings.source}: {problem}")
    for key in ("state_dir", "runtime_dir"):
        directory: Path = getattr(settings.daemon, key)
        reason = _exposed(settings.daemon, key)
        if reason and os.path.lexists(directory):
            _take(settings, key, reason)
        elif reason:
            raise SettingsError(f"cannot use {settings.source}: daemon.{key}: {reason}")
        if problem := _create(directory, key) or _unusable(directory, key):
            raise SettingsError(f"cannot use {settings.source}: daemon.{key}: {problem}")
    for key, problem in storage_probe.misplaced(settings.daemon, all_of_them=False):
        raise SettingsError(f"cannot use {settings.source}: daemon.{key}: {problem}")


def prepare_log_dir(settings: Settings) -> list[str]:
    """Create `log_dir` where it is missing; return sentences on what is wrong with it: without it
    output is lost, never a run."""
    directory = settings.daemon.log_dir
    exposed = _exposed(settings.daemon, "log_dir")
    if exposed:
        return [f"daemon.log_dir: {exposed}; it is not used, and output of runs is lost"]
    problem = _create(directory, "log_dir") or _unusable(directory, "log_dir")
    return [f"Output of runs is lost: {directory}: {problem}"] if problem else []


def socket_problems(daemon: DaemonSettings) -> Iterator[str]:
    """Yield that paths in `runtime_dir` are too long for sockets."""
    runtime = Runtime(daemon.runtime_dir)
    sockets = (
        *(runtime.control_socket, runtime.worker_socket),
        runtime.notify_socket(PID_MAX),
    )
    longest = max(len(os.fsencode(path)) for path in sockets)
    if longest > ENDPOINT_PATH_BYTES_MAX:
        room = ENDPOINT_PATH_BYTES_MAX - (longest - len(os.fsencode(daemon.runtime_dir)))
        yield f"daemon.runtime_dir: longer than {room} bytes, so sockets cannot be bound in it"


def _exposed(daemon: DaemonSettings, key: str) -> str:
    """Say who else could put files in the place of the daemon's, in the directory or in one below
    it that an earlier daemon of another user may have left; for a daemon that is root only."""
    if os.geteuid() != trust.ROOT:
        return ""
    runtime = Runtime(daemon.runtime_dir)
    wanted = {
        "state_dir": (daemon.state_dir / "daemondb" / "data.mdb", daemon.state_dir / "backups"),
        "runtime_dir": (runtime.runs, runtime.results, runtime.processes, runtime.notify),
        "log_dir": (daemon.log_dir,),
    }
    groups = _groups(key)
    reasons = (trust.why_not(path, groups=groups, to_be_made=True) for path in wanted[key])
    reason = next(filter(None, reasons), "")
    return f"others can write it: {reason}" if reason else ""


def _groups(key: str) -> tuple[int, ...]:
    """Return the groups whose members may write a directory."""
    return trust.groups_of_logs() if key == "log_dir" else (trust.ROOT,)


def _take(settings: Settings, key: str, reason: str) -> None:
    """Make an empty directory root's own, where nobody else can write the one above. Raises
    `SettingsError`."""
    directory: Path = getattr(settings.daemon, key)
    refused = SettingsError(f"cannot use {settings.source}: daemon.{key}: {reason}")
    try:
        above, _ = Directory.holding(directory)
        with above, Directory.open_exposed(directory) as taken:
            taken.take(_MODES[key])
    except UntrustedError:
        raise refused from None
    except OSError as error:
        raise SettingsError(f"{refused}; {error.strerror or error}") from None
    if _exposed(settings.daemon, key):
        raise refused
    log.warning(
        "%s: daemon.%s: %s; it was empty, and is root's now",
        settings.source,
        key,
        reason,
        extra={"event": "directory-taken"},
    )


def _create(directory: Path, key: str) -> str:
    """Create a directory where it is missing; return the reason where that fails, else ""."""
    if os.path.lexists(directory):
        return ""
    try:
        Directory.open_or_make(directory, _MODES[key], groups=_groups(key)).close()
    except OSError as error:
        return f"cannot create {directory}: {error.strerror or error}"
    return ""


def _unusable(directory: Path, key: str) -> str:
    """Return the reason why nothing can be kept in an existing directory, or ""."""
    try:
        if not stat.S_ISDIR(directory.stat().st_mode):
            return f"{directory} is not a directory"
    except OSError as error:
        return f"{directory} cannot be looked at: {error.strerror}"
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return f"{directory} is not writable"
    return storage_probe.why_not(directory, key)


def _unusable_ones(daemon: DaemonSettings) -> Iterator[str]:
    for key in _MODES:
        directory: Path = getattr(daemon, key)
        present = os.path.lexists(directory)
        place = directory if present else directory.parent
        problem = _unusable(place, key) or storage_probe.full(place)
        if not problem and key == "state_dir":
            problem = storage_probe.no_place_for_a_store(place)
        if not problem and key == "runtime_dir" and not [*socket_problems(daemon)]:
            problem = storage_probe.no_sockets(place)
        if problem:
            yield (
                f"daemon.{key}: {problem}"
                if present
                else (f"daemon.{key}: cannot create {directory}: {problem}")
            )
            continue
        for place_of, misplaced in storage_probe.misplaced(daemon, all_of_them=True):
            if place_of == key:
                yield f"daemon.{key}: {misplaced}"
