"""Making of a first configuration, for `geosched-ctl init`; and having this host's init run the
daemon.

What is wanted comes on standard input, and what came of it goes to standard output, each as JSON
(`ipc/messages/first_run.py`). A configuration that `geoschedd --check` would refuse is not
written, and what was made for it is removed.

    python -P -m geosched.supervisor.startup.first_run.init write|enable
"""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ....ipc import standard_streams
from ....ipc.backends import BACKENDS
from ....ipc.messages.first_run import Answer, Enabled, NotDone, Wanted, Written
from ....ipc.paths import DEFAULT_CONFIG, DEFAULT_STATE_DIR, Runtime
from ....ipc.regular_files import CONFIGURATION_BYTES_MAX
from ....workers.host import programs, trust
from ....workers.host.dirfd import Directory, UntrustedError
from ....workers.host.files import UMASK
from ....workers.host.linux import set_parent_death_signal
from ....workers.host.programs import Surroundings
from ...config.sections import Settings, SettingsError
from ...config.settings import parse
from ...runs.run_order import DEFAULT_PATH
from .. import preflight
from . import facts, init_system
from .configuration import filled

_PACKAGE = Path(__file__).resolve().parents[3]
_EXAMPLE = _PACKAGE / "deploy" / "geosched.example.toml"
_BLOCK_APPS = "lib/geosched/scripts/block-apps"
#: Where the script that ships may be: where this was installed, or beside the code.
_SCRIPTS = (
    Path(sys.prefix) / _BLOCK_APPS,
    Path("/usr") / _BLOCK_APPS,
    Path("/usr/local") / _BLOCK_APPS,
    _PACKAGE / "deploy/scripts/block-apps",
)
_EXAMPLE_SCRIPT = """#!/bin/sh
# An example of an action script: it runs from the begin of its window to the end, where it is asked
# to stop by SIGTERM. What it prints is kept: geosched-ctl logs ID.
trap 'echo "asked to stop"; exit 0' TERM
echo "attempt $GEOSCHED_ATTEMPT of $GEOSCHED_ACTION_ID: $*"
while :; do sleep 1; done
"""
WANTED_BYTES_MAX = 256 * 1024
SECONDS_MAX = 300
#: A unit is started when it says so, which a slow host needs minutes for.
ENABLE_SECONDS_MAX = 240
#: Exit codes of geosched-ctl.
_FAILED, _REFUSED, _NOT_PERMITTED, _CONFLICT = 1, 2, 4, 6
_NOT_PERMITTED_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS)


class _RefusedError(Exception):
    """A wish that is not carried out, for these reasons."""

    def __init__(self, *reasons: str, code: int = _REFUSED) -> None:
        super().__init__(*reasons)
        self.reasons = reasons
        self.code = code


def main() -> None:
    standard_streams.complete()
    os.umask(UMASK)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    set_parent_death_signal(signal.SIGTERM)
    signal.alarm(SECONDS_MAX)
    work = _enabled if sys.argv[1:] == ["enable"] else _written
    sys.stdout.buffer.write(msgspec.json.encode(_answer(work)) + b"\n")


def _answer(work: Callable[[], Answer]) -> Answer:
    try:
        return work()
    except _RefusedError as error:
        return NotDone(error.reasons, error.code)
    except SettingsError as error:
        return NotDone((str(error),), _REFUSED)
    except UntrustedError as error:
        return NotDone((f"others can write it: {error}",), _REFUSED)
    except OSError as error:
        code = _NOT_PERMITTED if error.errno in _NOT_PERMITTED_ERRORS else _FAILED
        where = f" {error.filename}" if error.filename else ""
        return NotDone((f"cannot write{where}: {error.strerror or error}",), code)


def _written() -> Answer:
    wanted = msgspec.json.decode(sys.stdin.buffer.read(WANTED_BYTES_MAX + 1), type=Wanted)
    return write(wanted)


# --- the configuration ------------------------------------------------------------------


def write(wanted: Wanted) -> Written:
    """Write a configuration and what belongs to it, all or nothing. Raises `_RefusedError`,
    `SettingsError`, `OSError`."""
    config = Path(wanted.config)
    _refuse_taken(config, wanted)
    with contextlib.ExitStack() as undo:
        making = _Making(undo, overwrite=wanted.overwrite)
        making.directory(config.parent, 0o755)
        values = _values(wanted, making)
        try:
            text = filled(_EXAMPLE.read_text(), values)
        except ValueError as error:
            raise _RefusedError(f"cannot use the options: {error}") from None
        settings = parse(text.encode(), config)
        problems = preflight.check(settings)
        expected = preflight.login_missing(settings.backend)
        left = [problem for problem in problems if problem == expected]
        if faults := [problem for problem in problems if problem not in left]:
            raise _RefusedError(*(f"cannot use {config}: {fault}" for fault in faults))
        # Readable for all: geosched-ctl finds the daemon by it. Secrets have a file of their own.
        making.file(config, text.encode(), 0o644)
        undo.pop_all()
    remarks = tuple(preflight.remarks(settings))
    return _told(settings, making.made, remarks, tuple(left))


def _refuse_taken(config: Path, wanted: Wanted) -> None:
    if os.path.lexists(config) and not wanted.overwrite:
        reason = f"{config} is there, and is not overwritten unless --overwrite is given"
        raise _RefusedError(reason, code=_CONFLICT)


def _values(wanted: Wanted, making: "_Making") -> dict[str, Any]:
    """Return the values of the configuration, with the files and directories made that they
    name."""
    values = dict(wanted.values)
    if wanted.directory:
        making.directory(Path(wanted.directory), 0o700)
        for key, name in (("state_dir", "state"), ("runtime_dir", "run"), ("log_dir", "log")):
            values.setdefault(f"daemon.{key}", str(Path(wanted.directory) / name))
    state_dir = Path(str(values.get("daemon.state_dir", DEFAULT_STATE_DIR)))
    if values.get("backend.auth") == "oauth":
        tokens = values.setdefault("backend.token_file", str(state_dir / "tokens.json"))
        _make_state_dir(Path(str(tokens)), state_dir, making)
    if wanted.secret:
        _keep_secret(values, wanted, making)
    kind = BACKENDS.get(str(values.get("backend.kind")))
    if kind is not None and kind.needs == "path" and "backend.path" not in values:
        actions = state_dir / "actions.json"
        values["backend.path"] = str(actions)
        _make_state_dir(actions, state_dir, making)
        if not os.path.lexists(actions):
            making.file(actions, b"[]\n", 0o644)
    if "scripts.default.command" not in values:
        values["scripts.default.command"] = _script(Path(wanted.config), making)
    return values


def _make_state_dir(kept: Path, state_dir: Path, making: "_Making") -> None:
    """Make `state_dir`, as the daemon would, where a file is kept in it that is there before."""
    if kept.parent == state_dir:
        making.directory(state_dir, 0o700)


def _keep_secret(values: dict[str, Any], wanted: Wanted, making: "_Making") -> None:
    machine = values.get("backend.oauth_grant") == "client_credentials"
    key, name = (
        ("backend.oauth_client_secret_file", "client-secret")
        if machine
        else ("backend.token_file", "token")
    )
    path = Path(str(values.setdefault(key, str(Path(wanted.config).parent / name))))
    making.file(path, f"{wanted.secret}\n".encode(), 0o600)


def _script(config: Path, making: "_Making") -> list[str]:
    """Return the command of the script that ships, or of an example that is made."""
    within = Surroundings("/", {"PATH": os.environ.get("PATH", DEFAULT_PATH)}, None)
    for path in _SCRIPTS:
        exposed = os.geteuid() == trust.ROOT and trust.why_not(path)
        if not exposed and not programs.why_not(str(path), within):
            return [str(path), "--apps={apps}"]
    path = config.parent / "example-script"
    if not os.path.lexists(path):
        making.file(path, _EXAMPLE_SCRIPT.encode(), 0o755)
    return [str(path), "{apps}"]


class _Making:
    """Files and directories that are made for a configuration; `undo` removes them again. `made`
    are their paths."""

    def __init__(self, undo: contextlib.ExitStack, *, overwrite: bool) -> None:
        self.made: list[str] = []
        self._undo = undo
        self._overwrite = overwrite

    def directory(self, path: Path, mode: int) -> None:
        """Make a directory where it is missing, and those above it. Raises `OSError`."""
        if os.path.lexists(path):
            return
        self.directory(path.parent, 0o755)
        Directory.open_or_make(path, mode).close()
        self._undo.callback(_remove_directory, path)
        self.made.append(str(path))

    def file(self, path: Path, content: bytes, mode: int) -> None:
        """Write a file; one that is there is replaced only where that was asked for. Raises
        `_RefusedError`, `OSError`."""
        opened, name = Directory.holding(path)
        with opened:
            before = self._content(opened, name)
            try:
                opened.replace(name, content, durable=True, mode=mode, only_new=before is None)
            except FileExistsError:
                reason = f"{path} is there, and is not overwritten unless --overwrite is given"
                raise _RefusedError(reason, code=_CONFLICT) from None
        self._undo.callback(_put_back, path, before, mode)
        self.made.append(str(path))

    def _content(self, opened: Directory, name: str) -> bytes | None:
        """Return what a file holds that may be replaced; None where none is there, or may be."""
        if not self._overwrite or opened.stat(name) is None:
            return None
        return opened.read(name, CONFIGURATION_BYTES_MAX)


def _remove_directory(path: Path) -> None:
    with contextlib.suppress(OSError):  # others may have put something in it
        path.rmdir()


def _put_back(path: Path, before: bytes | None, mode: int) -> None:
    with contextlib.suppress(OSError):
        opened, name = Directory.holding(path)
        with opened:
            if before is None:
                opened.unlink(name)
            else:
                opened.replace(name, before, durable=True, mode=mode)


# --- what comes next --------------------------------------------------------------------


def _told(
    settings: Settings, made: list[str], remarks: tuple[str, ...], left: tuple[str, ...]
) -> Written:
    """Return what was made, and the commands that come next, in their order."""
    usual = settings.source == DEFAULT_CONFIG
    init = init_system.look()
    runs = bool(facts.daemon_runs(Runtime(settings.daemon.runtime_dir)))
    by_init = usual and bool(init.unit) and os.geteuid() == trust.ROOT and not runs
    commands = () if not by_init else (init.start,) if init.enabled else init.enable
    enable = " && ".join(map(" ".join, commands))
    at = "" if usual else f" --config {settings.source}"
    following = [f"geosched-ctl{at} login"] if left else []
    following.append(f"geosched-ctl{at} doctor")
    if runs:
        if usual and init.unit:
            following.append(" ".join(init.reload))
        following.append(f"geosched-ctl{at} status")
    else:
        following.append(enable or f"geoschedd{at}")
    return Written(
        str(settings.source), tuple(made), remarks, left, tuple(following), init.name, enable
    )


def _enabled() -> Answer:
    """Have the init run the daemon from now on. Raises `_RefusedError`, `OSError`."""
    init = init_system.look()
    if not init.unit:
        raise _RefusedError(f"{init.name} has no unit for the daemon")
    for command in (init.start,) if init.enabled else init.enable:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                timeout=ENABLE_SECONDS_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired:
            reason = f"{' '.join(command)} did not end within {ENABLE_SECONDS_MAX} s"
            raise _RefusedError(reason, code=_FAILED) from None
        if done.returncode:
            reason = f"{' '.join(command)} exits with {done.returncode}"
            raise _RefusedError(reason, code=_FAILED)
    return Enabled(init.name)


if __name__ == "__main__":
    main()
