"""The synchroniser of a daemon that is root has no rights, and does its work all the same."""

import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from geosched.ipc.messages.broker import OpenFile, Say
from geosched.ipc.messages.sync import (
    BackendAddress,
    ErrorKind,
    ExchangeFailed,
    NotModified,
    Pulled,
    Report,
    Taken,
)
from geosched.ipc.messages.zygote import ForkFailed
from geosched.workers.host.log_lines import MESSAGE_BYTES_MAX
from geosched.workers.host.log_rate import OF_A_PROCESS
from geosched.workers.host.privileges import FILE_BYTES_MAX, UNNAMED_UID
from geosched.workers.sync.synchroniser import (
    MEMORY_BODIES_MAX,
    MEMORY_BYTES_BASE,
    OPEN_FILES_MAX,
)
from geosched.workers.zygote import BROKERS_MAX
from support.backend import BackendServer, address, entry
from support.brokers import served_broker
from support.oauth import ACCESS, OAuthServer, keep_tokens, kept_tokens
from support.second_user import SECOND_USER, as_user
from support.synchronisers import Synchronisers, synchronisers
from support.tls import authority, ca_file, client_files, server_context
from support.wait import wait_for

#: From `linux/capability.h`.
CAP_SYS_ADMIN = 21
REPORT = Report("k1", "a", "STARTED", 0, 1, "r", None, None, "due")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")


@pytest.fixture
def exchanges() -> Iterator[Synchronisers]:
    with synchronisers() as running:
        yield running


@pytest.fixture
def backend() -> Iterator[BackendServer]:
    with BackendServer() as running:
        running.set_actions([entry("a")])
        yield running


@pytest.fixture
def actions(tmp_path: Path) -> Path:
    path = tmp_path / "actions.json"
    path.write_text(json.dumps([entry("a")]))
    path.chmod(0o600)
    return path


def secret(tmp_path: Path, content: str = "s3cret") -> str:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(content)
    return str(path)


def status_of_threads(pid: int) -> list[dict[str, str]]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        fields = (line.partition(":") for line in path.read_text().splitlines())
        found.append({name: value.strip() for name, _, value in fields})
    return found


# --- what it has not ---------------------------------------------------------------------


def test_no_thread_of_it_has_the_user_groups_or_capabilities_of_root(
    exchanges: Synchronisers, backend: BackendServer
) -> None:
    where = address(url=backend.url)
    exchanges.fork(where)
    assert isinstance(exchanges.pull(where), Pulled)
    threads = status_of_threads(exchanges.pid)
    assert len(threads) >= 3, "the lifeline has one, and the deadline"
    for thread in threads:
        assert thread["Uid"].split() == thread["Gid"].split() == [str(UNNAMED_UID)] * 4
        assert thread["Groups"] == ""
        assert thread["NoNewPrivs"] == "1"
        for each in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(thread[each], 16) == 0, each


def test_it_leaves_no_core_makes_no_process_and_no_large_file(
    exchanges: Synchronisers, backend: BackendServer
) -> None:
    where = address(url=backend.url)
    exchanges.fork(where)
    exchanges.pull(where)
    limits = Path(f"/proc/{exchanges.pid}/limits").read_text()
    rows = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}
    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max processes"] == ["0", "0"]
    assert rows["Max file size"] == [str(FILE_BYTES_MAX)] * 2
    assert rows["Max open files"] == [str(OPEN_FILES_MAX)] * 2
    memory = str(MEMORY_BYTES_BASE + MEMORY_BODIES_MAX * where.max_body_bytes)
    assert rows["Max address space"] == [memory] * 2


def test_no_shared_memory_of_it_outlives_it(
    exchanges: Synchronisers, backend: BackendServer
) -> None:
    where = address(url=backend.url)
    exchanges.fork(where)
    exchanges.pull(where)
    own, its = (os.readlink(f"/proc/{pid}/ns/ipc") for pid in (os.getpid(), exchanges.pid))
    (status,) = status_of_threads(os.getpid())[:1]
    assert (its != own) == bool(int(status["CapEff"], 16) >> CAP_SYS_ADMIN & 1)


READ_MEMORY = """
import sys
become()
for name in ("environ", "mem", "maps", "fd/0"):
    try:
        open(f"/proc/{sys.argv[1]}/{name}", "rb").read(1)
    except PermissionError:
        continue
    sys.exit(f"{name} could be read")
"""


def test_others_of_its_user_cannot_read_it(
    exchanges: Synchronisers, backend: BackendServer
) -> None:
    where = address(url=backend.url)
    exchanges.fork(where)
    exchanges.pull(where)
    with as_user(UNNAMED_UID, READ_MEMORY, str(exchanges.pid)) as reader:
        assert reader.wait(10) == 0


CONTROL = """
import os, sys
from geosched.workers.host import privileges
account = privileges.look_up("")
privileges.prepare()
privileges.become(account)
try:
    os.fork()
except BlockingIOError:
    pass
else:
    sys.exit("forked")
for path in sys.argv[1:]:
    try:
        os.open(path, os.O_RDONLY)
    except PermissionError:
        continue
    sys.exit(f"{path} could be opened")
try:
    os.setuid(0)
except PermissionError:
    sys.exit(0)
sys.exit("root again")
"""


def test_what_only_root_may_read_it_cannot_open_nor_become_root_again(tmp_path: Path) -> None:
    with as_user(0, CONTROL, secret(tmp_path), "/proc/1/environ") as process:
        assert process.wait(10) == 0


def test_no_stream_of_it_is_shared_with_the_daemon(exchanges: Synchronisers, actions: Path) -> None:
    """Who holds the log's socket, or a terminal, can make it block for all, or close it."""
    where = address("file", path=str(actions))
    exchanges.fork(where)
    exchanges.pull(where)
    of_zygote = {os.readlink(fd) for fd in Path(f"/proc/{exchanges.host.zygote.pid}/fd").iterdir()}
    for stream in "012":
        assert os.readlink(f"/proc/{exchanges.pid}/fd/{stream}") == os.devnull
    own = {os.readlink(fd) for fd in Path(f"/proc/{exchanges.pid}/fd").iterdir()}
    lifeline = os.readlink(f"/proc/self/fd/{exchanges.host.lifeline}")
    assert own & of_zygote <= {os.devnull, lifeline, "anon_inode:[eventpoll]"}
    assert os.getsid(exchanges.pid) == exchanges.pid


# --- what it does all the same -----------------------------------------------------------


def test_it_pulls_and_reports_with_a_token_that_only_root_can_read(
    exchanges: Synchronisers, backend: BackendServer, tmp_path: Path
) -> None:
    backend.token = "s3cret"
    where = address(url=backend.url, token_file=secret(tmp_path))
    exchanges.fork(where)
    pulled = exchanges.pull(where)
    assert isinstance(pulled, Pulled)
    assert isinstance(exchanges.pull(where, etag=pulled.etag), NotModified)
    assert exchanges.send(where, REPORT) == Taken(1, ("k1",))


def test_a_token_that_is_replaced_counts_at_once(
    exchanges: Synchronisers, backend: BackendServer, tmp_path: Path
) -> None:
    backend.token = "another"
    where = address(url=backend.url, token_file=secret(tmp_path))
    exchanges.fork(where)
    assert isinstance(exchanges.pull(where), ExchangeFailed)
    new = tmp_path / "token.new"
    new.touch(mode=0o600)
    new.write_text("another")
    new.rename(tmp_path / "token")
    assert isinstance(exchanges.pull(where), Pulled)


def test_tokens_are_renewed_and_stay_roots(
    exchanges: Synchronisers, backend: BackendServer, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.json"
    keep_tokens(tokens)
    backend.token = "revoked"
    with OAuthServer() as oauth:
        oauth.issued = lambda token: setattr(backend, "token", token)
        client_secret = tmp_path / "client-secret"
        client_secret.touch(mode=0o600)
        client_secret.write_text("c-s3cret")
        client = oauth.client(client_secret_file=str(client_secret))
        where = address(url=backend.url, token_file=str(tokens), **client)
        exchanges.fork(where)
        for turn in (1, 2):
            assert isinstance(exchanges.pull(where), Pulled)
            assert kept_tokens(tokens)["access_token"] == f"{ACCESS}-{turn}"
            backend.token = "revoked"
        assert oauth.forms[0]["client_secret"] == "c-s3cret"
    assert (tokens.stat().st_uid, stat.S_IMODE(tokens.stat().st_mode)) == (0, 0o600)
    assert not Path(f"{tokens}.new").exists()


@pytest.mark.parametrize("clock_believed", [True, False])
def test_certificates_and_keys_are_read_for_it(
    clock_believed: bool, exchanges: Synchronisers, tmp_path: Path
) -> None:
    ca = authority()
    files = client_files(ca, tmp_path)
    known = ca_file(ca, tmp_path)
    for path in (known, *files.values()):
        Path(path).chmod(0o600)
    with BackendServer(tls=server_context(ca)) as backend:
        where = address(url=backend.url, ca_file=known, clock_believed=clock_believed, **files)
        exchanges.fork(where)
        assert isinstance(exchanges.pull(where), Pulled)


def test_public_authorities_are_known_to_it(exchanges: Synchronisers) -> None:
    """They lie where the package is, which may be out of its reach."""
    with BackendServer(tls=server_context(authority())) as backend:
        where = address(url=backend.url)
        exchanges.fork(where)
        failed = exchanges.pull(where)
    assert isinstance(failed, ExchangeFailed)
    assert failed.kind is ErrorKind.UNTRUSTED


def test_a_file_is_read_for_it_and_reports_are_appended(
    exchanges: Synchronisers, actions: Path
) -> None:
    where = address("file", path=str(actions))
    exchanges.fork(where)
    pulled = exchanges.pull(where)
    assert isinstance(pulled, Pulled)
    assert pulled.total == 1
    assert exchanges.send(where, REPORT) == Taken(1, ("k1",))
    journal = Path(f"{actions}.status.jsonl")
    assert json.loads(journal.read_text())["key"] == "k1"
    assert journal.stat().st_uid == 0


# --- and what stops it -------------------------------------------------------------------


@pytest.mark.parametrize("user", ["nobody-of-that-name", "0"])
def test_a_user_that_it_cannot_become_fails_each_exchange_and_is_named(
    user: str, exchanges: Synchronisers, backend: BackendServer
) -> None:
    where = address(url=backend.url, user=user)
    exchanges.fork(where)
    for _ in range(2):
        answer = exchanges.pull(where)
        if user == "0":
            assert isinstance(answer, Pulled), "the operator's own word"
            continue
        assert isinstance(answer, ExchangeFailed)
        assert answer.kind is ErrorKind.LOCAL
        assert "backend.user: there is no user 'nobody-of-that-name'" in answer.detail
    assert bool(backend.asked) == (user == "0")


def test_a_user_may_be_a_number(exchanges: Synchronisers, backend: BackendServer) -> None:
    where = address(url=backend.url, user=str(SECOND_USER))
    exchanges.fork(where)
    assert isinstance(exchanges.pull(where), Pulled)
    assert status_of_threads(exchanges.pid)[0]["Uid"].split() == [str(SECOND_USER)] * 4


def test_files_that_others_can_change_are_refused(
    exchanges: Synchronisers, backend: BackendServer, tmp_path: Path
) -> None:
    ca = authority()
    known = Path(ca_file(ca, tmp_path))
    files = {"ca_file": str(known), **client_files(ca, tmp_path), "token_file": secret(tmp_path)}
    with BackendServer(tls=server_context(ca)) as server:
        where = address(url=server.url, **files)
        exchanges.fork(where)
        assert isinstance(exchanges.pull(where), Pulled)
        for path in map(Path, files.values()):
            os.chown(path, SECOND_USER, -1)
            refused_for(exchanges, where, f"{path} belongs to user {SECOND_USER}")
            os.chown(path, 0, -1)
            path.chmod(path.stat().st_mode | 0o002)
            refused_for(exchanges, where, "can write it", "writable by everybody")
            path.chmod(path.stat().st_mode & ~0o002)
        asked = len(server.asked)
        os.chown(tmp_path, SECOND_USER, -1)
        refused_for(exchanges, where, f"{tmp_path} belongs to user {SECOND_USER}")
        assert len(server.asked) == asked


def refused_for(exchanges: Synchronisers, where: BackendAddress, *reasons: str) -> None:
    answer = exchanges.pull(where)
    assert isinstance(answer, ExchangeFailed)
    assert any(reason in answer.detail for reason in reasons), answer.detail


def test_it_leaves_when_its_channel_is_closed(
    exchanges: Synchronisers, backend: BackendServer
) -> None:
    where = address(url=backend.url)
    exchanges.fork(where)
    assert isinstance(exchanges.pull(where), Pulled)
    exchanges.channel.hang_up()
    wait_for(lambda: not Path(f"/proc/{exchanges.pid}").exists(), what="it leaves")
    wait_for(lambda: not exchanges.brokers(), what="its broker leaves")


def test_it_leaves_with_the_supervisor(exchanges: Synchronisers, backend: BackendServer) -> None:
    where = address(url=backend.url)
    exchanges.fork(where)
    assert isinstance(exchanges.pull(where), Pulled)
    exchanges.host.cut_lifeline()
    wait_for(lambda: not Path(f"/proc/{exchanges.pid}").exists(), what="it leaves")


# --- its broker --------------------------------------------------------------------------


def test_what_it_logs_its_broker_writes(actions: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with synchronisers() as exchanges:
        exchanges.fork(address("file", path=str(actions)))
        (pid,) = wait_for(exchanges.brokers, what="the broker")
        assert exchanges.channel.send(None)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), what="both leave")
        said = "error   Synchroniser: The synchroniser leaves: cannot read"
        assert said in capfd.readouterr().err


def test_what_a_synchroniser_says_is_its_word_and_bounded(
    actions: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with served_broker(address("file", path=str(actions))) as ours:
        for number in range(3 * OF_A_PROCESS.at_once):
            text = f"{number}\n2026-01-01T00:00:00.000Z info    Started a\x1b[0m" + "x" * 5000
            ours.send(msgspec.msgpack.encode(Say("info", text, "run-started", 0)))
        ours.send(msgspec.msgpack.encode(OpenFile("path")))
        assert socket.recv_fds(ours, 4096, 1)[1], "it serves all the same"
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == OF_A_PROCESS.at_once
    for line in lines:
        said = json.loads(line)
        assert said["event"] == "synchroniser-said"
        assert said["message"].startswith("Synchroniser: ")
    assert max(map(len, lines)) < 2 * MESSAGE_BYTES_MAX


def test_its_broker_leaves_with_it(exchanges: Synchronisers, actions: Path) -> None:
    where = address("file", path=str(actions))
    exchanges.fork(where)
    exchanges.pull(where)
    assert len(exchanges.brokers()) == 1
    os.kill(exchanges.pid, signal.SIGKILL)
    wait_for(lambda: not exchanges.brokers(), what="the broker leaves")


def test_it_leaves_when_its_broker_is_gone(exchanges: Synchronisers, actions: Path) -> None:
    where = address("file", path=str(actions))
    exchanges.fork(where)
    (pid,) = wait_for(exchanges.brokers, what="the broker")
    os.kill(pid, signal.SIGKILL)
    answer = exchanges.pull(where)
    assert isinstance(answer, ExchangeFailed)
    assert "the file broker is gone" in answer.detail
    wait_for(lambda: not Path(f"/proc/{exchanges.pid}").exists(), what="it leaves")


def test_brokers_that_hang_are_few(exchanges: Synchronisers, actions: Path) -> None:
    where = address("file", path=str(actions))
    hung: list[int] = []
    try:
        for _ in range(BROKERS_MAX):
            exchanges.fork(where)
            (pid,) = wait_for(lambda: {*exchanges.brokers()} - {*hung}, what="another broker")
            os.kill(pid, signal.SIGSTOP)
            hung.append(pid)
            os.kill(exchanges.pid, signal.SIGKILL)
        answer = exchanges.asked_for(where)
        assert isinstance(answer, ForkFailed)
        assert "file brokers hang" in answer.detail
    finally:
        for pid in hung:
            os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not exchanges.brokers(), what="they leave")
    exchanges.fork(where)
    assert isinstance(exchanges.pull(where), Pulled)


@pytest.mark.parametrize("asked", [b"\xc1", b"x" * 70_000, b""])
def test_a_broker_answers_what_it_cannot_read_or_leaves(
    asked: bytes, actions: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever has taken the synchroniser over has the other end."""
    with served_broker(address("file", path=str(actions))) as ours:
        if asked:
            ours.send(asked)
            assert b"cannot read a message" in ours.recv(4096)
    assert capfd.readouterr().err == ""
