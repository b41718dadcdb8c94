"""Rounds of killing what lost runs left: of all that are due at once, and no more than needed."""

import pytest
from geosched.ipc.messages.helper import EndTrees, Failed, LostRun, ToHelper, TreesEnded
from geosched.supervisor.host.helpers import Job
from geosched.supervisor.runs import lost_trees
from geosched.supervisor.runs.lost_trees import (
    ASK_AGAIN_SECONDS_MAX,
    KILL_AGAIN_SECONDS,
    ROUND_SECONDS,
    STRIKE_SECONDS,
    STUCK_AFTER_SECONDS,
    TREES_OF_A_ROUND_MAX,
    LostTrees,
)
from geosched.workers.host.cgroups import Containment


class Rounds:
    """Trees to end; the test plays the helper, and counts what is killed without one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[Job] = []
        self.struck: list[set[int]] = []
        self.trees = LostTrees(Containment("tree"))
        self.trees.help_by(self.submit)
        monkeypatch.setattr(lost_trees, "end_sessions", self.struck.append)

    def submit(self, request: ToHelper) -> Job:
        self.jobs.append(Job(request, 0.0))
        return self.jobs[-1]

    def asked(self) -> list[tuple[str, ...]]:
        requests = [job.request for job in self.jobs]
        return [
            tuple(run.run_id for run in request.runs)
            for request in requests
            if isinstance(request, EndTrees)
        ]

    def answer(self, at: float, *gone: str) -> None:
        self.jobs[-1].answer = TreesEnded(gone)
        assert self.trees.next_deadline(at) == at, "an answer is taken at once"
        self.trees.gather(at)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Rounds:
    return Rounds(monkeypatch)


def test_all_that_are_lost_are_ended_by_one_round(rounds: Rounds):
    trees = [rounds.trees.end(f"{number}", number, "worker") for number in range(40)]
    rounds.trees.gather(1.0)
    assert rounds.asked() == [tuple(f"{number}" for number in range(40))]
    assert rounds.struck == [set(range(40))]
    rounds.answer(1.2, *(f"{number}" for number in range(40)))
    assert all(tree.gone for tree in trees)
    assert rounds.trees.next_deadline(1.2) is None


def test_more_than_fit_a_request_take_the_next(rounds: Rounds):
    ids = [f"{number}" for number in range(TREES_OF_A_ROUND_MAX + 1)]
    for run_id in ids:
        rounds.trees.end(run_id, None, None)
    rounds.trees.gather(1.0)
    rounds.answer(1.1, *ids)
    assert [len(each) for each in rounds.asked()] == [TREES_OF_A_ROUND_MAX, 1]


def test_what_is_lost_during_a_round_is_killed_at_once_and_looked_for_in_the_next(rounds: Rounds):
    rounds.trees.end("a", 7, None)
    rounds.trees.gather(1.0)
    rounds.trees.end("b", 8, None)
    assert rounds.trees.next_deadline(1.1) == 1.1
    rounds.trees.gather(1.1)
    assert rounds.struck == [{7}, {8}]
    rounds.answer(1.2, "a")
    assert rounds.asked() == [("a",), ("b",)]


def test_a_round_that_found_something_is_followed_by_others_until_the_run_is_stuck(rounds: Rounds):
    tree = rounds.trees.end("a", 7, None)
    rounds.trees.gather(1.0)
    assert tree.looked_monotonic is None
    rounds.answer(1.1)
    assert tree.looked_monotonic == 1.1
    assert rounds.trees.next_deadline(1.1) == 1.1 + ROUND_SECONDS
    rounds.trees.gather(1.1 + ROUND_SECONDS)
    late = 1.1 + STUCK_AFTER_SECONDS
    rounds.answer(late)
    assert rounds.trees.next_deadline(late) == late + KILL_AGAIN_SECONDS


@pytest.mark.parametrize("failed", ["no helper", "failed look"])
def test_a_round_that_nobody_did_is_asked_for_again_ever_more_rarely(rounds: Rounds, failed: str):
    tree = rounds.trees.end("a", 7, None)
    now = 1.0
    for _ in range(12):
        rounds.trees.gather(now)
        if failed == "no helper":
            rounds.jobs[-1].why_not = "its helper could not be forked"
        else:
            rounds.jobs[-1].answer = Failed("Too many open files")
        rounds.trees.gather(now)
        asked = len(rounds.jobs)
        while len(rounds.jobs) == asked:
            then, now = now, rounds.trees.next_deadline(now) or now
            assert then < now <= then + STRIKE_SECONDS + 0.001, "it is killed meanwhile"
            rounds.trees.gather(now)
    assert tree.looked_monotonic is None, "nobody knows that anything is left"
    assert now > 3 * ASK_AGAIN_SECONDS_MAX
    rounds.answer(now, "a")
    assert tree.gone


def test_while_a_helper_hangs_what_needs_none_is_killed_again(rounds: Rounds):
    rounds.trees.end("a", 7, None)
    rounds.trees.gather(1.0)
    for second in range(1, 5):
        due = rounds.trees.next_deadline(1.0 + second - 0.5)
        assert due == 1.0 + second
        rounds.trees.gather(due)
    assert rounds.struck == [{7}] * 5
    assert len(rounds.jobs) == 1


def test_a_run_that_is_forgotten_is_ended_no_more(rounds: Rounds):
    rounds.trees.end("a", 7, None)
    rounds.trees.gather(1.0)
    rounds.trees.forget("a")
    rounds.answer(1.1)
    assert rounds.trees.next_deadline(1.1) is None


def test_a_request_names_the_worker_where_one_is_known(rounds: Rounds):
    rounds.trees.end("a", None, None)
    rounds.trees.end("b", 8, "worker-1")
    rounds.trees.gather(1.0)
    request = rounds.jobs[0].request
    assert isinstance(request, EndTrees)
    assert request.runs == (LostRun("a", None, ""), LostRun("b", 8, "worker-1", just_lost=True))
