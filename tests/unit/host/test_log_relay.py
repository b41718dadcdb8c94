"""The log's way to standard error: records taken whole or counted, and the relay."""

import contextlib
import logging
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.workers.host import log_relay
from geosched.workers.host.log_relay import DroppingHandler, log_socket, relay
from support.wait import wait_for


class Ends:
    def __init__(self) -> None:
        self.source, self.sink = log_socket()
        self.handler = DroppingHandler(self.sink.fileno())
        self.handler.setFormatter(logging.Formatter("%(message)s"))

    def say(self, text: str) -> None:
        self.handler.emit(logging.LogRecord("x", logging.INFO, "", 0, text, None, None))

    def taken(self) -> list[str]:
        """The records that the log holds, read without waiting."""
        found = []
        self.source.setblocking(False)
        while True:
            try:
                found.append(self.source.recv(1 << 20).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    with made.source, made.sink:
        yield made


def test_records_that_nobody_reads_are_dropped_whole_and_counted(ends: Ends):
    for number in range(10_000):
        ends.say(f"record {number} " + "x" * 100)
    taken = ends.taken()
    assert 50 < len(taken) < 10_000
    assert [line.split()[1] for line in taken] == [str(number) for number in range(len(taken))]
    assert ends.handler.dropped_records == 10_000 - len(taken)


def test_the_loss_is_told_before_the_next_record(ends: Ends):
    while not ends.handler.dropped_records:
        ends.say("x" * 100)
    ends.say("dropped, too: what is told comes in its order")
    assert ends.handler.dropped_records == 2
    ends.taken()
    ends.say("heard again")
    told, heard = ends.taken()
    assert told == "2 records of the log are lost: standard error did not take them\n"
    assert heard == "heard again\n"
    assert ends.handler.dropped_records == 0


def test_the_loss_is_told_though_nothing_more_happens(ends: Ends):
    while not ends.handler.dropped_records:
        ends.say("x" * 100)
    ends.handler.tell_lost()
    assert ends.handler.dropped_records == 1
    ends.taken()
    ends.handler.tell_lost()
    assert ends.taken() == ["1 records of the log are lost: standard error did not take them\n"]


def test_a_record_too_long_for_the_log_is_cut(ends: Ends):
    ends.say("x" * log_relay.QUEUED_BYTES_MAX)
    (taken,) = ends.taken()
    assert len(taken) == log_relay.RECORD_BYTES_MAX
    assert taken.endswith("x [cut]\n")


def test_text_that_is_no_unicode_is_no_loss(ends: Ends):
    ends.say("a lone \ud800")
    assert ends.taken() == ["a lone \\ud800\n"]


@pytest.mark.parametrize("blocking", [True, False])
def test_a_relay_writes_all_in_order_and_ends_with_the_last_writer(ends: Ends, blocking: bool):
    """Also to a standard error that whoever started the daemon had made not to block."""
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    pid = relay_process(ends, writer)
    filler = threading.Thread(target=fill, args=(ends,), daemon=True)
    filler.start()
    with open(reader, "rb") as read:
        lines = [read.readline() for _ in range(2000)]
    assert lines == [b"%d %s\n" % (number, b"x" * 100) for number in range(2000)]
    filler.join(10)
    assert has_left(pid)
    os.close(writer)


def relay_process(ends: Ends, target: int, *, gone: bool = False) -> int:
    """A process of its own, as signals want it."""
    pid = os.fork()
    if pid == 0:
        ends.sink.close()
        relay(ends.source.fileno(), target, gone=lambda: gone)
        os._exit(0)
    return pid


def has_left(pid: int, seconds: float = 10.0) -> bool:
    try:
        return wait_for(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, seconds=seconds)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def fill(ends: Ends) -> None:
    for number in range(2000):
        text = f"{number} {'x' * 100}"
        ends.say(text)
        while ends.handler.dropped_records:  # here every record counts: say it again
            ends.handler._sink.refused_records = 0
            threading.Event().wait(0.001)
            ends.say(text)
    os.write(ends.sink.fileno(), b"")  # is no end
    ends.sink.close()


def test_the_relay_goes_on_once_a_target_that_fails_takes_it_again(ends: Ends, tmp_path: Path):
    """A full disk, say: here a file that may not grow, and is emptied."""
    target = tmp_path / "log"
    writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    pid = relay_process(ends, writer)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4, resource.RLIM_INFINITY))
    ends.say("kept")
    wait_for(lambda: target.read_bytes() == b"kept")
    time.sleep(2 * log_relay.WRITE_AGAIN_SECONDS)
    target.write_bytes(b"")
    wait_for(lambda: target.read_bytes() == b"\n")
    ends.sink.close()
    assert has_left(pid)
    os.close(writer)


def test_what_nobody_reads_is_dropped_and_the_next_reader_hears_what_comes_then(
    ends: Ends, tmp_path: Path
):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(fifo, os.O_WRONLY)
    os.close(reader)
    pid = relay_process(ends, writer)
    for _ in range(1000):  # several times what the log holds
        ends.say("x" * 1000)
        while ends.handler.dropped_records:
            ends.handler._sink.refused_records = 0
            time.sleep(0.001)
            ends.say("x" * 1000)
    wait_for(lambda: not pending(ends), what="a log that is empty")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    ends.say("heard")
    assert wait_for(lambda: ready(reader)) == b"heard\n"
    ends.sink.close()
    assert has_left(pid)
    for descriptor in (reader, writer):
        os.close(descriptor)


def pending(ends: Ends) -> bool:
    """A record waits for the relay."""
    poll = select.poll()
    poll.register(ends.source, select.POLLIN)
    return bool(poll.poll(0))


def ready(reader: int) -> bytes:
    try:
        return os.read(reader, 100)
    except BlockingIOError:
        return b""


def test_a_relay_that_nobody_reads_leaves_after_its_daemon(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(log_relay, "ORPHANED_SECONDS_MAX", 1.0)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 512)
    os.set_blocking(writer, True)
    pid = relay_process(ends, writer, gone=True)
    ends.say("nobody hears it")
    assert has_left(pid)
    for descriptor in (reader, writer):
        os.close(descriptor)
