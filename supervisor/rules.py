"""Settings turned into what the core and the workers need. Pure."""

import os
from collections.abc import Mapping
from pathlib import Path

from ..ipc.messages import Run
from .core.lifecycle import Rules
from .core.model import Instant, Record, Running
from .core.restart import RestartMode, RestartPolicy
from .liverun import LiveRun
from .orders import order, output_path
from .settings import ScriptSettings, Settings


def rules_of(settings: Settings, generation: str) -> Rules:
    """What decisions depend on, of these settings and this store."""
    return Rules(generation, {kind: _policy(script) for kind, script in settings.scripts.items()})


def _policy(script: ScriptSettings) -> RestartPolicy:
    return RestartPolicy(
        RestartMode(script.restart),
        script.restart_delay_seconds,
        script.restart_delay_max_seconds,
        script.max_restarts,
    )


def live_run(
    record: Record,
    now: Instant,
    settings: Settings,
    *,
    instance: str,
    inherited: Mapping[str, str] = os.environ,
) -> LiveRun:
    """The run that a record in state `Running` is to have, ready for the pool.

    Its command is empty where no script is configured for the action's type. A run keeps
    the settings it began with, whatever is reloaded meanwhile.
    """
    assert isinstance(record.state, Running)
    run, action = record.state.run, record.action
    script = settings.scripts.get(action.type)
    if script is None:
        nothing = Run(run.run_id, "", (), {}, b"", 0, 0.0, 0.0, 0.0, "", 0)
        return LiveRun(nothing, action.id, record.attempt, 0.0, now.monotonic_seconds)
    message = order(
        action,
        run,
        record.attempt,
        script,
        instance=instance,
        output_path=output_path(Path(settings.daemon.log_dir), run.run_id),
        inherited=inherited,
    )
    return LiveRun(
        message, action.id, record.attempt, script.heartbeat_timeout_seconds, now.monotonic_seconds
    )
