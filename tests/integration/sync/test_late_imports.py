"""A synchroniser without rights reads no module late: where the package is, it may not read."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from geosched.ipc.messages.sync import BackendAddress
from support.backend import BackendServer, address, entry
from support.faults import FAULTS
from support.oauth import OAuthServer, keep_tokens
from support.tls import Proxy, authority, ca_file, client_files, server_context

TIMEOUT_SECONDS = 1.0
#: Faults that one process meets: its own imports take longer than they do.
FAULTS_AT_ONCE = 12

#: Exchanges as a synchroniser has them, with everything that is imported once it has no rights.
PROGRAM = """
import os, socket, sys
import msgspec
from geosched.ipc.messages.sync import BackendAddress, Pull, Report, Send
from geosched.workers.sync import broker
from geosched.workers.sync.http import deadline
from geosched.workers.sync.http.client import load_late_parts
from geosched.workers.sync.synchroniser import WithoutRights, carry_out

def meets(backend):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asker = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        ours.close()
        os._exit(broker.main(theirs.detach(), backend, asker=asker))
    theirs.close()
    without_rights = WithoutRights(backend, broker.BrokeredFiles(ours))
    deadline.begin()
    without_rights.load(backend.kind)
    late = []
    sys.addaudithook(lambda event, given: late.append(given[0]) if event == "import" else None)
    report = Report("k1", "a", "STARTED", 0, 1, "r", None, None, "due")
    for order in (Pull(1, backend, 0), Send(2, backend, (report,))):
        for message in carry_out(order, without_rights.load):
            print(type(message).__name__, getattr(message, "detail", ""))
    for name in late:
        print("late:", name)

backends = [msgspec.json.decode(given, type=BackendAddress) for given in sys.argv[1:]]
if len(backends) == 1:
    meets(*backends)
    sys.exit()
load_late_parts()  # once for all that are forked
for backend in backends:
    child = os.fork()
    if child == 0:
        meets(backend)
        sys.exit()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(1)
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")


def said_of(*backends: BackendAddress) -> list[str]:
    """What came of pulls and of reports; nothing was imported meanwhile."""
    given = [msgspec.json.encode(where).decode() for where in backends]
    command = [sys.executable, "-P", "-c", PROGRAM, *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert "late:" not in done.stdout
    return done.stdout.splitlines()


def test_for_a_backend_that_is_well(tmp_path: Path) -> None:
    with BackendServer() as server:
        server.set_actions([entry("a")])
        for host in ("127.0.0.1", "localhost"):
            where = address(url=server.url.replace("127.0.0.1", host))
            assert said_of(where) == ["Page ", "Pulled ", "Taken "]


@pytest.mark.parametrize("first", range(0, len(FAULTS), FAULTS_AT_ONCE))
def test_for_backends_that_fail(first: int) -> None:
    with ExitStack() as running:
        servers = []
        for fault in list(FAULTS)[first : first + FAULTS_AT_ONCE]:
            servers.append(running.enter_context(BackendServer()))
            servers[-1].fault = fault
        said_of(*(address(url=one.url, timeout_seconds=TIMEOUT_SECONDS) for one in servers))


@pytest.mark.parametrize(
    "url", ["http://no-such-host.invalid/api", "http://127.0.0.1:1/api", "http://bücher.invalid/"]
)
def test_for_a_backend_that_is_not_there(url: str) -> None:
    assert all(line.startswith("ExchangeFailed ") for line in said_of(address(url=url)))


@pytest.mark.parametrize("how", ["known", "client", "unknown", "unbelieved"])
def test_for_tls(how: str, tmp_path: Path) -> None:
    ca = authority()
    fields = {} if how == "unknown" else {"ca_file": ca_file(ca, tmp_path)}
    fields |= client_files(ca, tmp_path) if how == "client" else {}
    with BackendServer(tls=server_context(ca)) as server, Proxy() as proxy:
        for where in (
            address(url=server.url, clock_believed=how != "unbelieved", **fields),
            address(url=server.url, proxy=proxy.url, **fields),
        ):
            good = ["Pulled ", "Taken "]
            assert (said_of(where) == good) == (how != "unknown")


def test_for_tokens_that_are_renewed(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    keep_tokens(tokens)
    with BackendServer(token="revoked") as server, OAuthServer() as oauth:
        oauth.issued = lambda token: setattr(server, "token", token)
        where = address(url=server.url, token_file=str(tokens), **oauth.client())
        assert said_of(where) == ["Pulled ", "Taken "]
        oauth.answers = [(400, {"error": "invalid_grant"})]
        server.token = "revoked"
        assert "log in with geosched-ctl login" in said_of(where)[0]


def test_for_a_file(tmp_path: Path) -> None:
    path = tmp_path / "actions.json"
    path.write_text("[]")
    assert said_of(address("file", path=str(path))) == ["Pulled ", "Taken "]
