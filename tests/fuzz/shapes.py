"""Targets of hypothesis: values of the right shape, out of every range, and their ways."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from geosched.ipc.actions import unsound
from geosched.ipc.channel import MESSAGE_BYTES_MAX
from geosched.ipc.instants import format_instant
from geosched.ipc.messages.control import Call, Request
from geosched.ipc.messages.runs import FromWorker, Run, RunResult, ToWorker
from geosched.ipc.messages.sync import BackendAddress, FromSynchroniser, Page, Pull
from geosched.ipc.wire import ProtocolError, decoded
from geosched.supervisor.config import derived, settings
from geosched.supervisor.config.sections import ScriptSettings, SettingsError
from geosched.supervisor.control.views import action_view, event_view, run_view
from geosched.supervisor.core.lifecycle import decide, first_seen
from geosched.supervisor.core.model import (
    Absent,
    Change,
    DaemonStarted,
    Due,
    OpenRun,
    Record,
    RunEnded,
    Running,
    RunRow,
    StopAsked,
)
from geosched.supervisor.runs.run_order import conditions_of, order
from geosched.supervisor.store.tables import codec
from geosched.supervisor.store.tables.codec import Codec, DamagedRecordError
from geosched.workers.sync.base import ExchangeError, Snapshot
from geosched.workers.sync.bodies.snapshot import read_snapshot
from geosched.workers.sync.synchroniser import pages
from hypothesis import strategies as st
from support.build import AFTER, NOW, RULES, record, running

from . import samples
from .samples import mostly

_SCRIPT = ScriptSettings(command=("/bin/a", "{id} {from} {apps}"))
_BACKEND = BackendAddress("http", "https://a.example", max_body_bytes=10**6, max_actions=100)


class Shape(NamedTuple):
    """A strategy, and what reads what it draws: True where that was read, False, or one of
    `errors`, where it was refused."""

    name: str
    drawn: st.SearchStrategy[Any]
    feed: Callable[[Any], bool]
    errors: tuple[type[Exception], ...] = ()


# --- snapshots -------------------------------------------------------------------------

_CLOCK = st.sampled_from(
    ["00:00:00", "23:59:59", "23:59:60", "24:00:00", "08:30", "08:00:00.1", "12:00:00.123456789"]
)
_ZONE = st.sampled_from(["Z", "z", "+00:00", "-23:59", "+24:00", "+0100", "+01", "", " ", "-00:00"])
_DAY = st.sampled_from(
    [
        "1970-01-01",
        "1969-12-31",
        "9999-12-31",
        "0001-01-01",
        "2026-02-30",
        "10000-01-01",
        "2026-W01",
    ]
) | st.dates().map(str)
_DATES = st.one_of(
    st.tuples(_DAY, st.sampled_from("T t"), _CLOCK, _ZONE).map("".join),
    samples.TEXTS,
    st.integers(-(2**70), 2**70),
    st.none(),
)
#: Half a surrogate pair is written as its escape.
_TEXTS = samples.TEXTS | st.sampled_from(["\ud800", "a\udfff", "a" * 256, "\U0010ffff", "b" * 200])
_JSON = samples.VALUES | st.dictionaries(_TEXTS, samples.VALUES | _TEXTS, max_size=3)


_ENTRIES = st.fixed_dictionaries(
    {
        "id": mostly(st.sampled_from(["a", "b", "c"]) | _TEXTS, _JSON),
        "fromDate": mostly(st.just("2026-11-23T08:00:00Z"), _DATES),
        "toDate": mostly(st.just("2036-11-23T12:30:00+01:00"), _DATES),
        "shouldBeExecuted": mostly(st.booleans(), _JSON),
        "appNames": mostly(st.lists(_TEXTS, max_size=3), _JSON),
    },
    optional={
        "type": mostly(st.sampled_from(["default", None]), st.sampled_from(["a/b", "a\n"]) | _JSON),
        "args": _JSON,
        "executionStatus": _JSON,
    },
)
_SNAPSHOTS = st.lists(mostly(_ENTRIES, _JSON), max_size=4)


def _snapshot(drawn: Any) -> bool:
    """All the way: through the socket, into a row, back, to a script, and to a person."""
    found = read_snapshot(json.dumps(drawn).encode(), "", Pull(1, _BACKEND, NOW.wall_us))
    assert isinstance(found, Snapshot)
    for actions in pages(found.actions):
        packed = msgspec.msgpack.encode(Page(1, actions))
        assert len(packed) <= MESSAGE_BYTES_MAX
        page = msgspec.msgpack.decode(packed, type=FromSynchroniser)
        assert page == Page(1, actions)
        for action in page.actions:
            assert not unsound(action)
            change = first_seen(action, NOW, RULES)
            _changed(change)
            _ordered(change.after)
    return bool(found.actions)


def _changed(change: Change | None) -> None:
    """What a change becomes: rows that come back as they were, and views."""
    if change is None:
        return
    stored, details = codec.split(change.after)
    row = codec.decode_stored(codec.encode_stored(stored))
    assert codec.join(row, details or None) == change.after
    if change.after.edge_us is not None:
        codec.edge_key(change.after.edge_us, codec.action_key(change.after.action.id))
    run = None if change.run is None else _shown(change.run)
    msgspec.json.encode(action_view(change.after, "queued", run))
    if (event := change.status_change()) is not None:
        msgspec.json.encode(event_view(1, event))


def _shown(row: RunRow) -> Any:
    of_runs = Codec(RunRow)
    assert of_runs.decode(of_runs.encode(row)) == row
    return run_view(row, NOW)


def _ordered(after: Record) -> None:
    run = OpenRun("run-1", NOW.wall_us)
    made = order(after.action, run, 1, _SCRIPT, instance="i", output_path=Path("/a"), inherited={})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=ToWorker) == made
    assert isinstance(made, Run)
    json.loads(made.input)


# --- messages and rows -----------------------------------------------------------------


def _worker_message(drawn: Any) -> bool:
    """A result settles a run, whatever is in it."""
    message = _read(drawn, FromWorker)
    if message is None:
        return False
    result = getattr(message, "result", None)
    if isinstance(result, RunResult):
        for stop in (None, "withdrawn", "changed"):
            before = running(stop=stop)
            assert isinstance(before.state, Running)
            ended = msgspec.structs.replace(result, run_id=before.state.run.run_id)
            _changed(decide(before, RunEnded(ended), NOW, RULES))
            _changed(decide(before, DaemonStarted(ended), AFTER, RULES))
    if hasattr(message, "at_us"):
        format_instant(message.at_us)
    return True


def _sync_message(drawn: Any) -> bool:
    message = _read(drawn, FromSynchroniser)
    if isinstance(message, Page):
        for action in message.actions:
            if unsound(action):
                continue
            change = first_seen(action, NOW, RULES)
            _changed(change)
            _changed(decide(record(), Absent(), NOW, RULES))
    return message is not None


def _request(drawn: Any) -> bool:
    call = _read({"number": 2**64 - 1, "request": drawn}, Call)
    if call is not None:
        f"{call.request!r:.200}".encode()
    return call is not None


def _read(drawn: Any, kind: Any) -> Any:
    packed = msgspec.msgpack.encode(drawn)
    found = decoded([packed], msgspec.msgpack.Decoder(kind).decode)
    if isinstance(found, ProtocolError):
        str(found).encode()
        return None
    msgspec.msgpack.encode(found)
    return found


def _record_row(drawn: Any) -> bool:
    """A row that was written by somebody, and what time and people make of it."""
    found = Codec(Record).decode(Codec(Any).encode(drawn))
    for event in (
        Due(slot_free=True, worker_free=True),
        StopAsked(),
        Absent(),
        DaemonStarted(None),
    ):
        for now in (NOW, AFTER):
            _changed(decide(found, event, now, RULES))
    return True


# --- configuration ---------------------------------------------------------------------

_SETTINGS = {
    "daemon": ("state_dir", "max_running", "map_size", "clock_wait", "retention", "spare_workers"),
    "backend": ("kind", "url", "path", "timeout", "max_body", "max_actions", "auth", "proxy"),
    "scripts.a": (
        "command",
        "user",
        "group",
        "cwd",
        "umask",
        "nice",
        "stop_signal",
        "stop_grace",
        "restart",
        "output_max",
        "env",
        "watchdog",
        "max_restarts",
    ),
    "scripts.a.limits": ("cpu", "address_space", "open_files", "processes", "file_size"),
    "control": ("operators",),
}
_VALUES = st.one_of(
    st.integers(-5, 100_000),
    st.integers(-(2**70), 2**70),
    st.sampled_from(
        [
            "http",
            "file",
            "https://a.example/x",
            "oauth",
            "10s",
            "14d",
            "999999999d",
            "64GiB",
            "2GiB",
            "TERM",
            "022",
            "nobody",
            "٣",
            "always",
            "0ms",
            "{id}",
            "a\x00b",
            "/",
            "",
        ]
    ),
    st.floats(),
    st.booleans(),
    st.lists(st.sampled_from(["/bin/true", "{id}", "", "root", 0, 2**40]), max_size=3),
    st.dictionaries(st.sampled_from(["A", "PATH", "1"]), st.sampled_from(["x", 1, "\x00"])),
    samples.TEXTS,
)
_SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        name: st.dictionaries(st.sampled_from(keys), _VALUES, max_size=1)
        for name, keys in _SETTINGS.items()
    },
)
_USUAL = {"backend": {"kind": "http", "url": "https://a.example"}, "scripts.a": {"command": ["/a"]}}


def _configuration(drawn: dict[str, dict[str, Any]]) -> bool:
    given = {name: _USUAL.get(name, {}) | drawn.get(name, {}) for name in _SETTINGS}
    lines = []
    for name, section in given.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {_toml(value)}" for key, value in section.items()]
    read = settings.parse("\n".join(lines).encode(), Path("/etc/geosched.toml"))
    msgspec.msgpack.encode(derived.address(read.backend))
    for script in read.scripts.values():
        msgspec.msgpack.encode(conditions_of(script))
    return True


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)


_EXCHANGE = (ExchangeError,)

SHAPES = (
    Shape("snapshots", _SNAPSHOTS, _snapshot, _EXCHANGE),
    Shape("control requests", samples.nearly(Request), _request),
    Shape("messages of workers", samples.nearly(FromWorker), _worker_message),
    Shape("messages of synchronisers", samples.nearly(FromSynchroniser), _sync_message),
    Shape("rows of actions", samples.nearly(Record), _record_row, (DamagedRecordError,)),
    Shape("configurations", _SECTIONS, _configuration, (SettingsError,)),
)
