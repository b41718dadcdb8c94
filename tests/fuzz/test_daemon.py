"""A real daemon lives on, whatever is said on its control socket or printed by its scripts."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from geosched.ipc import zmtp
from geosched.ipc.messages.control import (
    LOG_CHUNK_BYTES_MAX,
    AcknowledgeIncidents,
    Acting,
    Call,
    DropReports,
    FlushReports,
    GetStatus,
    LogChunk,
    Looking,
    ReadEvents,
    ReadLog,
    StatusIs,
    StopAction,
    Sync,
)
from geosched.ipc.messages.views import StatusView
from geosched.ipc.paths import Runtime
from support.daemon import Daemon, daemon_installation, entry
from support.router import GREETING, HELLO
from support.wait import wait_for

from . import files, samples, wire
from .asking import NOBODY, Asker
from .conftest import SEED, SHAPES_INPUTS
from .mutator import Mutator
from .oracle import Figures

GROWN_KIB_MAX = 32 * 1024
OFFSETS = (0, 1, 511, 512, 1024, -1, -100, 2**31, 2**62, 2**63 - 1, -(2**63))
#: Of requests that act those that leave the daemon at work, and its backend alone.
HARMLESS = (
    *(StopAction("a"), StopAction("none"), Sync(wait=False), FlushReports(), DropReports()),
    *(DropReports(("x-1", "")), AcknowledgeIncidents(), ReadLog("a"), ReadLog("b", 0, -5)),
    ReadEvents(0, wait=True),
)
REQUESTS = (
    *(msgspec.msgpack.encode({"number": 7, "request": one}) for one in samples.of(Looking)),
    *(msgspec.msgpack.encode(Call(7, request)) for request in HARMLESS),
)
WORDS = (b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7), b"\xa1a", b"\xa6offset", b"\xa7attempt")
FRAMES = (
    *(zmtp.frame(request) for request in REQUESTS),
    zmtp.frame(REQUESTS[0]) * 60,
    b"\1\1x" + zmtp.frame(REQUESTS[0]),
    zmtp.frame(b"\x04PING\0\0", command=True) + zmtp.frame(REQUESTS[1]),
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One that has a run behind it, another at work, and one to come."""
    with daemon_installation() as installed:
        installed.root.chmod(0o755)
        installed.configure(
            scripts={
                "default": {"command": [installed.script("short", "echo output; exit 0")]},
                "long": {"command": [installed.script("long", "echo begun; exec sleep 3600")]},
            },
            backend={"poll_interval": "1h"},
        )
        installed.send(
            [
                entry("a", -1, 7200),
                entry("b", -1, 7200, type="long"),
                entry("c", 3600, 7200),
            ]
        )
        installed.start("--log-level", "error")
        installed.wait_phase("a", "done")
        installed.wait_phase("b", "running")
        yield installed


@pytest.fixture
def same(daemon: Daemon) -> Iterator[Daemon]:
    """It is the same daemon afterwards: it answers, has not grown, and complains of nothing."""
    assert daemon.process is not None
    wait_for(lambda: status_of(daemon).limits.connections == 1, what="others have left")
    before = daemon.process.pid, open_files(daemon)
    size = resident_kib(daemon)
    yield daemon
    assert daemon.process.poll() is None
    status = status_of(daemon)
    assert status.daemon.pid == before[0]
    assert status.running == 1
    assert status.daemon.degraded is None
    wait_for(lambda: status_of(daemon).limits.connections == 1, what="others have left")
    wait_for(lambda: open_files(daemon) <= before[1] + 3, seconds=20, what="descriptors are closed")
    assert resident_kib(daemon) - size < GROWN_KIB_MAX
    assert daemon.log_text() == ""


def status_of(daemon: Daemon) -> StatusView:
    found = daemon.asked(GetStatus(), StatusIs)
    assert found is not None
    return found.status


def open_files(daemon: Daemon) -> int:
    assert daemon.process is not None
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def resident_kib(daemon: Daemon) -> int:
    assert daemon.process is not None
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def socket_of(daemon: Daemon) -> Path:
    return Runtime(daemon.root / "run").control_socket


@pytest.fixture(params=["operator", "stranger"])
def uid(request: pytest.FixtureRequest) -> int:
    if request.param == "operator":
        return os.geteuid()
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    return NOBODY


def tried(
    name: str,
    samples_: tuple[bytes, ...],
    words: tuple[bytes, ...],
    feed: Callable[[bytes], object],
) -> str:
    begun = time.monotonic()
    for data in Mutator(f"{name}-{SEED}", samples_, words).inputs(SHAPES_INPUTS // 2):
        try:
            feed(data)
        except Exception as error:
            raise AssertionError(f"{name}, seed {SEED}: {data[:3000]!r}: {error!r}") from error
    return str(Figures(name, SHAPES_INPUTS // 2, 0, time.monotonic() - begun))


def test_any_request_is_answered_and_so_is_the_next(
    same: Daemon, uid: int, record_property: Callable[[str, object], None]
) -> None:
    asker = Asker(socket_of(same), uid)
    name = f"requests of uid {uid}"
    record_property("fuzz", tried(name, REQUESTS, WORDS, asker.ping))
    asker.close()


def test_any_frames_are_taken_or_end_their_own_connection(
    same: Daemon, uid: int, record_property: Callable[[str, object], None]
) -> None:
    asker = Asker(socket_of(same), uid)
    name = f"raw frames of uid {uid}"
    record_property("fuzz", tried(name, FRAMES, wire.WORDS, asker.say))
    asker.close()


def test_any_greeting_is_taken_or_ends_its_own_connection(
    same: Daemon, uid: int, record_property: Callable[[str, object], None]
) -> None:
    asker = Asker(socket_of(same), uid, greets=False)
    greetings = (HELLO + FRAMES[0], GREETING, b"\x01\0", b"GET / HTTP/1.1\r\n\r\n")
    name = f"raw greetings of uid {uid}"
    record_property("fuzz", tried(name, greetings, wire.WORDS, asker.say))
    asker.close()


def test_any_output_can_be_read(
    same: Daemon, uid: int, record_property: Callable[[str, object], None]
) -> None:
    (log,) = (path for path in (same.root / "log").iterdir() if path.read_bytes() == b"output\n")
    asker = Asker(socket_of(same), uid)

    def feed(data: bytes) -> None:
        log.write_bytes(data)
        offset = OFFSETS[len(data) % len(OFFSETS)]
        answer = asker.ask(ReadLog("a", 1, offset))
        assert isinstance(answer, LogChunk), answer
        assert len(answer.data) <= LOG_CHUNK_BYTES_MAX + 64

    (target,) = (each for each in files.TARGETS if each.name == "output of a script")
    try:
        name = f"logs of forged output, {uid}"
        record_property("fuzz", tried(name, target.samples, target.words, feed))
    finally:
        log.write_bytes(b"output\n")
    asker.close()


def test_there_are_harmless_requests_alone() -> None:
    assert any(isinstance(request, Acting) for request in HARMLESS)
    assert not any(b"shutdown" in request for request in REQUESTS)
