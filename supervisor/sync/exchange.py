"""Runner of exchanges with the backend: the synchroniser's orders, answers and deadline.

One exchange is under way at a time. It touches neither statuses nor daemonDB, and passes on a
snapshot only when it is whole. A synchroniser reads the network and may have been taken over:
one that says what no honest one says is killed, and its exchange has failed.
"""

import logging
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable

import msgspec
from msgspec.structs import replace

from ...ipc.actions import unsound
from ...ipc.channel import Channel
from ...ipc.messages.sync import (
    BYTES_OF_A_BODY_BYTE_MAX,
    DIGEST,
    ETAG,
    LONG_OVER_US,
    PAGE_BYTES_MAX,
    PAGE_HEAD_BYTES_MAX,
    BackendAddress,
    Connected,
    ErrorKind,
    ExchangeFailed,
    FromSynchroniser,
    NotModified,
    Page,
    Pull,
    Pulled,
    Report,
    Send,
    Taken,
    ToSynchroniser,
)
from ...ipc.wire import ProtocolError
from ...workers.host.linux import give_memory_back
from ...workers.host.liveness import Activity, AnswerWait, patience_seconds
from ..core.model import Instant
from ..host.children import Children
from ..participant import News
from .backoff import Backoff
from .packed_snapshot import PackedSnapshot, pack

log = logging.getLogger(__name__)

#: Connecting and handing pages over come on top of the backend's own time-out. A synchroniser
#: that is late is killed when it does nothing for this long, or uses as much processor time;
#: doubled with each that is killed, until one answers (law 17).
EXCHANGE_MARGIN_SECONDS = 3.0
EXCHANGE_MARGIN_SECONDS_MAX = 600.0
#: The most that one may be late, whatever it does.
EXCHANGE_LATE_SECONDS_MAX = 600.0
#: Synchronisers that may end during one exchange, or cannot be forked for it: a response that
#: ends each of them is not requested again and again until the deadline.
READERS_PER_EXCHANGE_MAX = 2
#: A synchroniser is killed after this long with nothing to do, and its memory is free again.
LINGER_SECONDS = 10.0
#: Of the reason why one was killed, which may quote it.
REASON_CHARS_MAX = 200


class PullDone(msgspec.Struct, frozen=True):
    """A pull succeeded; `snapshot` is None where the backend still has the stored one."""

    snapshot: PackedSnapshot | None


class ReportsDone(msgspec.Struct, frozen=True):
    """The backend responded to reports, and may have refused them."""

    taken: Taken


class Failed(msgspec.Struct, frozen=True):
    """An exchange failed: a pull, or else reports. `detail` is one sentence for people."""

    pull: bool
    kind: ErrorKind
    detail: str


Outcome = PullDone | ReportsDone | Failed


class _Exchange(msgspec.Struct):
    """The exchange under way; its pages so far, with their bytes, their actions, and those of them
    that count towards `max_actions`. From its deadline on it is late, and its synchroniser
    looked at."""

    number: int
    message: Pull | Send
    deadline_monotonic: float
    late: AnswerWait | None = None
    sent: bool = False
    readers_lost: int = 0
    pages: deque[bytes] = msgspec.field(default_factory=deque)
    set_aside_ids: deque[bytes] = msgspec.field(default_factory=deque)
    pages_bytes: int = 0
    actions: int = 0
    counted: int = 0

    def begin_anew(self) -> None:
        """Forget what a synchroniser said that is gone."""
        self.sent = False
        self.pages.clear()
        self.set_aside_ids.clear()
        self.pages_bytes = self.actions = self.counted = 0

    def take(self, page: Page) -> str:
        """Take a page, or say why no honest synchroniser sends it."""
        assert isinstance(self.message, Pull)
        if not page.actions and not page.set_aside_ids:
            return "an empty page"
        page_bytes = len(pack(page.actions))
        if len(page.actions) > 1 and page_bytes > PAGE_BYTES_MAX + PAGE_HEAD_BYTES_MAX:
            return f"a page of {page_bytes} bytes"  # looking at one takes as long as it is
        if reason := next(filter(None, map(unsound, page.actions)), ""):
            return reason
        counts_from_us = self.message.now_us - LONG_OVER_US
        backend = self.message.backend
        self.actions += len(page.actions)
        self.counted += sum(action.to_us >= counts_from_us for action in page.actions)
        if self.counted > backend.max_actions:
            return f"more than {backend.max_actions} actions"
        for pages, content in (
            (self.pages, page.actions),
            (self.set_aside_ids, page.set_aside_ids),
        ):
            if content:
                pages.append(pack(content))
                self.pages_bytes += len(pages[-1])
        if self.pages_bytes > BYTES_OF_A_BODY_BYTE_MAX * backend.max_body_bytes:
            return f"more than a body of {backend.max_body_bytes} bytes can hold"
        return ""


class ExchangeRunner:
    """Orders exchanges from the synchroniser, and forks and kills it as they need.

    `pull` and `report` begin an exchange, `gather` continues it and returns its outcome. A
    failed exchange begins a wait of `backoff`; the caller tells `backoff` of a success, once
    its outcome is on disk. `address` is the backend's from the next exchange on.
    """

    def __init__(
        self,
        channel: Channel[FromSynchroniser, ToSynchroniser],
        children: Children,
        address: BackendAddress,
        backoff: Backoff,
        *,
        monotonic_seconds: Callable[[], float],
    ) -> None:
        self._channel = channel
        self.address = address
        self.backoff = backoff
        self.bad_messages = 0
        self._monotonic_seconds = monotonic_seconds
        self._children = children
        self._exchange: _Exchange | None = None
        self._count = 0
        self._name: str | None = None
        self._given: dict[str, socket.socket] = {}  # to those that are being forked, by their names
        self._forked_for: BackendAddress | None = None
        self._connected = False
        self._killed_late = 0  # synchronisers, since one last answered
        self._idle_since_monotonic = 0.0

    @property
    def busy(self) -> bool:
        """An exchange is under way."""
        return self._exchange is not None

    @property
    def reports(self) -> bool:
        """An exchange of reports is under way."""
        return self._exchange is not None and isinstance(self._exchange.message, Send)

    def may(self, *, pull: bool, now: Instant) -> bool:
        """No exchange is under way, and the back-off allows one of this kind."""
        return not self.busy and self.backoff.may(pull=pull, now=now)

    def pull(self, now: Instant, *, etag: str, digest: str) -> None:
        """Begin a pull; both texts are those of the stored snapshot, or ""."""
        # An older daemon kept what it was told, whatever that was.
        etag = etag if re.match(ETAG, etag) else ""
        digest = digest if re.match(DIGEST, digest) else ""
        self._begin(Pull(self._next(), self._address(now), now.wall_us, etag, digest))

    def report(self, reports: Iterable[Report], now: Instant) -> None:
        """Begin to send reports, in this order."""
        self._begin(Send(self._next(), self._address(now), tuple(reports)))

    def _address(self, now: Instant) -> BackendAddress:
        return replace(self.address, clock_believed=now.believed)

    def gather(self, news: News, now: Instant) -> Outcome | None:
        """Continue the exchange under way; return its outcome once it is over."""
        outcome = self._hear(now)
        self._look_for_forked(news)
        if self._name is not None and (self._name in news.gone or self._name in news.failed):
            why = news.failed.get(self._name)
            self._dismiss()
            outcome = outcome or self._reader_lost(why, now)
        elif self._name is not None and self._channel.ended:
            self._children.kill(self._name)  # its end will be news
        outcome = outcome or self._judge(now)
        if outcome is None and self._exchange is not None:
            self._carry_on()
        self._let_go(now)
        return outcome

    def next_deadline(self) -> float | None:
        """Return the monotonic instant at which to look at a late exchange, or an idle
        synchroniser is killed."""
        if self._exchange is not None and self._is_being_forked:
            return None
        if self._exchange is not None:
            late = self._exchange.late
            return self._exchange.deadline_monotonic if late is None else late.next_look()
        if self._name is not None:
            return self._idle_since_monotonic + LINGER_SECONDS
        return None

    def abandon(self) -> None:
        """Kill the synchroniser and drop its exchange: the daemon leaves."""
        self._dismiss()
        self._exchange = None

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _begin(self, message: Pull | Send) -> None:
        """Order an exchange."""
        assert self._exchange is None
        if self._forked_for != _lasting(message.backend):
            self._dismiss()  # it has the files of other settings
        self._exchange = _Exchange(self._count, message, deadline_monotonic=0.0)
        self._begin_time(self._exchange)
        self._carry_on()

    def _begin_time(self, exchange: _Exchange) -> None:
        """Count its time from now, not from the turn's reading of the clock: a commit since then
        may have stalled for longer than the time-out."""
        exchange.deadline_monotonic = self._monotonic_seconds() + self.address.timeout_seconds
        exchange.late = None

    @property
    def _is_being_forked(self) -> bool:
        """There is no synchroniser yet: that is for `children` to judge."""
        return self._name is not None and self._children.get(self._name) is None

    def _carry_on(self) -> None:
        """Fork the synchroniser if there is none; send the order once it is connected."""
        assert self._exchange is not None
        if self._name is None:
            self._fork(self._exchange)
        elif self._connected and not self._exchange.sent:
            self._exchange.sent = self._channel.send(self._exchange.message)

    def _fork(self, exchange: _Exchange) -> None:
        try:
            given = self._channel.open()
        except OSError as error:  # no descriptor is left: it is tried again, until its time is over
            log.warning("Cannot have a synchroniser: %s", error, extra={"event": "no-synchroniser"})
            return
        self._name = f"synchroniser-{self._next()}"
        self._given[self._name] = given
        exchange.begin_anew()
        # Of the order, not of the settings by now: their files go with their address.
        self._forked_for = _lasting(exchange.message.backend)
        self._children.fork_synchroniser(self._name, given.fileno(), self._forked_for)

    def _look_for_forked(self, news: News) -> None:
        if self._exchange is not None and self._name in news.forked:
            self._begin_time(self._exchange)
        for name in [each for each in self._given if each in news.forked or each in news.failed]:
            self._given.pop(name).close()
            if name != self._name:
                self._children.kill(name)  # given up meanwhile

    def _hear(self, now: Instant) -> Outcome | None:
        for message in self._channel.drain():
            if isinstance(message, ProtocolError):
                return self._misled(str(message), now)
            if reason := self._refusal(message):
                return self._misled(reason, now)
            outcome = self._heard(message, now)
            if outcome is not None:
                return outcome
        return None

    def _refusal(self, message: FromSynchroniser) -> str:
        """Take a page. Say of any message why no honest synchroniser sends it now, or ""."""
        if isinstance(message, Connected):
            return "it connects twice" if self._connected else ""
        exchange = self._exchange
        if exchange is None or not exchange.sent or message.exchange != exchange.number:
            return "an answer to no exchange"
        order = exchange.message
        match message:
            case Page():
                return exchange.take(message) if isinstance(order, Pull) else "pages for reports"
            case Pulled():
                whole = isinstance(order, Pull) and exchange.actions == message.total
                return "" if whole else "a snapshot without all its pages"
            case NotModified():
                known = isinstance(order, Pull) and (order.etag or order.digest)
                return "" if known else "no snapshot is known"
            case Taken(_, accepted, refused):
                asked = [] if isinstance(order, Pull) else [each.key for each in order.reports]
                named = [*accepted, *(key for key, _ in refused)]
                once = len(named) == len({*named} & {*asked})
                return "" if isinstance(order, Send) and once else "verdicts on no reports"
            case ExchangeFailed():
                return ""

    def _heard(self, message: FromSynchroniser, now: Instant) -> Outcome | None:
        exchange = self._exchange
        if isinstance(message, Connected) or exchange is None:
            self._connected = True
            return None
        self._killed_late = 0
        match message:
            case Page():
                return None
            case NotModified():
                return self._over(PullDone(None), now)
            case Pulled():
                snapshot = PackedSnapshot(exchange.pages, message, exchange.set_aside_ids)
                return self._over(PullDone(snapshot), now)
            case Taken():
                return self._over(ReportsDone(message), now)
            case ExchangeFailed(_, kind, detail, retry_after_seconds):
                return self._failed(kind, detail, now, retry_after_seconds)

    def _misled(self, reason: str, now: Instant) -> Outcome | None:
        """Kill a synchroniser that says what no honest one says; its exchange has failed."""
        self.bad_messages += 1
        detail = f"its synchroniser said what it may not: {reason[:REASON_CHARS_MAX]}"
        log.error("Killed %s: %s", self._name, detail, extra={"event": "bad-message"})
        self._dismiss()
        return None if self._exchange is None else self._failed(ErrorKind.LOCAL, detail, now)

    def _reader_lost(self, why_not_forked: str | None, now: Instant) -> Outcome | None:
        """Order it from another synchroniser: the first may have ended before it read the order.
        Then the back-off paces who is tried next: a host that cannot fork is not asked without
        end, and it can be seen why nothing is exchanged."""
        exchange = self._exchange
        if exchange is None:
            return None
        exchange.readers_lost += 1
        if exchange.readers_lost < READERS_PER_EXCHANGE_MAX:
            return None
        if why_not_forked is not None:
            return self._failed(ErrorKind.LOCAL, f"no synchroniser: {why_not_forked}", now)
        return self._failed(ErrorKind.LOCAL, "its synchroniser ended before it answered", now)

    def _judge(self, now: Instant) -> Outcome | None:
        """Kill a synchroniser that is late, and hangs: in the resolver, say (fact B1)."""
        exchange, name = self._exchange, self._name
        if exchange is None or self._is_being_forked:
            return None
        late_seconds = now.monotonic_seconds - exchange.deadline_monotonic
        if late_seconds < 0:
            return None
        activity = None if name is None else self._children.activity(name)
        if exchange.late is None:
            exchange.late = self._lateness(activity, now)
        hangs = exchange.late.hangs(now.monotonic_seconds, activity)
        if not hangs and late_seconds < EXCHANGE_LATE_SECONDS_MAX:
            return None
        self._dismiss()
        self._killed_late += 1
        detail = f"no whole answer within {self.address.timeout_seconds:g} s"
        return self._failed(ErrorKind.TIMEOUT, detail, now)

    def _lateness(self, activity: Activity | None, now: Instant) -> AnswerWait:
        margin_seconds = patience_seconds(
            EXCHANGE_MARGIN_SECONDS,
            tries_failed=self._killed_late,
            longest=EXCHANGE_MARGIN_SECONDS_MAX,
        )
        return AnswerWait(
            now.monotonic_seconds,
            activity,
            idle_seconds_max=margin_seconds,
            cpu_seconds_max=margin_seconds,
        )

    def _over(self, outcome: PullDone | ReportsDone, now: Instant) -> Outcome:
        """End the exchange. The back-off learns of a success once the outcome is on disk."""
        if isinstance(outcome, ReportsDone) and not outcome.taken.accepted:
            self.backoff.failed(pull=False, now=now)  # it answers, but takes nothing
        self._end(now)
        return outcome

    def _failed(
        self, kind: ErrorKind, detail: str, now: Instant, retry_after_seconds: float = 0.0
    ) -> Failed:
        assert self._exchange is not None
        pull = isinstance(self._exchange.message, Pull)
        self.backoff.failed(pull=pull, now=now, retry_after_seconds=retry_after_seconds)
        self._end(now)
        return Failed(pull, kind, detail)

    def _end(self, now: Instant) -> None:
        self._exchange = None
        self._idle_since_monotonic = now.monotonic_seconds

    def _let_go(self, now: Instant) -> None:
        """Kill a synchroniser that has been idle for a while."""
        lingered = now.monotonic_seconds - self._idle_since_monotonic > LINGER_SECONDS
        if self._exchange is None and self._name is not None and lingered:
            self._dismiss()
            give_memory_back()

    def _dismiss(self) -> None:
        """Have no synchroniser any more. None is asked to leave: it may have been taken over, and
        others may have its end of the channel."""
        if self._name is not None:
            self._children.kill(self._name)
        self._name, self._connected = None, False
        self._channel.hang_up()


def _lasting(address: BackendAddress) -> BackendAddress:
    """Return what of an address stays the same from one exchange to the next."""
    return replace(address, clock_believed=True)
