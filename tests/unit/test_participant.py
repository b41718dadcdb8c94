"""A part of the loop names its deadline, or cannot be made."""

import inspect

import pytest
from geosched.supervisor.core.model import Instant
from geosched.supervisor.loop import Parts
from geosched.supervisor.participant import News, Participant

NOW = Instant(0, 100.0)


class Silent(Participant):
    def gather(self, news: News, now: Instant) -> None: ...


class Patient(Participant):
    def next_deadline(self, now: Instant) -> float | None:
        return now.monotonic_seconds + 1.0


def test_a_part_that_names_no_deadline_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="next_deadline"):
        Silent()  # type: ignore[abstract]


def test_what_a_part_does_in_a_turn_is_its_own_choice() -> None:
    part = Patient()
    part.gather(News(), NOW)
    part.after_turn(NOW)
    assert part.next_deadline(NOW) == 101.0


def test_every_part_of_the_loop_that_waits_for_something_is_one() -> None:
    """A part with a deadline that is no participant would be forgotten."""
    for name, part in inspect.get_annotations(Parts, eval_str=True).items():
        if hasattr(part, "next_deadline") and name != "agenda":  # which lookahead asks
            assert issubclass(part, Participant), name
