"""Pulls from a backend that wants tokens of OAuth 2.0, with the real HTTP backend."""

from typing import Any

import msgspec
import pytest
from geosched.ipc.messages.sync import BackendAddress, Pull
from geosched.workers.sync.backends.http import HttpBackend
from geosched.workers.sync.base import ExchangeError, Snapshot

TIMEOUT_SECONDS = 1.0
LATE_SECONDS = 1.5


def pull(at: BackendAddress) -> Snapshot:
    found = HttpBackend().pull(Pull(1, at, 0))
    assert isinstance(found, Snapshot)
    return found


def error_of(at: BackendAddress) -> ExchangeError:
    with pytest.raises(ExchangeError) as caught:
        pull(at)
    assert "s3cret" not in caught.value.detail
    return caught.value


def with_client(at: BackendAddress, **fields: Any) -> BackendAddress:
    return msgspec.structs.replace(at, **{f"oauth_{name}": fields[name] for name in fields})
