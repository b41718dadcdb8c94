"""The simulated backend, and the process that speaks to it for the daemon.

Bodies are JSON, read by the real `read_snapshot` and answered by the real `carry_out`.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from geosched.ipc.instants import SECOND_US
from geosched.ipc.messages.sync import (
    Connected,
    ErrorKind,
    NotModified,
    Pull,
    Report,
    Send,
    Taken,
    ToSynchroniser,
)
from geosched.workers.sync.base import ExchangeError, Snapshot
from geosched.workers.sync.bodies.snapshot import digest_of, read_snapshot
from geosched.workers.sync.synchroniser import carry_out

from .world import World

if TYPE_CHECKING:
    from .host import Line

#: More than a daemon that is in trouble may ask of its backend (fact B8).
ASKED_PER_MINUTE_MAX = 40


class SimulatedBackend:
    """Holds actions and takes reports. `fault` is one of `FAULTS`, or ""."""

    def __init__(self, world: World, take: Callable[[Report, bool], None]) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.broken: list[Any] = []  # sent besides, and good for nothing
        self.fault = ""
        self.etags = world.chance(0.7)
        self.refused: dict[str, int] = {}  # by action: how often yet
        self.answered = Snapshot(())  # what the newest good answer to a pull meant
        self.asked: deque[int] = deque()  # when, in the last minute
        self._world, self._take = world, take

    def pull(self, pull: Pull) -> Snapshot | NotModified:
        self._count()
        self._fail(("down", "busy"))
        body = msgspec.json.encode([*self.entries.values(), *self.broken])
        if self.fault == "half":
            body = body[: len(body) // 2]
        etag = digest_of(body) if self.etags else ""
        whole = read_snapshot(body, etag, Pull(0, pull.backend, pull.now_us))
        assert isinstance(whole, Snapshot)
        self.answered = whole
        if etag and etag == pull.etag:
            return NotModified(pull.exchange)
        return read_snapshot(body, etag, pull)

    def send(self, send: Send) -> Taken:
        self._count()
        self._fail(("down", "busy"))
        accepted: list[str] = []
        refused: list[tuple[str, str]] = []
        for report in send.reports:
            if self.refused.get(report.action_id, 0) > 0:
                self.refused[report.action_id] -= 1
                refused.append((report.key, "not now"))
                self._take(report, False)
            else:
                accepted.append(report.key)
                self._take(report, True)
        self._fail(("deaf",))  # it has them, and cannot say so
        return Taken(send.exchange, tuple(accepted), tuple(refused))

    def _count(self) -> None:
        self.asked.append(self._world.now_us)
        while self.asked[0] < self._world.now_us - 60 * SECOND_US:
            self.asked.popleft()

    def _fail(self, faults: tuple[str, ...]) -> None:
        if self.fault in faults:
            kind = ErrorKind.BUSY if self.fault == "busy" else ErrorKind.UNREACHABLE
            raise ExchangeError(kind, self.fault, 300.0 if kind is ErrorKind.BUSY else 0.0)


FAULTS = ("down", "busy", "half", "deaf", "silent", "dies")


class SimulatedSynchroniser:
    def __init__(
        self, world: World, line: "Line", backend: SimulatedBackend, name: str, pid: int
    ) -> None:
        self.name, self.pid = name, pid
        self._world, self._line, self._backend = world, line, backend
        self._gone = False
        world.after(0.02, lambda: self._say(Connected()))

    def hear(self, message: ToSynchroniser) -> None:
        if self._backend.fault != "silent":
            self._world.after(self._world.random.uniform(0.02, 2.0), lambda: self._do(message))

    def be_killed(self) -> None:
        self._gone = True
        self._line.lost(self.name)

    def _do(self, order: Pull | Send) -> None:
        if self._gone or self._line.closed:
            return
        for message in carry_out(order, lambda _: self._backend):
            self._say(message)
            if self._backend.fault == "dies" and self._world.chance(0.3):
                self.be_killed()

    def _say(self, message: Any) -> None:
        if not self._gone:
            self._line.deliver(self, message)
