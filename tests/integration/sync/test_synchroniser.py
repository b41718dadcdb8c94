"""The real synchroniser, as a process, ordered over its real socket."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.channel import Channel
from geosched.ipc.messages.sync import (
    REPORTS_PER_EXCHANGE_MAX,
    Connected,
    ErrorKind,
    ExchangeFailed,
    FromSynchroniser,
    NotModified,
    Page,
    Pull,
    Pulled,
    Report,
    Send,
    Taken,
)
from geosched.ipc.wire import ProtocolError
from geosched.workers.sync.synchroniser import MEMORY_BODIES_MAX, MEMORY_BYTES_BASE, NICER_BY
from support.backend import BackendServer, address, entry
from support.faults import MEBIBYTE
from support.wait import wait_for

PROGRAM = (
    "import sys; from geosched.workers.sync.synchroniser import main;"
    "main(int(sys.argv[1]), int(sys.argv[2]))"
)


class Ordered:
    """A synchroniser that is running, and the supervisor's end of its channel and lifeline."""

    def __init__(self) -> None:
        self.channel: Channel[Any, Any] = Channel(receives=FromSynchroniser)
        lifeline, self._held = os.pipe()
        with self.channel.open() as served:
            given = [served.fileno(), lifeline]
            command = [sys.executable, "-P", "-c", PROGRAM, *map(str, given)]
            self.process = subprocess.Popen(command, pass_fds=given, stderr=subprocess.PIPE)
        os.close(lifeline)
        self._got: list[FromSynchroniser] = []
        self.connected = self.next(Connected)

    def order(self, message: Pull | Send) -> None:
        assert self.channel.send(message)

    def next(self, kind: Any = object, *, seconds: float = 10.0) -> Any:
        """The next message, which has to be of a kind."""
        wait_for(self._received, seconds=seconds, what=f"{kind} of the synchroniser")
        message = self._got.pop(0)
        assert isinstance(message, kind), message
        return message

    def _received(self) -> bool:
        for message in self.channel.drain():
            assert not isinstance(message, ProtocolError), message
            self._got.append(message)
        return bool(self._got)

    def snapshot(self, pull: Pull, *, seconds: float = 10.0) -> tuple[list[Page], Pulled]:
        """The pages of a pull and its end."""
        self.order(pull)
        found: list[Page] = []
        while isinstance(message := self.next(Page | Pulled, seconds=seconds), Page):
            found.append(message)
        return found, message

    def drop_lifeline(self) -> None:
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def left(self, *, seconds: float = 5.0) -> int:
        """The exit code of a synchroniser that leaves within the time."""
        return self.process.wait(seconds)

    def end(self) -> None:
        self.drop_lifeline()
        self.channel.close()
        self.process.kill()
        self.process.communicate(timeout=5)


@pytest.fixture
def ordered() -> Iterator[Ordered]:
    running = Ordered()
    yield running
    running.end()


@pytest.fixture
def backend() -> Iterator[BackendServer]:
    with BackendServer() as running:
        yield running


def test_it_says_who_it_is_and_names_itself(ordered: Ordered) -> None:
    assert ordered.connected == Connected()
    command_line = Path(f"/proc/{ordered.process.pid}/cmdline").read_bytes()
    assert command_line.rstrip(b"\0") == b"geosched: synchroniser"


def test_it_makes_way_for_the_supervisor_and_for_starts(ordered: Ordered) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, ordered.process.pid) == min(19, own + NICER_BY)


def test_a_snapshot_crosses_in_pages_in_its_order(ordered: Ordered, backend: BackendServer) -> None:
    backend.set_actions([entry(f"a{number:04}") for number in range(1234)] + [{"id": "bad"}])
    pages, pulled = ordered.snapshot(Pull(5, address(url=backend.url), 0))
    assert [page.exchange for page in pages] == [5] * 14
    sent = [action.id for page in pages for action in page.actions]
    assert sent == [f"a{number:04}" for number in range(1234)]
    assert (pulled.exchange, pulled.total) == (5, 1234)
    assert (pages[-1].set_aside_ids, pulled.set_aside_total) == (("bad",), 1)
    assert pulled.etag
    ordered.order(Pull(6, address(url=backend.url), 0, etag=pulled.etag))
    assert ordered.next() == NotModified(6)
    backend.etags = False
    ordered.order(Pull(7, address(url=backend.url), 0, digest=pulled.digest))
    assert ordered.next() == NotModified(7)


def test_an_empty_snapshot_is_complete_without_a_page(
    ordered: Ordered, backend: BackendServer
) -> None:
    pages, pulled = ordered.snapshot(Pull(1, address(url=backend.url), 0))
    assert (pages, pulled.total) == ([], 0)


def test_the_longest_valid_actions_cross(ordered: Ordered, backend: BackendServer) -> None:
    backend.set_actions([entry(f"{n}" + "€" * 199, appNames=["€" * 255] * 1000) for n in range(3)])
    where = address(url=backend.url, max_body_bytes=8 * MEBIBYTE)
    pages, pulled = ordered.snapshot(Pull(1, where, 0))
    assert (len(pages), pulled.total) == (3, 3)


@pytest.mark.parametrize("fault", ["garbage", "truncated", "gzip-bomb", "drip-headers", "deep"])
def test_a_failed_pull_is_one_message_and_the_next_one_works(
    fault: str, ordered: Ordered, backend: BackendServer
) -> None:
    backend.set_actions([entry("a")])
    where = address(url=backend.url, timeout_seconds=1.0)
    backend.fault = fault
    ordered.order(Pull(1, where, 0))
    assert ordered.next(ExchangeFailed).exchange == 1
    backend.fault = ""
    pages, pulled = ordered.snapshot(Pull(2, where, 0))
    assert (len(pages), pulled.exchange) == (1, 2)


def test_its_memory_is_bounded_by_what_a_body_may_need(
    ordered: Ordered, backend: BackendServer
) -> None:
    ordered.snapshot(Pull(1, address(url=backend.url, max_body_bytes=MEBIBYTE), 0))
    soft, _ = resource.prlimit(ordered.process.pid, resource.RLIMIT_AS)
    assert soft == MEMORY_BYTES_BASE + MEMORY_BODIES_MAX * MEBIBYTE


def test_a_body_that_unpacks_into_more_than_the_memory_allowed_is_too_large(
    ordered: Ordered, backend: BackendServer
) -> None:
    pages_now = int(Path(f"/proc/{ordered.process.pid}/statm").read_text().split()[0])
    bytes_max = pages_now * os.sysconf("SC_PAGESIZE") + 100 * MEBIBYTE
    resource.prlimit(ordered.process.pid, resource.RLIMIT_AS, (bytes_max, bytes_max))
    backend.body = b"[" + b"0," * (4 * MEBIBYTE) + b"0]"
    where = address(url=backend.url, max_body_bytes=16 * MEBIBYTE, timeout_seconds=20.0)
    ordered.order(Pull(1, where, 0))
    failed = ordered.next(ExchangeFailed, seconds=20.0)
    assert failed.kind is ErrorKind.TOO_LARGE
    assert "memory" in failed.detail
    backend.body = None
    assert ordered.snapshot(Pull(2, where, 0))[1].total == 0


def test_when_to_come_back_is_passed_on(ordered: Ordered, backend: BackendServer) -> None:
    backend.fault, backend.fault_headers = "status", {"Retry-After": "90"}
    ordered.order(Pull(1, address(url=backend.url), 0))
    failed = ordered.next(ExchangeFailed)
    assert (failed.kind, failed.retry_after_seconds) == (ErrorKind.BUSY, 90)


def test_reports_are_sent_and_what_became_of_each_is_told(
    ordered: Ordered, backend: BackendServer
) -> None:
    backend.reject_keys = {"k2": "unknown"}
    first = Report("k1", "a", "STARTED", 0, 1, "r", None, None, "due")
    second = Report("k2", "a", "FINISHED", 1, 1, "r", 0, None, "completed")
    ordered.order(Send(3, address(url=backend.url), (first, second)))
    assert ordered.next() == Taken(3, ("k1",), (("k2", "unknown"),))


def test_many_reports_of_long_ids_are_sent_at_once(
    ordered: Ordered, backend: BackendServer
) -> None:
    keys = [f"k{number}" for number in range(REPORTS_PER_EXCHANGE_MAX)]
    long_id = "😀" * 200
    reports = tuple(Report(key, long_id, "STARTED", 0, 1, "r", None, None, "due") for key in keys)
    ordered.order(Send(4, address(url=backend.url), reports))
    assert ordered.next() == Taken(4, tuple(keys))


def test_a_file_is_a_backend_too(ordered: Ordered, tmp_path: Path) -> None:
    path = tmp_path / "actions.json"
    path.write_text(json.dumps([entry("a")]))
    pages, _ = ordered.snapshot(Pull(1, address("file", path=str(path)), 0))
    assert pages[0].actions[0].id == "a"


def test_a_backend_of_an_unknown_kind_is_an_error_that_names_it(ordered: Ordered) -> None:
    ordered.order(Pull(1, address("gopher"), 0))
    failed = ordered.next(ExchangeFailed)
    assert failed.kind is ErrorKind.LOCAL
    assert "gopher" in failed.detail


def test_it_leaves_when_its_channel_is_closed(ordered: Ordered) -> None:
    ordered.channel.hang_up()
    assert ordered.left() == 0


def test_it_does_not_leave_on_a_signal_to_the_group(
    ordered: Ordered, backend: BackendServer
) -> None:
    os.kill(ordered.process.pid, signal.SIGTERM)
    os.kill(ordered.process.pid, signal.SIGINT)
    assert ordered.snapshot(Pull(1, address(url=backend.url), 0))[1].total == 0


@pytest.mark.parametrize("busy", [False, True])
def test_it_leaves_at_once_when_the_supervisor_is_gone(
    busy: bool, ordered: Ordered, backend: BackendServer
) -> None:
    if busy:
        backend.fault, backend.slow_seconds = "slow", 20.0
        ordered.order(Pull(1, address(url=backend.url, timeout_seconds=20.0), 0))
        wait_for(lambda: backend.asked, what="the request")
    begun = time.monotonic()
    ordered.drop_lifeline()
    assert ordered.left() == 0
    assert time.monotonic() - begun < 2.0


def test_it_leaves_when_the_supervisor_does_not_read_a_snapshot(
    ordered: Ordered, backend: BackendServer
) -> None:
    long_names = ["x" * 250] * 400
    backend.set_actions([entry(f"a{n}", appNames=long_names) for n in range(200)])
    where = address(url=backend.url, max_body_bytes=100 * MEBIBYTE, timeout_seconds=2.0)
    ordered.order(Pull(1, where, 0))
    assert ordered.left(seconds=40.0) == 0


def test_an_order_that_it_cannot_read_makes_it_leave(ordered: Ordered) -> None:
    assert ordered.channel.send(None)
    assert ordered.left() == 0
