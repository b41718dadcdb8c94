"""A synchroniser that was taken over has its broker's socket: what it can do by it ends with it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from geosched.ipc import unwanted_descriptors
from geosched.ipc.messages.broker import (
    Done,
    FromBroker,
    Held,
    LockTokens,
    Opened,
    OpenFile,
    OpenReports,
    Refused,
    ReplaceTokens,
    Say,
    UnlockTokens,
)
from geosched.workers.host.log_rate import Rate
from geosched.workers.sync.allowance import Allowance, Allowances
from support.backend import address
from support.brokers import served_broker
from support.lingering import AT_ONCE_SECONDS, full_socket
from support.oauth import keep_tokens

RECORDS, RENEWALS = 5, 3


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.json"
    keep_tokens(path)
    return path


def oauth(tokens: Path) -> Any:
    return address(auth="oauth", token_file=str(tokens))


def few() -> Allowances:
    """Without more, however long a test takes."""
    return Allowances(Allowance(Rate(RECORDS, 0.0)), Allowance(Rate(RENEWALS, 0.0)))


def say(ours: socket.socket, request: Any) -> None:
    ours.send(msgspec.msgpack.encode(request))


def ask(ours: socket.socket, request: Any) -> Any:
    say(ours, request)
    return msgspec.msgpack.decode(ours.recv(4096), type=FromBroker)


@contextmanager
def asking() -> Iterator[tuple[int, Any]]:
    """A process that asks, by its pidfd, and what ends it. A test has its end of the socket, as
    whoever it gave that to would."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(process.pid)
    try:
        yield pidfd, process.kill
    finally:
        os.close(pidfd)
        process.kill()
        process.communicate()


def has_left(ours: socket.socket) -> bool:
    """The broker has closed its end, or does so in a moment."""
    try:
        return ours.recv(4096) == b""
    except ConnectionResetError:
        return True


def test_a_broker_leaves_with_who_asks_whoever_else_has_the_socket(tokens: Path) -> None:
    with asking() as (pidfd, end), served_broker(oauth(tokens), asker=pidfd) as ours:
        assert ask(ours, LockTokens()) == Done()
        end()
        assert has_left(ours)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            say(ours, OpenFile("token_file"))
        with served_broker(oauth(tokens)) as successors:
            assert ask(successors, LockTokens()) == Done(), "the lock is free"


def test_tokens_that_a_server_gave_are_kept_though_who_asked_is_killed(tokens: Path) -> None:
    """What was asked for before is finished: a server has forgotten the old ones."""
    with asking() as (pidfd, end), served_broker(oauth(tokens), asker=pidfd) as ours:
        assert ask(ours, LockTokens()) == Done()
        broker = children_of(os.getpid())[-1]
        os.kill(broker, signal.SIGSTOP)
        say(ours, ReplaceTokens(b"new"))
        end()
        os.kill(broker, signal.SIGCONT)
        assert msgspec.msgpack.decode(ours.recv(4096), type=FromBroker) == Done()
        assert has_left(ours)
    assert tokens.read_bytes() == b"new"


def children_of(pid: int) -> list[int]:
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def test_a_broker_leaves_where_nobody_reads_its_answers(tokens: Path) -> None:
    with asking() as (pidfd, end), served_broker(oauth(tokens), asker=pidfd) as ours:
        ours.setblocking(False)
        for _ in range(20_000):
            try:
                say(ours, OpenFile("path"))
            except BlockingIOError:
                time.sleep(0.001)
            except (BrokenPipeError, ConnectionResetError):
                break
        else:
            pytest.fail("it waits")
        end()


@pytest.mark.parametrize("refused", [True, False])
def test_descriptors_that_are_attached_hold_no_broker(
    refused: bool, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last close of a TCP socket waits as long as its owner has set."""
    if not refused:  # as on Linux before 6.16
        monkeypatch.setattr(unwanted_descriptors, "refuse", lambda _: None)
    with asking() as (pidfd, end), served_broker(oauth(tokens), asker=pidfd) as ours:
        assert ask(ours, UnlockTokens()) == Done()
        with full_socket() as waits:
            request = msgspec.msgpack.encode(UnlockTokens())
            try:
                socket.send_fds(ours, [request], [waits.fileno()])
            except PermissionError:
                assert refused
                return
            waits.close()
            begun = time.monotonic()
            assert msgspec.msgpack.decode(ours.recv(4096), type=FromBroker) == Done()
            end()
            assert has_left(ours)
            assert time.monotonic() - begun < AT_ONCE_SECONDS


def test_renewals_are_bounded_over_all_brokers(tokens: Path) -> None:
    allowed = few()
    for _ in range(RENEWALS):
        with served_broker(oauth(tokens), allowed) as ours:
            assert ask(ours, LockTokens()) == Done()
            assert ask(ours, ReplaceTokens(b"new")) == Done()
            second = ask(ours, ReplaceTokens(b"newer"))
            assert isinstance(second, Refused)
            assert "replaced already" in second.reason
    with served_broker(oauth(tokens), allowed) as ours:
        refused = ask(ours, LockTokens())
        assert isinstance(refused, Refused)
        assert "too often" in refused.reason
    assert tokens.read_bytes() == b"new"
    assert not Path(f"{tokens}.new").exists()


def test_waiting_for_a_lock_is_no_renewal(tokens: Path) -> None:
    allowed = few()
    with served_broker(oauth(tokens)) as holder, served_broker(oauth(tokens), allowed) as ours:
        assert ask(holder, LockTokens()) == Done()
        for _ in range(2 * RENEWALS):
            assert ask(ours, LockTokens()) == Held()
        assert ask(holder, UnlockTokens()) == Done()
        assert ask(ours, LockTokens()) == Done()


def test_records_are_bounded_over_all_brokers_and_those_left_out_are_told(
    tokens: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    allowed = few()
    for _ in range(3):
        with served_broker(oauth(tokens), allowed) as ours:
            for number in range(RECORDS):
                say(ours, Say("info", f"record {number}", "", 0))
            ask(ours, UnlockTokens())
    assert len(capfd.readouterr().err.splitlines()) == RECORDS


def test_an_allowance_grows_with_time_up_to_its_bound_and_is_shared() -> None:
    now = [100.0]
    allowance = Allowance(Rate(at_once=2, per_second=0.5), lambda: now[0])
    pid = os.fork()
    if pid == 0:
        os._exit(0 if allowance.take() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert [allowance.take() for _ in range(3)] == [True, False, False]
    now[0] += 1.9
    assert not allowance.take()
    now[0] += 0.2
    assert allowance.take()
    now[0] += 1000
    assert [allowance.take() for _ in range(3)] == [True, True, False]


def test_a_file_of_reports_that_stays_empty_is_written_to_the_disk_once(tmp_path: Path) -> None:
    """A process that asks for it without end costs no write each time."""
    actions = tmp_path / "actions.json"
    actions.write_text("[]")
    with served_broker(address("file", path=str(actions))) as ours:
        for _ in range(3):
            say(ours, OpenReports())
            data, descriptors, _, _ = socket.recv_fds(ours, 4096, 1)
            assert msgspec.msgpack.decode(data, type=FromBroker) == Opened()
            os.close(descriptors[0])
