"""How many workers may be in the making."""

from geosched.supervisor.runs.fork_pace import (
    FORK_AGAIN_SECONDS,
    FORKS_PER_TURN_MAX,
    LATELY_SECONDS,
    MAKING_MIN,
    ForkPace,
)

NOW = 1000.0


def after(ready: int, *, at: float = NOW) -> ForkPace:
    pace = ForkPace()
    for _ in range(ready):
        pace.became_ready(at)
    return pace


def test_where_none_was_ready_yet_a_few_are_made():
    assert ForkPace().more(0, NOW) == MAKING_MIN
    assert ForkPace().more(MAKING_MIN - 1, NOW) == 1
    assert ForkPace().more(MAKING_MIN, NOW) == 0


def test_as_many_are_in_the_making_as_lately_became_ready():
    assert after(MAKING_MIN + 5).more(MAKING_MIN, NOW) == 5
    assert after(3).more(0, NOW) == MAKING_MIN


def test_what_became_ready_long_ago_counts_no_more():
    assert after(MAKING_MIN + 5).more(0, NOW + LATELY_SECONDS + 0.01) == MAKING_MIN


def test_one_turn_forks_no_more_than_it_has_time_for():
    assert after(10 * FORKS_PER_TURN_MAX).more(0, NOW) == FORKS_PER_TURN_MAX


def test_after_a_failure_none_is_forked_for_a_while():
    pace = after(5)
    pace.failed(NOW)
    assert pace.more(0, NOW + 0.5 * FORK_AGAIN_SECONDS) == 0
    assert pace.next_deadline(NOW) == NOW + FORK_AGAIN_SECONDS
    assert pace.more(0, NOW + FORK_AGAIN_SECONDS) == MAKING_MIN
    assert pace.next_deadline(NOW + FORK_AGAIN_SECONDS) is None
