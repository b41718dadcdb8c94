"""A synchroniser that was taken over says what it likes: it is killed, and its exchange failed."""

from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.actions import Action
from geosched.ipc.messages.sync import (
    BYTES_OF_A_BODY_BYTE_MAX,
    LONG_OVER_US,
    Connected,
    ErrorKind,
    ExchangeFailed,
    FromSynchroniser,
    NotModified,
    Page,
    Pull,
    Pulled,
    Taken,
)
from geosched.ipc.wire import ProtocolError
from geosched.supervisor.core.model import Instant
from geosched.supervisor.sync.exchange import REASON_CHARS_MAX, Failed, PullDone, ReportsDone
from support.exchange_side import MAX_ACTIONS, MAX_BODY_BYTES, Side

NOW_US = 1_795_420_800_000_000
HOUR_US = 3600 * 1_000_000


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path)


def action(number: int = 0, **changes: Any) -> Action:
    given = {"id": f"a{number}", "from_us": NOW_US, "to_us": NOW_US + HOUR_US} | changes
    return Action(should_be_executed=True, **given)


def pages(count: int, of_each: int, **changes: Any) -> list[FromSynchroniser]:
    return [
        Page(1, tuple(action(of_each * page + n, **changes) for n in range(of_each)))
        for page in range(count)
    ]


def pulls(side: Side, *, etag: str = "known") -> None:
    side.runner.pull(Instant(NOW_US, side.seconds), etag=etag, digest="")
    side.forked()
    side.wait(0)
    assert len(side.orders) == 1


#: What no honest synchroniser says to a pull, and a word of the reason.
LIES: dict[str, tuple[list[Any], str]] = {
    "bytes": ([ProtocolError("cannot read a message: " + "x" * 10_000)], "cannot read"),
    "an empty page": ([Page(1)], "empty"),
    "another exchange": ([Page(2, (action(),))], "no exchange"),
    "verdicts": ([Taken(1, ())], "verdicts"),
    "it connects twice": ([Connected()], "twice"),
    "an end before its beginning": ([Page(1, (action(to_us=NOW_US),))], "toDate"),
    "a beginning before 1970": ([Page(1, (action(from_us=-1),))], "toDate"),
    "a line end in an id": ([Page(1, (action(id="a\nb"),))], "control"),
    "a line end in a name": ([Page(1, (action(app_names=("a\x1b",)),))], "control"),
    "a type that is no word": ([Page(1, (action(type="a/b"),))], "type"),
    "no type": ([Page(1, (action(type=""),))], "type"),
    "args that are no JSON": ([Page(1, (action(args='"}, "id": "b"'),))], "canonical"),
    "args that are raw": ([Page(1, (action(args='{"b":1, "a":2}'),))], "canonical"),
    "args with an escape": ([Page(1, (action(args='"\\u001b"'),))], "canonical"),
    "args of nothing": ([Page(1, (action(args="null"),))], "canonical"),
    "args without end": ([Page(1, (action(args="[" * 5000),))], "canonical"),
    "too many actions": (pages(MAX_ACTIONS // 50 + 1, 50), f"more than {MAX_ACTIONS} actions"),
    "a page that takes long to look at": (
        pages(1, 3, app_names=("x" * 250,) * 400),
        "a page of 30",
    ),
    "too many bytes": (
        pages(BYTES_OF_A_BODY_BYTE_MAX * 5, 20, app_names=("x" * 250,) * 4, to_us=NOW_US + 1)[:20]
        + [Page(1, set_aside_ids=("i" * 200,) * 500) for _ in range(20)],
        "more than",
    ),
    "pages missing": ([Page(1, (action(),)), Pulled(1, 2, "", "")], "without all"),
}


@pytest.mark.parametrize("lie", LIES)
def test_who_says_to_a_pull_what_no_honest_one_says_is_killed(lie: str, side: Side) -> None:
    said, reason = LIES[lie]
    pulls(side)
    for message in said:
        side.say(message)
    outcome = side.wait(0)
    assert isinstance(outcome, Failed)
    assert (outcome.pull, outcome.kind) == (True, ErrorKind.LOCAL)
    assert reason in outcome.detail
    assert len(outcome.detail) < REASON_CHARS_MAX + 100
    assert side.killed == side.forking
    assert side.runner.bad_messages == 1
    assert not side.runner.may(pull=True, now=side.now), "the next one comes after a pause"


def test_nothing_is_unmodified_where_nothing_is_known(side: Side) -> None:
    pulls(side, etag="")
    side.say(NotModified(1))
    assert isinstance(side.wait(0), Failed)
    assert side.killed == side.forking


@pytest.mark.parametrize(
    "said",
    [
        Page(1, (action(),)),
        Pulled(1, 0, "", ""),
        NotModified(1),
        Taken(1, ("k3",)),
        Taken(1, ("k1", "k1")),
        Taken(1, ("k1",), (("k1", "no"),)),
        Taken(1, (), (("k1", "no"), ("k1", "no"))),
    ],
    ids=str,
)
def test_who_says_to_reports_what_no_honest_one_says_is_killed(said: Any, side: Side) -> None:
    side.report("k1", "k2")
    side.forked()
    side.wait(0)
    side.say(said)
    outcome = side.wait(0)
    assert isinstance(outcome, Failed)
    assert (outcome.pull, outcome.kind) == (False, ErrorKind.LOCAL)
    assert side.killed == side.forking


def test_who_speaks_without_being_asked_is_killed(side: Side) -> None:
    pulls(side)
    side.say(NotModified(1))
    assert side.wait(0) == PullDone(None)
    side.say(NotModified(1))
    assert side.wait(0) is None
    assert side.killed == side.forking


@pytest.mark.parametrize(
    "answers", [Pulled(1, 300, "e", "0" * 32), ExchangeFailed(1, ErrorKind.BUSY, "")]
)
def test_what_an_honest_one_says_is_taken(answers: Any, side: Side) -> None:
    """What is long over does not count towards `max_actions`."""
    pulls(side)
    over = {"from_us": 0, "to_us": NOW_US - LONG_OVER_US - 1}
    said = [*pages(2, 75), *pages(2, 75, args='{"a":[1,2.5],"b":"é"}', **over)]
    for message in (*said, answers):
        side.say(message)
    outcome = side.wait(0)
    if isinstance(answers, Pulled):
        assert isinstance(outcome, PullDone)
        assert outcome.snapshot is not None
        assert len(outcome.snapshot.pages) == 4
    else:
        assert isinstance(outcome, Failed)
        assert outcome.kind is ErrorKind.BUSY
    assert side.killed == []


def test_some_verdicts_may_be_missing(side: Side) -> None:
    side.report("k1", "k2", "k3")
    side.forked()
    side.wait(0)
    taken = Taken(1, ("k2",), (("k3", "no"),))
    side.say(taken)
    assert side.wait(0) == ReportsDone(taken)


@pytest.mark.parametrize("kept", ["e" * 257, "a\r\nb: c", "é", "a b"])
def test_what_an_older_daemon_kept_is_not_sent_where_no_backend_can_have_given_it(
    kept: str, side: Side
) -> None:
    side.runner.pull(side.now, etag=kept, digest=kept)
    side.forked()
    side.wait(0)
    (order,) = side.orders
    assert isinstance(order, Pull)
    assert (order.etag, order.digest) == ("", "")


def test_a_snapshot_as_large_as_a_body_allows_is_taken(side: Side) -> None:
    """A number of JSON takes four times as many bytes where it is written canonically."""
    args = "[" + ",".join(["1000000000000000.0"] * 100) + "]"
    body_bytes = len("[" + ",".join(["1e15"] * 100) + "]")
    count = min(MAX_BODY_BYTES // body_bytes, MAX_ACTIONS)
    pulls(side)
    for message in (*pages(count // 50, 50, args=args), Pulled(1, 50 * (count // 50), "", "")):
        side.say(message)
    assert isinstance(side.wait(0), PullDone)
