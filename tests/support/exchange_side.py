"""An exchange runner with all that it deals with: a channel, children, a clock."""

from collections.abc import Iterator
from pathlib import Path

from geosched.ipc.messages.sync import (
    BackendAddress,
    Connected,
    FromSynchroniser,
    NotModified,
    Pull,
    Report,
    ToSynchroniser,
)
from geosched.supervisor.core.model import Instant
from geosched.supervisor.participant import News
from geosched.supervisor.sync.backoff import Backoff
from geosched.supervisor.sync.exchange import ExchangeRunner, Outcome
from geosched.workers.host.liveness import Activity

TIMEOUT_SECONDS = 30.0
MAX_ACTIONS = 150
MAX_BODY_BYTES = 100 * 1024
ASLEEP = Activity(7, 1.0, runnable=False)
STARVED = Activity(7, 1.0, runnable=True)


class Side:
    """All that an exchange runner deals with: channel, children, clock."""

    ended = False

    def __init__(self, runtime_dir: Path) -> None:
        self.seconds = 100.0
        self.does = ASLEEP
        self.forking: list[str] = []
        self.forked_for: list[BackendAddress] = []
        self.killed: list[str] = []
        self.orders: list[ToSynchroniser] = []
        self._living: set[str] = set()
        self._said: list[FromSynchroniser] = []
        self._news = News()
        address = BackendAddress(
            kind="http",
            timeout_seconds=TIMEOUT_SECONDS,
            max_actions=MAX_ACTIONS,
            max_body_bytes=MAX_BODY_BYTES,
        )
        backoff = Backoff(runtime_dir / "backoff", self.now)
        self.runner = ExchangeRunner(
            self, self, address, backoff, monotonic_seconds=lambda: self.seconds
        )

    # --- the children -------------------------------------------------------------------

    def fork_synchroniser(self, name: str, _served: int, backend: BackendAddress) -> None:
        self.forking.append(name)
        self.forked_for.append(backend)

    def get(self, name: str) -> object | None:
        return self if name in self._living else None

    def activity(self, name: str) -> Activity | None:
        return self.does if name in self._living else None

    def kill(self, name: str) -> None:
        self.killed.append(name)
        self._living.discard(name)

    # --- the channel, and the end of a synchroniser ---------------------------------------

    def open(self) -> "Side":
        self.hang_up()
        return self

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        """Nothing was opened."""

    def hang_up(self) -> None:
        self._said.clear()

    def drain(self) -> Iterator[FromSynchroniser]:
        said, self._said = self._said, []
        yield from said

    def send(self, message: ToSynchroniser) -> bool:
        self.orders.append(message)
        return True

    # --- what happens -------------------------------------------------------------------

    @property
    def now(self) -> Instant:
        return Instant(0, self.seconds)

    def pull(self) -> None:
        self.runner.pull(self.now, etag="known", digest="")

    def report(self, *keys: str) -> None:
        reports = [Report(key, "a", "STARTED", 0, 1, "r", None, None, "due") for key in keys]
        self.runner.report(reports, self.now)

    def forked(self) -> None:
        """The zygote forks the newest that it was asked for, which connects."""
        name = self.forking[-1]
        self._living.add(name)
        self._news.forked[name] = 7
        self.say(Connected())

    def not_forked(self, why: str) -> None:
        """The zygote cannot fork the newest."""
        self._news.failed[self.forking[-1]] = why

    def ends_at_once(self) -> None:
        """The newest is forked, and ends before it connects."""
        self._news.forked[self.forking[-1]] = 7
        self._news.gone.append(self.forking[-1])

    def say(self, message: FromSynchroniser) -> None:
        self._said.append(message)

    def answer(self) -> None:
        order = self.orders[-1]
        assert isinstance(order, Pull)
        self.say(NotModified(order.exchange))

    def take_news(self) -> News:
        """What became of children since the last call."""
        news, self._news = self._news, News()
        return news

    def wait(self, seconds: float) -> Outcome | None:
        """The outcome within the time, of a loop that turns when the runner wants it to."""
        until = self.seconds + seconds
        while True:
            outcome = self.runner.gather(self.take_news(), self.now)
            if outcome is not None or self.seconds >= until:
                return outcome
            due = self.runner.next_deadline()
            self.seconds = until if due is None else min(until, max(self.seconds, due) + 0.001)
