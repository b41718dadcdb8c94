"""Preparation of `geosched-ctl login`: it reads the configuration, and becomes the process
that logs in.

That process, `workers/sync/auth/device_flow.py`, speaks to the network and does not read the
configuration file. The messages of both are in `ipc/messages/login.py`.

    python -P -m geosched.supervisor.login CONFIG SECONDS
"""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from ..ipc.messages.login import NotLoggedIn, Why, encode
from .config.derived import address
from .config.sections import BackendSettings, SettingsError
from .config.settings import load
from .startup import preflight
from .startup.handover import handed_over, owner_of

WORKER = "geosched.workers.sync.auth.device_flow"


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C ends it without a traceback
    config, seconds = sys.argv[1:]
    try:
        settings = load(Path(config))
        # Its files are looked at where they are opened: the daemon may be another user's.
        preflight.refuse_untrusted(settings, of_backend=False)
        refuse_without_login(settings.backend, settings.source)
        owner = str(owner_of(settings.daemon.state_dir))
    except SettingsError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"cannot use state_dir: {error}")
    given = handed_over(address(settings.backend))
    os.execv(sys.executable, [sys.executable, "-P", "-m", WORKER, str(given), seconds, owner])


def _refuse(detail: str) -> NoReturn:
    sys.stdout.write(f"{encode(NotLoggedIn(Why.CONFIGURATION, detail)).decode()}\n")
    sys.exit(1)


def refuse_without_login(backend: BackendSettings, source: Path) -> None:
    """Raise `SettingsError` where the backend is not configured for a login by a person."""
    if backend.auth != "oauth" or backend.oauth_grant != "refresh_token":
        reason = 'a login needs backend.auth = "oauth" with the grant "refresh_token"'
        raise SettingsError(f"cannot use {source}: {reason}")
    if not backend.oauth_device_url:
        raise SettingsError(f"cannot use {source}: backend.oauth_device_url: a login needs it")


if __name__ == "__main__":
    main()
