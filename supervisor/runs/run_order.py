"""The order of a run, sent to its worker: the settings of a script, applied to an action. Pure.

No text from outside becomes a path or a line of shell: placeholders are replaced inside
arguments of a list, and everything else is passed in the environment or on standard input
(INTERFACE, "What a script sees").
"""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ...ipc.actions import Action
from ...ipc.instants import format_instant
from ...ipc.messages.runs import Conditions, Run
from ..config.sections import ScriptSettings, Settings
from ..core.model import Instant, OpenRun, Record, Running
from .live_run import LiveRun

#: Variables of the daemon's own environment that a script may see.
SCRIPT_ENVIRONMENT_ALLOWED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "TZ",
)
_PERSONAL = frozenset({"HOME", "USER", "LOGNAME", "SHELL"})
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TITLE_CHARS_MAX = 60

_PLACEHOLDER = re.compile(r"\{(id|type|apps|from|to|run|attempt)\}")


def live_run(
    record: Record,
    now: Instant,
    settings: Settings,
    *,
    instance: str,
    inherited: Mapping[str, str],
) -> LiveRun:
    """Return the live run for a record in state `Running`, which begins at `now`.

    It has no order where no script is configured for the action's type. A run keeps the
    settings it began with, whatever is reloaded meanwhile.
    """
    assert isinstance(record.state, Running)
    run, action = record.state.run, record.action
    live = LiveRun(run.run_id, action.id, record.attempt)
    script = settings.scripts.get(action.type)
    if script is None:
        return live
    live.heartbeat_timeout_seconds = script.heartbeat_timeout_seconds
    live.order = order(
        action,
        run,
        record.attempt,
        script,
        instance=instance,
        output_path=output_path(settings.daemon.log_dir, run.run_id),
        inherited=inherited,
        not_before_us=now.wall_us,
    )
    return live


def order(
    action: Action,
    run: OpenRun,
    attempt: int,
    script: ScriptSettings,
    *,
    instance: str,
    output_path: Path,
    inherited: Mapping[str, str],
    not_before_us: int = 0,
) -> Run:
    """Return the message that starts this run. `instance` is the mark of this boot and state
    directory, a secret of the daemon and its scripts."""
    return Run(
        run_id=run.run_id,
        title=f"geosched: {action.id[:TITLE_CHARS_MAX]} ({action.type})",
        command=_command(action, run, attempt, script.command),
        environment=_environment(action, run, attempt, instance, inherited, script),
        input=_document(action, run, attempt),
        stop_signal=script.stop_signal,
        stop_grace_seconds=script.stop_grace_seconds,
        watchdog_seconds=script.watchdog_seconds,
        heartbeat_seconds=script.heartbeat_seconds,
        output_path=str(output_path),
        output_bytes_max=script.output_max_bytes,
        conditions=conditions_of(script),
        not_before_us=not_before_us,
    )


def output_path(log_dir: Path, run_id: str) -> Path:
    """Return the file of a run's output: named by our own id of it, never by text from outside."""
    return log_dir / f"{run_id}.log"


def _command(
    action: Action, run: OpenRun, attempt: int, command: tuple[str, ...]
) -> tuple[str, ...]:
    values = {
        "id": action.id,
        "type": action.type,
        "apps": ",".join(action.app_names),
        "from": format_instant(action.from_us),
        "to": format_instant(action.to_us),
        "run": run.run_id,
        "attempt": str(attempt),
    }
    # One pass: a value that looks like a placeholder stays as it is.
    return tuple(_PLACEHOLDER.sub(lambda found: values[found[1]], part) for part in command)


def conditions_of(script: ScriptSettings) -> Conditions:
    """Return the part of a script's settings that its process takes on, matched by name."""
    return msgspec.convert(script, Conditions, from_attributes=True)


def _environment(
    action: Action,
    run: OpenRun,
    attempt: int,
    instance: str,
    inherited: Mapping[str, str],
    script: ScriptSettings,
) -> dict[str, str]:
    # Variables that name the daemon's user are wrong for a script of another user.
    foreign = _PERSONAL if script.user else frozenset()
    environment = {"PATH": DEFAULT_PATH} | {
        name: inherited[name]
        for name in SCRIPT_ENVIRONMENT_ALLOWED
        if name in inherited and name not in foreign
    }
    return (
        environment
        | script.env
        | {
            "GEOSCHED_ACTION_ID": action.id,
            "GEOSCHED_ACTION_TYPE": action.type,
            "GEOSCHED_APP_NAMES": msgspec.json.encode(action.app_names).decode(),
            "GEOSCHED_FROM_DATE": format_instant(action.from_us),
            "GEOSCHED_TO_DATE": format_instant(action.to_us),
            "GEOSCHED_RUN_ID": run.run_id,
            "GEOSCHED_ATTEMPT": str(attempt),
            "GEOSCHED_INSTANCE": instance,
        }
    )


def _document(action: Action, run: OpenRun, attempt: int) -> bytes:
    document = {
        "id": action.id,
        "fromDate": format_instant(action.from_us),
        "toDate": format_instant(action.to_us),
        "shouldBeExecuted": action.should_be_executed,
        "appNames": action.app_names,
        "type": action.type,
        "args": msgspec.Raw(action.args.encode() or b"null"),
        "runId": run.run_id,
        "attempt": attempt,
    }
    return msgspec.json.encode(document) + b"\n"
