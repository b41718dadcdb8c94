"""A user who may only look holds up nobody who may act, and writes nothing of their own into the
daemon's log."""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from geosched.ipc.paths import Runtime
from geosched.workers.host.log_rate import OF_A_USER, TELL_AGAIN_SECONDS
from support.daemon import Daemon, entry, installation_for_everybody
from support.router import HELLO
from support.second_user import SECOND_USER, as_user
from support.wait import wait_for

LONG = 3600
#: A forged record, and text that is read from the right to the left.
FORGED = 'x\n2026-11-28T00:00:00.000Z info    Stopped\r\n{"at": "2026"}\u202e\x1b[2J'
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [a-z]+ ")

#: Connects so often as may be, and sends on each whatever is to be sent, again and again.
_ASKS = """
import socket, sys, msgspec
from geosched.ipc.zmtp import frame
become()
HELLO = bytes.fromhex(sys.argv[2])
requests = [frame(msgspec.msgpack.encode({"number": n, "request": request}))
            for n, request in enumerate(msgspec.json.decode(sys.argv[3]))]
held = []
for _ in range(int(sys.argv[4])):
    each = socket.socket(socket.AF_UNIX)
    each.connect(sys.argv[1])
    each.sendall(HELLO + b"".join(requests))
    each.settimeout(0.01)
    held.append(each)
print("asked", flush=True)
while True:
    for each in held:
        try:
            each.recv(1 << 20)
            each.sendall(b"".join(requests))
        except TimeoutError:
            pass
        except OSError:
            held.remove(each)
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with installation_for_everybody() as made:
        stays = made.script("stays", "note began; while :; do sleep 0.1; done")
        made.configure(scripts={"default": {"command": [stays], "stop_grace": "300ms"}})
        with made.config.open("a") as config:
            config.write('[control]\noperators = ["root", "nobody"]\n')
        made.send([entry("a", -1, LONG)])
        runtime = made.root / "run"
        runtime.mkdir(mode=0o750)
        os.chown(runtime, 0, SECOND_USER)  # who may look, then
        runtime.chmod(0o750)
        yield made


@contextmanager
def asking(daemon: Daemon, *requests: dict[str, object], connections: int = 32) -> Iterator[None]:
    path = Runtime(daemon.root / "run").control_socket
    given = (path, HELLO.hex(), json.dumps(requests), str(connections))
    with as_user(SECOND_USER, _ASKS, *given) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "asked\n"
        yield
        assert stranger.poll() is None, "the stranger gave up"


def test_who_may_only_look_takes_no_place_of_those_who_act(daemon: Daemon) -> None:
    daemon.start()
    daemon.wait_phase("a", "running")
    waits: list[dict[str, object]] = [
        {"t": "events", "after": 10**9, "wait": True},
        {"t": "logs", "id": "a"},
        {"t": "sync"},
        {"t": "stop", "id": "a"},
    ]
    with asking(daemon, *waits * 4):
        for _ in range(3):
            assert daemon.ctl("sync").returncode == 0
            assert daemon.ctl("logs", "a").returncode == 0
        stopped = daemon.ctl("stop", "a")
        assert (stopped.returncode, stopped.stderr) == (0, "")
    assert daemon.wait_phase("a", "done")["executionStatus"] == "WONT_FINISH"


@pytest.mark.parametrize("style", ["text", "json"])
def test_who_may_only_look_forges_no_record_and_fills_no_log(daemon: Daemon, style: str) -> None:
    daemon.start("--log-format", style)
    said_before = len(lines(daemon))
    requests: list[dict[str, object]] = [
        {"t": FORGED},
        {"t": "list", "statuses": [FORGED], "cursor": FORGED},
        {"t": "show", "id": FORGED},
        {"t": "stop", "id": FORGED},
    ]
    with asking(daemon, *requests):
        time.sleep(2.0)
        wait_for(
            lambda: "were left out" in daemon.stderr.read_text(),
            seconds=2 * TELL_AGAIN_SECONDS + 5,
            what="the number of records that were left out",
        )
    said = lines(daemon)
    # Of a request that cannot be read, of one that is not permitted, of connections; and of what
    # was left out of each.
    assert len(said) - said_before < 5 * (OF_A_USER.at_once + 5)
    for line in said:
        assert line.isprintable(), line
        assert is_record(line, style), line
    assert daemon.terminate() == 0


def lines(daemon: Daemon) -> list[str]:
    return daemon.stderr.read_text().split("\n")[:-1]


def is_record(line: str, style: str) -> bool:
    if style == "json":
        return json.loads(line)["logger"].startswith("geosched.")
    return INSTANT.match(line) is not None
