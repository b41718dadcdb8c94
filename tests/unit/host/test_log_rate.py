"""How many records of a kind the log takes, and how it tells of those that were left out."""

import logging
from collections.abc import Iterator

import pytest
from geosched.workers.host.log_rate import (
    KINDS_MAX,
    OF_A_USER,
    TELL_AGAIN_SECONDS,
    Rate,
    Rates,
)
from geosched.workers.host.log_relay import DroppingHandler, log_socket

FEW = Rate(3, 0.5)
KIND = ("Refused %s", 1000)


def admitted(rates: Rates, count: int, now: float, kind: tuple[str, int | None] = KIND) -> int:
    return sum(rates.admits(kind, FEW, now) for _ in range(count))


def test_so_many_come_at_once_and_then_so_many_each_second() -> None:
    rates = Rates()
    assert admitted(rates, 10, 0.0) == 3
    assert admitted(rates, 10, 2.0) == 1
    assert admitted(rates, 10, 1000.0) == 3


def test_one_kind_takes_nothing_from_another() -> None:
    rates = Rates()
    admitted(rates, 10, 0.0)
    assert admitted(rates, 1, 0.0, ("Refused %s", 1001)) == 1
    assert admitted(rates, 1, 0.0, ("Asked %s", 1000)) == 1


def test_what_was_left_out_is_told_a_while_later_and_once() -> None:
    rates = Rates()
    admitted(rates, 10, 5.0)
    assert rates.next_deadline() == 5.0 + TELL_AGAIN_SECONDS
    assert rates.left_out(5.0 + TELL_AGAIN_SECONDS - 0.1) == []
    assert rates.left_out(5.0 + TELL_AGAIN_SECONDS) == [(KIND, 7)]
    assert rates.left_out(1000.0) == []
    assert rates.next_deadline() is None


def test_no_more_kinds_are_held_than_may_be() -> None:
    rates = Rates()
    for uid in range(KINDS_MAX + 10):
        admitted(rates, 1, 0.0, ("Refused %s", uid))
    assert len(rates._kinds) == KINDS_MAX


class Written:
    """A handler whose records are read at once, by a clock of the test's own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.source, self.sink = log_socket()
        self.source.setblocking(False)
        self.handler = DroppingHandler(self.sink.fileno(), lambda: self.now)

    def say(self, text: str, *arguments: object, **more: object) -> list[str]:
        record = logging.LogRecord("x", logging.INFO, "", 0, text, arguments, None)
        vars(record).update(more)
        self.handler.emit(record)
        return self.taken()

    def taken(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.source.recv(1 << 16).decode().rstrip("\n"))
            except BlockingIOError:
                return found


@pytest.fixture
def written() -> Iterator[Written]:
    made = Written()
    with made.source, made.sink:
        yield made


def test_a_user_writes_few_records_whatever_is_in_them(written: Written) -> None:
    said = [written.say("Refused %s", number, askedBy=1000) for number in range(5000)]
    assert sum(map(len, said)) == OF_A_USER.at_once
    assert written.say("Refused %s", "x", askedBy=1001) == ["Refused x"]
    assert written.say("Ready") == ["Ready"]
    written.now = TELL_AGAIN_SECONDS
    assert written.handler.next_deadline() == written.now
    written.handler.tell_lost()
    (told,) = written.taken()
    assert told == (
        f"{5000 - OF_A_USER.at_once} more records of uid 1000 were left out, too many at once:"
        " Refused %s"
    )


def test_what_was_left_out_is_told_before_the_next_record(written: Written) -> None:
    for number in range(OF_A_USER.at_once + 2):
        written.say("Refused %s", number, askedBy=1000)
    written.now = TELL_AGAIN_SECONDS
    told, ready = written.say("Ready")
    assert told.startswith("2 more records of uid 1000")
    assert ready == "Ready"


def test_what_happens_to_hundreds_of_runs_at_once_is_all_written(written: Written) -> None:
    said = [written.say("Action %s ended", number) for number in range(1000)]
    assert sum(map(len, said)) == 1000
