"""Operators: numbers count at once, names once a helper has looked them up."""

import logging

import pytest
from geosched.ipc.messages.helper import Failed, FindUsers, FromHelper, UsersFound
from geosched.ipc.messages.views import OperatorsView
from geosched.supervisor.control.operators import (
    AGAIN_SECONDS,
    AGAIN_SECONDS_MAX,
    SLOW_SECONDS,
    Operators,
)
from geosched.supervisor.core.model import Instant
from geosched.supervisor.host.helpers import Job
from geosched.supervisor.participant import News

ANNA, BERT = 12_345, 12_346


class Helpers:
    """Which do nothing; the test answers."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, request: FindUsers, now: Instant, *, waited: bool) -> Job:
        assert not waited
        self.jobs.append(Job(request, now.monotonic_seconds))
        return self.jobs[-1]


class Looked:
    def __init__(self, *given: str) -> None:
        self.helpers = Helpers()
        self.operators = Operators(self.helpers, given)  # type: ignore[arg-type]

    def turn(self, seconds: float = 0.0) -> None:
        self.operators.gather(News(), Instant(0, seconds))

    def answer(self, answer: FromHelper, seconds: float = 0.0) -> None:
        self.helpers.jobs[-1].answer = answer
        self.turn(seconds)

    def due(self) -> float | None:
        return self.operators.next_deadline(Instant(0))

    @property
    def asked(self) -> list[tuple[str, ...]]:
        return [
            job.request.names for job in self.helpers.jobs if isinstance(job.request, FindUsers)
        ]


def test_a_number_counts_at_once_and_nobody_is_asked():
    looked = Looked("7", "008")
    looked.turn()
    assert [looked.operators.may_act(uid) for uid in (0, 7, 8, 9)] == [True, True, True, False]
    assert looked.asked == []
    assert looked.due() is None


def test_a_name_counts_once_it_is_found():
    looked = Looked("anna", "7")
    looked.turn()
    assert looked.asked == [("anna",)]
    assert not looked.operators.may_act(ANNA)
    assert looked.operators.may_act(7)
    assert looked.operators.view == OperatorsView(pending=("anna",))
    looked.answer(UsersFound({"anna": ANNA}))
    assert looked.operators.may_act(ANNA)
    assert looked.operators.view == OperatorsView()
    assert looked.due() is None


def test_a_name_of_no_user_is_told_and_looked_up_again(caplog: pytest.LogCaptureFixture):
    looked = Looked("anna", "bert")
    looked.turn()
    looked.answer(UsersFound({"anna": ANNA}))
    assert looked.operators.view == OperatorsView(unknown=("bert",))
    assert [record.event for record in caplog.records] == ["no-such-operator"]
    assert looked.due() == AGAIN_SECONDS
    looked.turn(AGAIN_SECONDS)
    assert looked.asked[1:] == [("bert",)]
    looked.answer(UsersFound({"bert": BERT}), AGAIN_SECONDS)
    assert looked.operators.may_act(ANNA)
    assert looked.operators.may_act(BERT)
    assert looked.due() is None


def test_what_cannot_be_looked_up_is_told_and_tried_less_and_less_often(
    caplog: pytest.LogCaptureFixture,
):
    looked = Looked("anna")
    now, waits = 0.0, []
    for _ in range(10):
        looked.turn(now)
        looked.answer(Failed("the table of users is broken"), now)
        due = looked.due()
        assert due is not None
        waits.append(due - now)
        now = due
    assert waits[:3] == [AGAIN_SECONDS, 2 * AGAIN_SECONDS, 4 * AGAIN_SECONDS]
    assert waits[-1] == AGAIN_SECONDS_MAX
    assert "the table of users is broken" in caplog.text
    assert looked.operators.view.pending == ("anna",)


def test_a_slow_lookup_is_told_of_once(caplog: pytest.LogCaptureFixture):
    looked = Looked("anna")
    looked.turn()
    assert looked.due() == SLOW_SECONDS
    for seconds in (SLOW_SECONDS, SLOW_SECONDS + 1):
        looked.turn(seconds)
    assert [record.event for record in caplog.records] == ["operators-pending"]
    assert looked.due() is None


def test_who_was_found_counts_while_a_reload_looks_it_up_once_more():
    looked = Looked("anna", "bert")
    looked.turn()
    looked.answer(UsersFound({"anna": ANNA, "bert": BERT}))
    looked.operators.permit(("anna", "carl"))
    assert looked.operators.may_act(ANNA)
    assert not looked.operators.may_act(BERT)
    assert looked.operators.view == OperatorsView(pending=("carl",))
    looked.turn(1)
    assert looked.asked[1:] == [("anna", "carl")]
    looked.answer(UsersFound({"anna": BERT}), 1)  # she has another account now
    assert [looked.operators.may_act(uid) for uid in (ANNA, BERT)] == [False, True]


def test_the_answer_to_what_was_asked_before_a_reload_counts_for_nothing(
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO)
    looked = Looked("anna")
    looked.turn()
    looked.operators.permit(("bert", "anna"))
    looked.answer(UsersFound({"anna": ANNA}))
    assert not looked.operators.may_act(ANNA)
    assert looked.asked[1:] == [("bert", "anna")]
    assert caplog.records == []


def test_a_name_that_is_gone_from_the_accounts_counts_no_more():
    looked = Looked("anna")
    looked.turn()
    looked.answer(UsersFound({"anna": ANNA}))
    looked.operators.permit(("anna",))
    looked.turn(1)
    looked.answer(UsersFound({}), 1)
    assert not looked.operators.may_act(ANNA)
    assert looked.operators.view == OperatorsView(unknown=("anna",))
