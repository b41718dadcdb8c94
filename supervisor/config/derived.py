"""Derived settings: the restart policies of the core, the address for the synchroniser. Pure."""

import msgspec

from ...ipc.messages.sync import BackendAddress
from ..core.lifecycle import Rules
from ..core.restart import RestartMode, RestartPolicy
from .sections import BackendSettings, ScriptSettings, Settings


def rules_of(settings: Settings, generation: str) -> Rules:
    """Return the rules of these settings, for decisions about a store of this generation."""
    return Rules(generation, {kind: _policy(script) for kind, script in settings.scripts.items()})


def _policy(script: ScriptSettings) -> RestartPolicy:
    return RestartPolicy(
        RestartMode(script.restart),
        script.restart_delay_seconds,
        script.restart_delay_max_seconds,
        script.max_restarts,
    )


def address(settings: BackendSettings) -> BackendAddress:
    """Return the settings that the synchroniser reads, matched by the names of fields."""
    return msgspec.convert(settings, BackendAddress, from_attributes=True)
