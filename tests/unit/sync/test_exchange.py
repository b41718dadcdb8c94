"""The time of an exchange: a synchroniser that is late is killed where it hangs, and no other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc.messages.sync import (
    BackendAddress,
    Connected,
    ErrorKind,
    FromSynchroniser,
    Leave,
    NotModified,
    Pull,
    ToSynchroniser,
)
from geosched.ipc.sockets import Peer
from geosched.supervisor.core.model import Instant
from geosched.supervisor.participant import News
from geosched.supervisor.sync.backoff import Backoff
from geosched.supervisor.sync.exchange import (
    EXCHANGE_LATE_SECONDS_MAX,
    EXCHANGE_MARGIN_SECONDS,
    READERS_PER_EXCHANGE_MAX,
    ExchangeRunner,
    Failed,
    Outcome,
    PullDone,
)
from geosched.workers.host.liveness import Activity

TIMEOUT_SECONDS = 30.0
ASLEEP = Activity(7, 1.0, runnable=False)
STARVED = Activity(7, 1.0, runnable=True)


class Side:
    """All that an exchange runner deals with: server, children, clock."""

    endpoint = "ipc://nowhere"

    def __init__(self, runtime_dir: Path) -> None:
        self.seconds = 100.0
        self.does = ASLEEP
        self.forking: list[str] = []
        self.forked_for: list[BackendAddress] = []
        self.killed: list[str] = []
        self.orders: list[ToSynchroniser] = []
        self._living: set[str] = set()
        self._said: list[tuple[Peer, FromSynchroniser]] = []
        self._news = News()
        address = BackendAddress(kind="http", timeout_seconds=TIMEOUT_SECONDS)
        backoff = Backoff(runtime_dir / "backoff", self.now)
        self.runner = ExchangeRunner(
            self, self, address, backoff, monotonic_seconds=lambda: self.seconds
        )

    # --- the children -------------------------------------------------------------------

    def fork_synchroniser(self, name: str, _endpoint: str, backend: BackendAddress) -> None:
        self.forking.append(name)
        self.forked_for.append(backend)

    def get(self, name: str) -> object | None:
        return self if name in self._living else None

    def activity(self, name: str) -> Activity | None:
        return self.does if name in self._living else None

    def kill(self, name: str) -> None:
        self.killed.append(name)
        self._living.discard(name)

    # --- the server ---------------------------------------------------------------------

    def drain(self, _messages_max: int) -> Iterator[tuple[Peer, FromSynchroniser]]:
        said, self._said = self._said, []
        yield from said

    def send(self, _routing_id: bytes, message: ToSynchroniser) -> bool:
        self.orders.append(message)
        return True

    # --- what happens -------------------------------------------------------------------

    @property
    def now(self) -> Instant:
        return Instant(0, self.seconds)

    def pull(self) -> None:
        self.runner.pull(self.now, etag="", digest="")

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
        self._said.append((Peer(self.forking[-1].encode(), 0, 0, 7), message))

    def answer(self) -> None:
        order = self.orders[-1]
        assert isinstance(order, Pull)
        self.say(NotModified(order.exchange))

    def wait(self, seconds: float) -> Outcome | None:
        """The outcome within the time, of a loop that turns when the runner wants it to."""
        until = self.seconds + seconds
        while True:
            news, self._news = self._news, News()
            outcome = self.runner.gather(news, self.now)
            if outcome is not None or self.seconds >= until:
                return outcome
            due = self.runner.next_deadline()
            self.seconds = until if due is None else min(until, max(self.seconds, due) + 0.001)


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path)


def given_up_after(side: Side) -> float:
    """How long an exchange lasts whose synchroniser hangs."""
    side.pull()
    if side.forking[-1] not in side._living:
        side.forked()
    begun = side.seconds
    outcome = side.wait(1000)
    assert isinstance(outcome, Failed)
    assert outcome.kind is ErrorKind.TIMEOUT
    return side.seconds - begun


def test_a_synchroniser_that_hangs_is_killed_when_the_time_is_over(side: Side) -> None:
    took = given_up_after(side)
    assert took == pytest.approx(TIMEOUT_SECONDS + EXCHANGE_MARGIN_SECONDS, abs=0.1)
    assert side.killed == side.forking


def test_a_synchroniser_that_waits_for_a_processor_has_longer(side: Side) -> None:
    side.does = STARVED
    side.pull()
    side.forked()
    assert side.wait(10 * TIMEOUT_SECONDS) is None
    side.answer()
    assert side.wait(1) == PullDone(None)
    assert side.killed == []


def test_nothing_is_late_for_ever(side: Side) -> None:
    side.does = STARVED
    took = given_up_after(side)
    assert took == pytest.approx(TIMEOUT_SECONDS + EXCHANGE_LATE_SECONDS_MAX, abs=2)


def test_a_synchroniser_that_burns_late_is_killed(side: Side) -> None:
    side.does = STARVED
    side.pull()
    side.forked()
    assert side.wait(TIMEOUT_SECONDS + 1) is None
    side.does = Activity(7, 1.1 + EXCHANGE_MARGIN_SECONDS, runnable=True)
    assert isinstance(side.wait(2), Failed)
    assert side.killed


def test_each_that_is_killed_gives_the_next_one_twice_as_long_until_one_answers(
    side: Side,
) -> None:
    late = [given_up_after(side) - TIMEOUT_SECONDS for _ in range(4)]
    assert late == pytest.approx([EXCHANGE_MARGIN_SECONDS * 2**n for n in range(4)], rel=0.05)
    side.pull()
    side.forked()
    side.wait(1)
    side.answer()
    assert side.wait(1) == PullDone(None)
    assert given_up_after(side) - TIMEOUT_SECONDS < 1.1 * EXCHANGE_MARGIN_SECONDS


def test_the_time_counts_from_the_fork_which_is_not_the_backends_to_answer_for(
    side: Side,
) -> None:
    side.pull()
    assert side.wait(600) is None
    side.forked()
    assert side.wait(TIMEOUT_SECONDS) is None
    side.answer()
    assert side.wait(1) == PullDone(None)
    assert len(side.forking) == 1


@pytest.mark.parametrize("how", ["cannot fork", "ends at once"])
def test_a_synchroniser_that_cannot_be_had_ends_the_exchange_with_the_reason(
    side: Side, how: str
) -> None:
    side.pull()
    outcome = None
    for _ in range(READERS_PER_EXCHANGE_MAX):
        assert outcome is None
        if how == "cannot fork":
            side.not_forked("cannot fork: no memory")
        else:
            side.ends_at_once()
        outcome = side.wait(0)
    assert isinstance(outcome, Failed)
    assert outcome.kind is ErrorKind.LOCAL
    assert ("cannot fork: no memory" if how == "cannot fork" else "ended") in outcome.detail
    assert not side.runner.may(pull=True, now=side.now)
    assert len(side.forking) == READERS_PER_EXCHANGE_MAX


# --- the files of a backend ----------------------------------------------------------------


def test_each_synchroniser_has_the_files_of_the_settings_that_it_was_forked_for(side: Side) -> None:
    first = side.runner.address
    side.pull()
    assert side.forked_for == [first]
    side.forked()
    side.wait(0)
    side.answer()
    assert side.wait(1) == PullDone(None)
    side.pull()
    side.wait(0)
    side.answer()
    assert side.wait(1) == PullDone(None)
    assert side.forked_for == [first], "the same settings need no other"
    side.runner.address = BackendAddress(kind="http", token_file="/another")
    side.pull()
    assert Leave() in side.orders
    assert side.forked_for == [first, side.runner.address]


def test_settings_that_change_meanwhile_are_not_those_of_the_exchange(side: Side) -> None:
    """The token of one server must not be sent to another."""
    first = side.runner.address
    side.pull()
    side.runner.address = BackendAddress(kind="http", url="http://new", token_file="/another")
    side.ends_at_once()
    side.wait(0)
    assert side.forked_for == [first, first]


def test_a_clock_that_comes_to_be_believed_costs_no_synchroniser(side: Side) -> None:
    for believed in (False, True):
        at = Instant(0, side.seconds, believed=believed)
        side.runner.pull(at, etag="", digest="")
        if not believed:
            side.forked()
        side.wait(0)
        side.answer()
        side.wait(1)
    assert len(side.forking) == 1
