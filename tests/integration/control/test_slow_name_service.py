"""A name service that hangs holds up neither a start nor a request; names count once it answers."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from geosched.ipc.messages.control import GetStatus, StatusIs
from geosched.ipc.paths import Runtime
from support.daemon import Daemon, entry, installation_for_everybody
from support.second_user import as_user
from support.wait import wait_for

NOBODY = 65_534
#: So long glibc waits for its cache of names, `nscd`, before it asks elsewhere.
SLOW_SECONDS = 4.0

#: Has the directory of `nscd` in its own name space alone, and becomes the daemon.
_WITH_NSCD = (
    'mount -t tmpfs none /run && mkdir /run/nscd && mount --bind "$0" /run/nscd && exec "$@"'
)

_SYNCS = """
import sys
from geosched.ipc.client import Client, RefusedError
from geosched.ipc.messages.control import Sync, Synced
from pathlib import Path
become()
try:
    with Client(Path(sys.argv[1])) as client:
        client.ask(Sync(wait=False), Synced)
    print("may act")
except RefusedError as refused:
    print(refused)
"""


class SilentNscd:
    """The cache of names of a host, which takes every question and answers none."""

    def __init__(self, place: Path) -> None:
        self.asked = 0
        self._held: list[socket.socket] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(place / "socket"))
        (place / "socket").chmod(0o666)
        self._socket.listen(64)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.asked += 1
            self._held.append(connection)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._socket.close()
        for connection in self._held:
            connection.close()


@contextmanager
def silent_nscd(place: Path) -> Iterator[SilentNscd]:
    place.mkdir(mode=0o755)
    made = SilentNscd(place)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with installation_for_everybody() as made:
        made.configure(scripts={"default": {"command": ["/bin/sh", "-c", "exit 0"]}})
        with made.config.open("a") as config:
            config.write('[control]\noperators = ["nobody", "no-such-user"]\n')
        runtime = made.root / "run"
        runtime.mkdir(mode=0o750)
        os.chown(runtime, 0, NOBODY)
        runtime.chmod(0o750)
        yield made


def status_of(daemon: Daemon) -> StatusIs | None:
    return daemon.asked(GetStatus(), StatusIs)


def told_as_nobody(daemon: Daemon) -> str:
    with as_user(NOBODY, _SYNCS, Runtime(daemon.root / "run").control_socket) as asking:
        return asking.communicate(timeout=30)[0].strip()


@pytest.mark.timeout(180)
def test_neither_a_start_nor_a_request_waits_for_names(daemon: Daemon) -> None:
    daemon.send([entry("a", 0.5, 600)])
    place = daemon.root / "nscd"
    with silent_nscd(place) as nscd:
        within = ("unshare", "--mount", "sh", "-c", _WITH_NSCD, str(place))
        daemon.start(by=within, wait=False)
        wait_for(lambda: status_of(daemon), seconds=60, what="a daemon that answers")
        wait_for(lambda: nscd.asked, seconds=10, what="a name that is looked up")
        asked_at = time.monotonic()
        assert pending(daemon) == ("nobody", "no-such-user")  # and yet it answers
        assert "not looked up yet: nobody" in told_as_nobody(daemon)
        daemon.wait_status("a", "FINISHED")  # what is due is not late either
        wait_for(lambda: "still being looked up" in daemon.log_text(), seconds=10)
        wait_for(lambda: not pending(daemon), seconds=60, what="the names, after all")
        assert time.monotonic() - asked_at > SLOW_SECONDS
    assert told_as_nobody(daemon) == "may act"
    found = status_of(daemon)
    assert found is not None
    assert found.status.operators.unknown == ("no-such-user",)
    assert "there is no user 'no-such-user'" in daemon.log_text()
    assert "no users of this host: no-such-user" in daemon.ctl("status").stdout
    assert daemon.terminate() == 0


def pending(daemon: Daemon) -> tuple[str, ...]:
    found = status_of(daemon)
    return ("?",) if found is None else found.status.operators.pending
