"""A message of a synchroniser that is out of its bounds cannot be read, and takes no time."""

import time
from typing import Any

import msgspec
import pytest
from geosched.ipc.messages.sync import FromSynchroniser
from geosched.ipc.wire import ProtocolError, decoded

decode = msgspec.msgpack.Decoder(FromSynchroniser).decode
HUGE = "x" * 2_000_000
ACTION = ["a", 0, 1, True, [], "default", ""]
PULLED = {"t": "pulled", "exchange": 1, "total": 0, "etag": "", "digest": ""}


def with_field(number: int, value: Any) -> dict[str, Any]:
    action = [*ACTION[:number], value, *ACTION[number + 1 :]]
    return {"t": "page", "exchange": 1, "actions": [action]}


OUT_OF_BOUNDS: dict[str, dict[str, Any]] = {
    "a long id": with_field(0, "x" * 201),
    "no id": with_field(0, ""),
    "an instant of no calendar": with_field(2, 2**60),
    "many apps": with_field(4, ["x"] * 1001),
    "a long app": with_field(4, ["x" * 256]),
    "a long type": with_field(5, "x" * 65),
    "long args": with_field(6, HUGE),
    "many actions": {"t": "page", "exchange": 1, "actions": [ACTION] * 101},
    "many ids": {"t": "page", "exchange": 1, "set_aside_ids": ["a"] * 2_000_000},
    "a long id set aside": {"t": "page", "exchange": 1, "set_aside_ids": [HUGE]},
    "a long etag": PULLED | {"etag": "e" * 257},
    "an etag of two lines": PULLED | {"etag": "a\r\nb"},
    "a digest that is none": PULLED | {"digest": "0" * 33},
    "many reasons": PULLED | {"set_aside": [{"id": None, "reason": ""}] * 101},
    "a long reason": PULLED | {"set_aside": [{"id": None, "reason": HUGE}]},
    "a number beyond JSON": PULLED | {"total": 2**60},
    "many verdicts": {"t": "taken", "exchange": 1, "accepted": [""] * 700_000},
    "many refusals": {"t": "taken", "exchange": 1, "accepted": [], "refused": [["", ""]] * 700_000},
    "a long key": {"t": "taken", "exchange": 1, "accepted": ["k" * 65]},
    "a long error": {"t": "taken", "exchange": 1, "accepted": [], "refused": [["k", HUGE]]},
    "a long detail": {"t": "exchange-failed", "exchange": 1, "kind": "busy", "detail": HUGE},
    "a wait without end": {
        "t": "exchange-failed",
        "exchange": 1,
        "kind": "busy",
        "detail": "",
        "retry_after_seconds": float("inf"),
    },
}


@pytest.mark.parametrize("said", OUT_OF_BOUNDS)
def test_what_is_out_of_bounds_is_not_read(said: str) -> None:
    packed = msgspec.msgpack.encode(OUT_OF_BOUNDS[said])
    begun = time.process_time()
    assert isinstance(decoded([packed], decode), ProtocolError)
    assert time.process_time() - begun < 0.1


@pytest.mark.parametrize("said", [with_field(0, "x" * 200), PULLED | {"etag": "e" * 256}])
def test_what_is_at_its_bound_is_read(said: dict[str, Any]) -> None:
    assert not isinstance(decoded([msgspec.msgpack.encode(said)], decode), ProtocolError)
