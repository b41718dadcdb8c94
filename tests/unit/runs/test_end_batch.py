"""Ends of runs wait for others, and for nothing else: which do, and for how long."""

from types import SimpleNamespace

import pytest
from geosched.ipc.messages.runs import EndCause, RunResult, StopReason
from geosched.supervisor.core.model import Instant
from geosched.supervisor.runs.end_batch import ENDS_WAIT_SECONDS_MAX, EndBatch
from geosched.supervisor.runs.live_run import LiveRun


class Pool:
    """The ends that it has heard, and the results that workers have kept."""

    def __init__(self) -> None:
        self.runs: dict[str, LiveRun] = {}
        self.ended: list[RunResult] = []
        self.kept: set[str] = set()
        self.cleanup = SimpleNamespace(keeps_result=self.kept.__contains__)

    def hear(self, run_id: str, *, stop: StopReason | None = None, kept: bool = True) -> None:
        self.runs[run_id] = LiveRun(run_id, run_id, 1, worker="worker-1", stop=stop)
        self.ended.append(RunResult(run_id, EndCause.EXITED, 0, exit_code=0))
        if kept:
            self.kept.add(run_id)

    def acknowledge(self, taken: list[RunResult]) -> None:
        self.ended = [end for end in self.ended if end not in taken]


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def batch(pool: Pool) -> EndBatch:
    return EndBatch(pool)  # type: ignore[arg-type]


def taken(batch: EndBatch, seconds: float, *, in_company: bool = False) -> list[str]:
    ends = batch.take(Instant(0, seconds), in_company=in_company)
    assert ends == batch.taken
    return [end.run_id for end in ends]


def test_an_end_waits_for_company_and_comes_with_it(pool: Pool, batch: EndBatch):
    pool.hear("a")
    assert taken(batch, 1.0) == []
    assert taken(batch, 1.01, in_company=True) == ["a"]


def test_an_end_without_company_is_taken_when_its_time_is_over(pool: Pool, batch: EndBatch):
    pool.hear("a")
    assert taken(batch, 1.0) == []
    due = batch.next_deadline(Instant(0, 1.0))
    assert due == 1.0 + ENDS_WAIT_SECONDS_MAX
    pool.hear("b")  # which makes it wait no longer
    assert taken(batch, due - 0.001) == []
    assert taken(batch, due) == ["a", "b"]


def test_the_next_end_has_a_wait_of_its_own(pool: Pool, batch: EndBatch):
    pool.hear("a")
    taken(batch, 1.0)
    pool.acknowledge(batch.take(Instant(0, 2.0), in_company=False))
    assert taken(batch, 2.0) == []
    assert batch.next_deadline(Instant(0, 2.0)) is None
    pool.hear("b")
    assert taken(batch, 3.0) == []
    assert batch.next_deadline(Instant(0, 3.0)) == 3.0 + ENDS_WAIT_SECONDS_MAX


def test_an_end_that_nobody_keeps_does_not_wait_and_takes_others_along(pool: Pool, batch: EndBatch):
    pool.hear("a")
    assert taken(batch, 1.0) == []
    pool.hear("b", kept=False)
    assert taken(batch, 1.001) == ["a", "b"]


@pytest.mark.parametrize("stop", [None, *StopReason])
def test_an_end_waits_unless_somebody_has_stopped_its_run(
    pool: Pool, batch: EndBatch, stop: StopReason | None
):
    pool.hear("a", stop=stop)
    waits = stop in (None, StopReason.WINDOW_OVER)
    assert taken(batch, 1.0) == ([] if waits else ["a"])


def test_a_run_that_no_worker_had_and_one_that_is_forgotten_do_not_wait(
    pool: Pool, batch: EndBatch
):
    pool.hear("a")
    pool.runs["a"].worker = None
    assert taken(batch, 1.0) == ["a"]
    pool.runs.clear()
    assert taken(batch, 1.0) == ["a"]
