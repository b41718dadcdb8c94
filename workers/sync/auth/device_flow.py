"""Device authorization grant (RFC 8628), the second half of `geosched-ctl login`.

A person confirms a code in any browser, while this process polls the token server at the pace
that the server wants. The tokens are on the disk before success is told. Progress is written
to standard output as lines of JSON (`ipc/messages/login.py`).

Run by root, this process has no rights while it speaks to the network, and a file broker keeps
the tokens (DESIGN 6).

    python -P -m geosched.workers.sync.auth.device_flow DESCRIPTOR SECONDS OWNER
"""

import math
import os
import sys
import time
from collections.abc import Callable
from typing import Annotated

import msgspec

from ....ipc.messages.login import CodeGiven, LoggedIn, NotLoggedIn, Said, Why, encode
from ....ipc.messages.sync import BackendAddress, ErrorKind
from ...host import privileges
from .. import unprivileged
from ..backend_files import BackendFiles, LocalFiles
from ..base import ExchangeError
from ..bodies.snapshot import decode_strictly
from ..http.client import Exchange, load_late_parts
from ..http.errors import shown
from .oauth import OAuthError, grant, post_form
from .tokens import TokenFile, Tokens

DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"

INTERVAL_SECONDS = 5.0  # where the server names none
INTERVAL_SECONDS_MIN = 1.0
INTERVAL_SECONDS_MAX = 60.0
#: What each `slow_down` adds to the interval (RFC 8628, 3.5).
SLOW_DOWN_SECONDS = 5.0
VALID_SECONDS_MAX = 3600.0

#: Errors after which the next poll may succeed (RFC 8628, 3.5).
_TRANSIENT = (ErrorKind.UNREACHABLE, ErrorKind.TIMEOUT, ErrorKind.BUSY)


class _DeviceAuthorization(msgspec.Struct):
    """The server's response to a request to log in (RFC 8628, 3.2). A number may come as text,
    where "nan" is one, and cannot be waited for."""

    device_code: Annotated[str, msgspec.Meta(min_length=1)]
    user_code: Annotated[str, msgspec.Meta(min_length=1)]
    verification_uri: Annotated[str, msgspec.Meta(min_length=1)]
    expires_in: Annotated[float, msgspec.Meta(ge=0)]
    verification_uri_complete: str | None = None
    interval: float | None = None


_decode_device = msgspec.json.Decoder(_DeviceAuthorization, strict=False).decode


class NotLoggedInError(Exception):
    """The login failed; `why` is for the exit code of `geosched-ctl`."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(detail)
        self.why = why


def main() -> None:
    unprivileged.set_up_process()
    given, seconds, owner = sys.argv[1:]
    with os.fdopen(int(given), "rb") as file:
        backend = msgspec.json.decode(file.read(), type=BackendAddress)
    try:
        files = unprivileged.files_of(backend, int(owner), load=load_late_parts)
    except (OSError, privileges.UnusableUserError) as error:
        detail = f"cannot log in: cannot become the user of backend.user: {error}"
        _say(NotLoggedIn(Why.FAILED, detail))
        sys.exit(1)
    sys.exit(0 if run(backend, float(seconds), _say, files) else 1)


def _say(said: Said) -> None:
    sys.stdout.write(f"{encode(said).decode()}\n")
    sys.stdout.flush()


def run(
    backend: BackendAddress,
    seconds: float,
    say: Callable[[Said], None],
    files: BackendFiles | None = None,
) -> bool:
    """Log in within `seconds`, calling `say` for each step; False where it failed."""
    try:
        log_in(backend, seconds, say, files=files)
    except NotLoggedInError as error:
        say(NotLoggedIn(error.why, str(error)))
    except ExchangeError as error:
        why = Why.DENIED if error.kind is ErrorKind.UNAUTHORIZED else Why.FAILED
        say(NotLoggedIn(why, f"cannot log in: {error.detail}"))
    else:
        return True
    return False


def log_in(
    backend: BackendAddress,
    seconds: float,
    say: Callable[[Said], None],
    pause: Callable[[float], None] = time.sleep,
    files: BackendFiles | None = None,
) -> None:
    """Get tokens by a person's confirmation, and keep them.

    Raises `NotLoggedInError`, or `ExchangeError` where the server cannot be reached.
    """
    files = LocalFiles(backend) if files is None else files
    file = TokenFile(files, backend.token_file)
    with file.locked(backend.timeout_seconds):
        pass  # a file that cannot be written is found before a person opens a browser
    device = _device(backend, files)
    valid_seconds = min(device.expires_in, VALID_SECONDS_MAX, seconds)
    say(
        CodeGiven(
            device.verification_uri,
            device.verification_uri_complete or "",
            device.user_code,
            valid_seconds,
        )
    )
    ends_monotonic = time.monotonic() + valid_seconds
    asked = {"grant_type": DEVICE_CODE_GRANT, "device_code": device.device_code}

    def poll() -> Tokens:
        with Exchange(backend, files) as exchange:
            return grant(exchange, time.time(), asked)

    tokens = _wait(poll, device, ends_monotonic, pause)
    # Only now again: a daemon may need the lock while a person looks for the code.
    with file.locked(backend.timeout_seconds) as replace:
        replace(tokens)
    say(LoggedIn(backend.token_file, bool(tokens.refresh_token)))


def _device(backend: BackendAddress, files: BackendFiles) -> _DeviceAuthorization:
    wish = {"scope": backend.oauth_scope, "audience": backend.oauth_audience}
    url = backend.oauth_device_url
    with Exchange(backend, files) as exchange:
        body = post_form(exchange, url, wish)
    return decode_strictly(body, _decode_device, f"device code of {shown(url)}")


def _wait(
    poll: Callable[[], Tokens],
    device: _DeviceAuthorization,
    ends_monotonic: float,
    pause: Callable[[float], None],
) -> Tokens:
    """Poll until the code is confirmed, and return the tokens; the first poll is after a pause."""
    named_seconds = math.nan if device.interval is None else device.interval
    wanted_seconds = INTERVAL_SECONDS if math.isnan(named_seconds) else named_seconds
    interval_seconds = min(max(wanted_seconds, INTERVAL_SECONDS_MIN), INTERVAL_SECONDS_MAX)
    while True:
        if time.monotonic() + interval_seconds > ends_monotonic:
            raise NotLoggedInError(Why.NOT_CONFIRMED, "cannot log in: the code was not confirmed")
        pause(interval_seconds)
        try:
            return poll()
        except OAuthError as error:
            interval_seconds = _after(error, interval_seconds)
        except ExchangeError as error:
            if error.kind not in _TRANSIENT:
                raise
            interval_seconds = min(interval_seconds * 2, INTERVAL_SECONDS_MAX)


def _after(error: OAuthError, interval_seconds: float) -> float:
    """Return the next interval; raise where there is nothing more to wait for."""
    match error.error:
        case "authorization_pending":
            return interval_seconds
        case "slow_down":
            return interval_seconds + SLOW_DOWN_SECONDS
        case "access_denied":
            raise NotLoggedInError(Why.DENIED, "cannot log in: it was denied") from None
        case "expired_token":
            raise NotLoggedInError(
                Why.NOT_CONFIRMED, "cannot log in: the code was not confirmed in time"
            ) from None
    raise error


if __name__ == "__main__":
    main()
