"""Settings turned into what the core and the workers need. Pure."""

import os
from collections.abc import Mapping
from pathlib import Path

from ...ipc.messages.runs import Run
from ...ipc.messages.sync import BackendAddress, OAuthClient
from ..core.lifecycle import Rules
from ..core.model import Instant, Record, Running
from ..core.restart import RestartMode, RestartPolicy
from ..runs.live_run import LiveRun
from ..runs.run_order import order, output_path
from .settings import BackendSettings, ScriptSettings, Settings


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


def address(settings: BackendSettings) -> BackendAddress:
    """What one exchange with the backend needs to know."""
    oauth = OAuthClient(
        settings.oauth_grant,
        settings.oauth_token_url,
        settings.oauth_device_url,
        settings.oauth_client_id,
        str(settings.oauth_client_secret_file or ""),
        settings.oauth_audience,
        settings.oauth_scope,
    )
    return BackendAddress(
        settings.kind,
        settings.url,
        str(settings.path or ""),
        str(settings.token_file or ""),
        settings.timeout_seconds,
        settings.max_body_bytes,
        settings.max_actions,
        oauth=oauth if settings.auth == "oauth" else None,
        ca_file=str(settings.ca_file or ""),
        client_cert=str(settings.client_cert or ""),
        client_key=str(settings.client_key or ""),
        proxy=settings.proxy,
    )


def live_run(
    record: Record,
    now: Instant,
    settings: Settings,
    *,
    instance: str,
    inherited: Mapping[str, str] = os.environ,
) -> LiveRun:
    """The run that a record in state `Running` is to have from `now` on, ready for the pool.

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
        not_before_us=now.wall_us,
    )
    return LiveRun(
        message, action.id, record.attempt, script.heartbeat_timeout_seconds, now.monotonic_seconds
    )
