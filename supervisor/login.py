"""The first half of `geosched-ctl login`: from the configuration to who is to log in where.

It becomes the second half, `workers/sync/auth/device_flow.py`, which speaks to the network and
knows nothing of the configuration file. What it says is in `ipc/messages/login.py`.

    python -P -m geosched.supervisor.login CONFIG SECONDS
"""

import os
import signal
import sys
from pathlib import Path

import msgspec

from ..ipc.messages.login import NotLoggedIn, Why, encode
from .config.derived import address
from .config.sections import BackendSettings, SettingsError
from .config.settings import load
from .startup import preflight

WORKER = "geosched.workers.sync.auth.device_flow"


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C ends it without a traceback
    config, seconds = sys.argv[1:]
    try:
        settings = load(Path(config))
        preflight.refuse_untrusted(settings)
        refuse_without_login(settings.backend, settings.source)
    except SettingsError as error:
        sys.stdout.write(f"{encode(NotLoggedIn(Why.CONFIGURATION, str(error))).decode()}\n")
        sys.exit(1)
    where = msgspec.json.encode(address(settings.backend)).decode()
    os.execv(sys.executable, [sys.executable, "-P", "-m", WORKER, where, seconds])


def refuse_without_login(backend: BackendSettings, source: Path) -> None:
    """Raises `SettingsError` where this backend has nothing that a person could log in to."""
    if backend.auth != "oauth" or backend.oauth_grant != "refresh_token":
        reason = 'a login needs backend.auth = "oauth" with the grant "refresh_token"'
        raise SettingsError(f"cannot use {source}: {reason}")
    if not backend.oauth_device_url:
        raise SettingsError(f"cannot use {source}: backend.oauth_device_url: a login needs it")


if __name__ == "__main__":
    main()
