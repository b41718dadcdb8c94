"""Settings turned into what the core and the workers need. Pure."""

from ...ipc.messages.sync import BackendAddress, OAuthClient
from ..core.lifecycle import Rules
from ..core.restart import RestartMode, RestartPolicy
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
