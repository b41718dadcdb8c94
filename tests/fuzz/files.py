"""Targets: files that others may have written, or a disk has damaged; and rows of daemonDB."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from geosched.ipc.actions import Action, ExecutionStatus
from geosched.ipc.messages.runs import RunResult, StopReason
from geosched.ipc.messages.sync import BackendAddress
from geosched.ipc.paths import Runtime
from geosched.supervisor.control.views import event_view, report_view, run_view
from geosched.supervisor.core.model import (
    Hold,
    Instant,
    Null,
    OpenRun,
    Over,
    Reason,
    Record,
    Running,
    RunRow,
    StatusChange,
    Waiting,
)
from geosched.supervisor.store.repair import incidents, lmdb_pages
from geosched.supervisor.store.repair.incidents import Incident
from geosched.supervisor.store.tables import codec
from geosched.supervisor.store.tables.codec import Codec, DamagedRecordError, Stored
from geosched.supervisor.store.tables.ended import Ended
from geosched.supervisor.store.tables.meta import Meta
from geosched.supervisor.store.tables.outbox import Pending
from geosched.supervisor.sync.backoff import Backoff, Kept, Wait
from geosched.workers.host import procfs
from geosched.workers.runfiles import processes, results, run_lock
from geosched.workers.runfiles.output import read_output
from geosched.workers.runfiles.processes import KnownProcess
from geosched.workers.sync.auth.tokens import TokenFile, Tokens
from geosched.workers.sync.backend_files import LocalFiles
from geosched.workers.sync.base import ExchangeError
from geosched.workers.sync.http.secrets import read_secret

from . import samples
from .oracle import Feed, Target

_RUN = "a"
_ENVIRONMENT = b"GEOSCHED_INSTANCE=boot-place-key\0GEOSCHED_RUN_ID=a\0PATH=/bin\0"
_NOW = Instant(1_795_000_000_000_000, 100.0, 100.0)


def _note() -> bytes:
    """One of this boot."""
    process = procfs.Identity(procfs.boot_id(), 2, 3)
    return msgspec.json.encode(run_lock.NotedScript(process, 4))


def _noted(directory: Path) -> Feed:
    runtime = Runtime(directory)
    processes.make_directories(runtime)

    def feed(data: bytes) -> bool:
        (runtime.runs / _RUN).write_bytes(data)
        return run_lock.noted_script(runtime, _RUN) is not None

    return feed


def _marks(_: Path) -> Feed:
    return lambda data: procfs.marks_in(data) is not None


def _result(directory: Path) -> Feed:
    """A kept result, with a checksum that fits unless its first byte says otherwise."""
    runtime = Runtime(directory)
    processes.make_directories(runtime)

    def feed(data: bytes) -> bool:
        checksum = f"{zlib.crc32(data):08x}\n".encode()
        (runtime.results / _RUN).write_bytes(data[1:] if data[:1] == b"!" else checksum + data)
        found = results.load(runtime, _RUN)
        if found is None:
            return False
        row = RunRow(
            _RUN,
            1,
            _NOW.wall_us,
            found.ended_us,
            script_pid=found.script_pid,
            exit_code=found.exit_code,
            signal=found.signal,
            begun_us=found.begun_us,
        )
        _shown(row)
        return True

    return feed


def _shown(row: RunRow) -> None:
    """What becomes of a run's row: it is stored, read again, and printed."""
    of_runs = Codec(RunRow)
    assert of_runs.decode(of_runs.encode(row)) == row
    msgspec.msgpack.encode(run_view(row, _NOW))


def _identity(directory: Path) -> Feed:
    runtime = Runtime(directory)
    processes.make_directories(runtime)

    def feed(data: bytes) -> bool:
        (runtime.processes / "1").write_bytes(data)
        known = processes.read_identities(runtime)
        for one in known:
            procfs.lives(one.identity)
            processes.forget_identity(runtime, one.identity.pid)
        return bool(known)

    return feed


def _backoff(directory: Path) -> Feed:
    path = directory / "backoff.json"

    def feed(data: bytes) -> bool:
        path.write_bytes(data)
        kept = Backoff(path, _NOW)
        kept.turn_to("a")
        found = kept.wait_seconds(pull=True, now=_NOW) > 0
        kept.failed(pull=True, now=_NOW)
        assert 0 < kept.wait_seconds(pull=True, now=_NOW) <= 3600 * 1.5
        return found

    return feed


def _tokens(directory: Path) -> Feed:
    path = directory / "tokens.json"
    where = BackendAddress(token_file=str(path))
    file = TokenFile(LocalFiles(where), where.token_file)

    def feed(data: bytes) -> bool:
        path.write_bytes(data)
        path.chmod(0o600)
        return file.read() is not None

    return feed


def _secret(directory: Path) -> Feed:
    path = directory / "secret"
    files = LocalFiles(BackendAddress(token_file=str(path)))

    def feed(data: bytes) -> bool:
        path.write_bytes(data)
        path.chmod(0o600)
        return read_secret(files, "token_file", str(path), "token file").isascii()

    return feed


def _incidents(directory: Path) -> Feed:
    def feed(data: bytes) -> bool:
        (directory / "incidents.json").write_bytes(data)
        return bool(incidents.read(directory))

    return feed


def _row(kind: Any, use: Callable[[Any], object]) -> Callable[[Path], Feed]:
    """A row with the right checksum: what the format itself can say is tried."""
    decode = Codec(kind).decode

    def feed(data: bytes) -> bool:
        head = codec._HEAD.pack(codec.VALUE_FORMAT, 1, zlib.crc32(data, 1))
        use(decode(head + data))
        return True

    return lambda _: feed


def _stored(row: Stored) -> None:
    record = codec.join(row, None)
    again, details = codec.split(record)
    codec.encode_stored(again)
    assert codec.join(again, details or None) == record
    if record.edge_us is not None:
        codec.edge_key(record.edge_us, codec.action_key(record.action.id))


def _raw_row(_: Path) -> Feed:
    def feed(data: bytes) -> bool:
        codec.kind_of(data), codec.status_of(data), codec.is_sound(data)
        codec.decode_stored(data)
        return True

    return feed


def _output(directory: Path) -> Feed:
    """The file of a run as a script can forge it; read as `logs` does, from end to end."""
    path = directory / "run.log"

    def feed(data: bytes) -> bool:
        path.write_bytes(data)
        for begin in (0, -100, 2**63 - 1, -(2**63), len(data) // 2)[len(data) % 5 :][:2]:
            offset = begin
            for _ in range(3):
                chunk = read_output(path, offset, 1024)
                assert len(chunk.data) <= 1024 + 64
                assert 0 <= chunk.offset < 2**63
                offset = chunk.offset + len(chunk.data)
                assert offset < 2**63
        return True

    return feed


def _page_file() -> bytes:
    """A small store, made by LMDB itself."""
    import tempfile

    from geosched.supervisor.store import lmdb_env  # late: only this target needs LMDB

    with tempfile.TemporaryDirectory() as directory:
        env = lmdb_env.open_for_writing(Path(directory), 1024 * 1024)
        with env.begin(write=True) as txn:
            table = lmdb_env.tables_of(env, txn)(b"actions")
            for number in range(60):
                txn.put(b"%016d" % number, bytes(number * 2), db=table)
            txn.put(b"long", bytes(9000), db=table)
        env.close()
        return (Path(directory) / "data.mdb").read_bytes()


def _pages(directory: Path) -> Feed:
    path = directory / "data.mdb"

    def feed(data: bytes) -> bool:
        path.write_bytes(data)
        fault = lmdb_pages.fault_in(path)
        for snapshot in lmdb_pages.snapshots(path):
            snapshot.table("actions")
        return not fault

    return feed


_MARKED = b"a" * 512 + b"\n[geosched: 700 bytes cut]\n" + b"b" * 300
_CUTTING = b"a" * 512 + b"\n[geosched 700/5dc]\n" + b"b" * 969
_DAMAGE = (DamagedRecordError,)
_KEPT = msgspec.json.encode(Kept(procfs.boot_id(), "a", Wait(2, 150.5), Wait(1, 130)))
_ACTION = Action("a", 1, 2, True, ("Chrome",), args='{"a":1}')
_RECORDS = tuple(
    msgspec.msgpack.encode(Stored(Record(_ACTION, True, state, reason=Reason.DUE, detail="a")))
    for state in (
        Null(Hold(1, 2.5)),
        Running(OpenRun("run-1", 1, StopReason.CHANGED, 1, 2)),
        Waiting(Hold(1, 2.5), last_ok=True),
        Over(ExecutionStatus.FINISHED),
    )
)

_STORED = msgspec.msgpack.Decoder(Stored).decode

TARGETS = (
    Target(
        "kept result",
        (*samples.as_json(RunResult), b"!bad"),
        _result,
        words=(b'"exited"', b'"exit_code":', b'"signal":', b'"ended_us":'),
    ),
    Target("note in a run's lock", (_note(),), _noted, words=(procfs.boot_id().encode(),)),
    Target("environment of a process", (_ENVIRONMENT,), _marks, words=(b"\0GEOSCHED_INSTANCE=",)),
    Target("identity file", samples.as_json(KnownProcess), _identity),
    Target("back-off file", (_KEPT,), _backoff, words=(b'"until":', procfs.boot_id().encode())),
    Target("token file", samples.as_json(Tokens), _tokens, (ExchangeError,)),
    Target("secret file", (b"s3cret", b"s3cret\n"), _secret, (ExchangeError,)),
    Target("incidents file", samples.as_json(tuple[Incident, ...]), _incidents),
    Target("row of actions", _RECORDS, _row(Stored, _stored), _DAMAGE),
    Target("row of runs", samples.packed(RunRow), _row(RunRow, _shown), _DAMAGE),
    Target(
        "row of events",
        samples.packed(StatusChange),
        _row(StatusChange, lambda one: msgspec.msgpack.encode(event_view(1, one))),
        _DAMAGE,
    ),
    Target(
        "row of reports",
        samples.packed(Pending),
        _row(Pending, lambda one: report_view("g", 1, one, set_aside=False)),
        _DAMAGE,
    ),
    Target("row of ended actions", samples.packed(Ended), _row(Ended, bool), _DAMAGE),
    Target("row of metadata", samples.packed(Meta), _row(Meta, bool), _DAMAGE),
    Target(
        "row with any head",
        tuple(map(codec.encode_stored, map(_STORED, _RECORDS))),
        _raw_row,
        _DAMAGE,
    ),
    Target(
        "output of a script",
        (_MARKED, _CUTTING, b"a" * 1024 + _MARKED, b"line\n" * 99),
        _output,
        words=(b"\n[geosched: ", b" bytes cut]\n", b"\n[geosched ", b"/5dc]\n", b"a" * 512),
    ),
    Target("pages of daemonDB", (_page_file(),), _pages, share=0.3),
)
