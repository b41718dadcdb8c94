"""What ends a wait at once, and what waits for others."""

import os
import threading
import time
from collections.abc import Iterator

import pytest
from geosched.supervisor.host.news_poller import NewsPoller

#: Long enough that no busy host takes one for the other.
SHORT, LONG = 0.3, 20.0


class Pipes:
    """One that is watched patiently, and one that is not."""

    def __init__(self) -> None:
        self.patient, self.child = os.pipe()
        self.urgent, self.client = os.pipe()
        self.poller = NewsPoller()
        self.poller.watch_patiently(self.patient)
        self.poller.watch(self.urgent)

    def waited(self, timeout_seconds: float, together_seconds: float) -> float:
        begun = time.monotonic()
        self.poller.wait(timeout_seconds, together_seconds)
        return time.monotonic() - begun


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    for descriptor in (made.patient, made.child, made.urgent, made.client):
        os.close(descriptor)


def test_what_is_patient_waits_for_others(pipes: Pipes):
    os.write(pipes.child, b"x")
    assert SHORT * 0.9 <= pipes.waited(LONG, SHORT) < LONG / 2


def test_what_is_patient_waits_for_nobody_where_somebody_is_in_a_hurry(pipes: Pipes):
    os.write(pipes.child, b"x")
    assert pipes.waited(LONG, 0.0) < LONG / 2


def test_what_is_patient_never_waits_beyond_the_time_out(pipes: Pipes):
    os.write(pipes.child, b"x")
    assert pipes.waited(SHORT, LONG) < LONG / 2


def test_what_is_urgent_ends_the_wait_at_once(pipes: Pipes):
    os.write(pipes.client, b"x")
    assert pipes.waited(LONG, LONG) < LONG / 2


def test_what_is_urgent_ends_the_wait_of_what_is_patient(pipes: Pipes):
    os.write(pipes.child, b"x")
    later = threading.Timer(SHORT, os.write, (pipes.client, b"x"))
    later.start()
    assert SHORT * 0.9 <= pipes.waited(LONG, LONG) < LONG / 2
    later.join()


def test_with_nothing_to_hear_it_waits_until_the_time_out(pipes: Pipes):
    assert SHORT * 0.9 <= pipes.waited(SHORT, LONG) < LONG / 2
