"""`geosched-ctl` as a user runs it, and a daemon of canned answers for it to ask."""

import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from geosched.ipc.messages import control, views
from geosched.ipc.messages.control import Answer, Call, RefusalKind, Refused, Reply, Request
from geosched.ipc.sockets import Poller, Server, new_context

COMMAND = Path(sys.executable).with_name("geosched-ctl")
UNREADABLE = Refused(RefusalKind.BAD_REQUEST, "cannot read a message: unknown verb")
Script = Callable[[Request], list[Answer]]


class CannedDaemon:
    """Answers each request with what `script` makes of it, in a thread of its own.

    `seen` are the requests, in order.
    """

    def __init__(self, path: Path, script: Script) -> None:
        self.path = path
        self.seen: list[Request] = []
        self._script = script
        self._up = threading.Event()
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        assert self._up.wait(10)

    def _serve(self) -> None:
        context = new_context()
        server: Server[Call, Reply] = Server(context, self.path, receives=Call, mode=0o660)
        poller = Poller()
        poller.watch(server)
        self._up.set()
        while not self._leave.is_set():
            poller.wait(0.02)
            for peer, call in server.drain(16):
                assert isinstance(call, Call), call
                self.seen.append(call.request)
                for answer in self._script(call.request):
                    number = 0 if answer == UNREADABLE else call.number
                    server.send(peer.routing_id, Reply(number, answer))
        server.close()
        context.term()

    def close(self) -> None:
        self._leave.set()
        self._thread.join(10)


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GEOSCHED_")}
    return {**kept, **more}


def ctl(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def ctl_at(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ctl("--socket", str(place / "control.sock"), *arguments)


#: Commands that may still run when a test ends.
STARTED: list[subprocess.Popen[bytes]] = []


def started(place: Path, *arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [COMMAND, "--socket", place / "control.sock", *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=stderr,
        bufsize=0,  # a second line that was read with the first is not seen by `select`
    )
    STARTED.append(process)
    return process


def answering(*answers: Answer) -> Script:
    return lambda _: list(answers)


def action(action_id: str, from_date: str = "2026-11-23T08:00:00.000Z") -> views.ActionView:
    return views.ActionView(
        action_id,
        from_date,
        "2027-11-23T08:00:00.000Z",
        True,
        True,
        ("Chrome",),
        "default",
        None,
        "scheduled",
        None,
        "",
        0,
    )


PONG = control.Pong(4711, "0.1.0")
OUTPUT = b"".join(b"line %06d\n" % number for number in range(20_000)) + b"\xff\x1b[31mend"


def log_of(output: bytes, *, ended: bool = True) -> Script:
    def read(request: Request) -> list[Answer]:
        assert isinstance(request, control.ReadLog)
        start = request.offset if request.offset >= 0 else max(0, len(output) + request.offset)
        data = output[start : start + control.LOG_CHUNK_BYTES_MAX]
        over = ended and start + len(data) == len(output)
        return [control.LogChunk("r2", request.attempt or 2, start, data, over)]

    return read


def read_line(asking: subprocess.Popen[bytes]) -> bytes:
    assert asking.stdout is not None
    readable, _, _ = select.select([asking.stdout], [], [], 10)
    assert readable, "nothing came within 10 s"
    return asking.stdout.readline()
