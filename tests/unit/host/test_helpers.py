"""Jobs for helpers: how many are at work, and what becomes of those that hang."""

import os
import socket
from collections.abc import Iterator

import msgspec
import pytest
from geosched.ipc.messages.helper import (
    FilesRemoved,
    FindUsers,
    RemoveFiles,
    ToHelper,
    UsersFound,
)
from geosched.supervisor.core.model import Instant
from geosched.supervisor.host.helpers import (
    HELPERS_OF_A_KIND_MAX,
    IDLE_SECONDS_MAX,
    JOB_SECONDS_MAX,
    JOB_UNWAITED_SECONDS_MAX,
    JOBS_WAITING_OF_A_KIND_MAX,
    KEPT_AGAIN_SECONDS,
    Helpers,
)
from geosched.supervisor.participant import News
from geosched.workers.host.liveness import Activity

ASLEEP = Activity(7, 1.0, runnable=False)


class Children:
    """Forks nothing: the test plays the helpers."""

    def __init__(self) -> None:
        self.served: dict[str, socket.socket] = {}
        self.killed: list[str] = []
        self.does = ASLEEP

    def fork_helper(self, name: str, served: int) -> None:
        self.served[name] = socket.socket(fileno=os.dup(served))
        self.served[name].setblocking(False)

    def activity(self, _name: str) -> Activity | None:
        return self.does

    def kill(self, name: str) -> None:
        self.killed.append(name)

    def next_request(self, name: str) -> ToHelper | None:
        data = self.served[name].recv(1 << 18)
        return msgspec.msgpack.decode(data, type=ToHelper) if data else None

    def answer(self, name: str, answer: object) -> None:
        self.served[name].send(msgspec.msgpack.encode(answer))


@pytest.fixture
def children() -> Iterator[Children]:
    made = Children()
    yield made
    for served in made.served.values():
        served.close()


@pytest.fixture
def helpers(children: Children) -> Iterator[Helpers]:
    made = Helpers(children)  # type: ignore[arg-type]
    yield made
    made.close()


def at(seconds: float) -> Instant:
    return Instant(0, seconds)


def test_a_job_is_done_by_a_helper_which_is_kept_for_the_next(helpers: Helpers, children: Children):
    for uid in range(3):
        job = helpers.submit(FindUsers((str(uid),)), at(0))
        assert children.next_request("helper-1") == FindUsers((str(uid),))
        children.answer("helper-1", UsersFound({"anna": 1}))
        helpers.gather(News(forked={"helper-1": 1}), at(0))
        assert job.answer == UsersFound({"anna": 1})
    assert list(children.served) == ["helper-1"]


def test_an_idle_helper_leaves(helpers: Helpers, children: Children):
    helpers.submit(FindUsers(("anna",)), at(0))
    children.next_request("helper-1")
    children.answer("helper-1", UsersFound({"anna": 1}))
    helpers.gather(News(forked={"helper-1": 1}), at(1))
    assert helpers.next_deadline(at(1)) == 1 + IDLE_SECONDS_MAX
    helpers.gather(News(), at(1 + IDLE_SECONDS_MAX))
    assert children.next_request("helper-1") is None
    helpers.gather(News(gone=["helper-1"]), at(20))
    assert helpers.next_deadline(at(20)) is None


def test_hung_helpers_are_killed_counted_and_cost_no_other_kind_one(
    helpers: Helpers, children: Children
):
    jobs = [helpers.submit(RemoveFiles((f"{n}",)), at(0)) for n in range(HELPERS_OF_A_KIND_MAX + 1)]
    hung = list(children.served)
    assert len(hung) == HELPERS_OF_A_KIND_MAX
    helpers.gather(News(forked=dict.fromkeys(hung, 1)), at(0))
    helpers.gather(News(), at(JOB_SECONDS_MAX))
    assert all("did not answer" in job.why_not for job in jobs[:-1])
    assert "no helper was free" in jobs[-1].why_not
    assert children.killed == hung
    later = helpers.submit(RemoveFiles(("x",)), at(4))
    assert list(children.served) == hung  # the kernel holds them: no more are forked
    other = helpers.submit(FindUsers(("anna",)), at(4))
    children.answer(list(children.served)[-1], UsersFound({"anna": 1}))
    helpers.gather(News(), at(4))
    assert other.answer == UsersFound({"anna": 1})
    helpers.gather(News(gone=hung[:1]), at(5))  # the disk is back
    children.answer(list(children.served)[-1], FilesRemoved())
    helpers.gather(News(), at(5))
    assert later.answer == FilesRemoved()


def test_no_more_jobs_wait_than_may(helpers: Helpers):
    most = HELPERS_OF_A_KIND_MAX + JOBS_WAITING_OF_A_KIND_MAX
    jobs = [helpers.submit(FindUsers((str(uid),)), at(0)) for uid in range(most + 1)]
    assert [job.done for job in jobs] == [False] * most + [True]
    assert "wait already" in jobs[-1].why_not


@pytest.mark.parametrize(
    ("news", "why"),
    [
        (News(failed={"helper-1": "no memory"}), "its helper could not be forked: no memory"),
        (News(gone=["helper-1"]), "its helper was killed"),
    ],
    ids=("failed", "gone"),
)
def test_a_job_whose_helper_is_gone_is_told_how(helpers: Helpers, news: News, why: str):
    job = helpers.submit(FindUsers(("anna",)), at(0))
    helpers.gather(news, at(0))
    assert job.why_not == why


def test_a_helper_that_was_forked_too_late_is_killed(helpers: Helpers, children: Children):
    job = helpers.submit(FindUsers(("anna",)), at(0))
    helpers.gather(News(), at(JOB_SECONDS_MAX))
    assert job.done
    children.killed.clear()
    helpers.gather(News(forked={"helper-1": 1}), at(9))
    assert children.killed == ["helper-1"]


def look(helpers: Helpers, begin: float, seconds: float) -> float:
    """Turn when the helpers want it to; return the instant of the last turn."""
    now = begin
    while now < begin + seconds:
        due = helpers.next_deadline(at(now))
        now = begin + seconds if due is None else min(begin + seconds, max(now, due) + 0.001)
        helpers.gather(News(), at(now))
    return now


def test_the_time_of_a_job_that_nobody_waits_for_begins_when_its_helper_is_there(
    helpers: Helpers,
):
    jobs = [
        helpers.submit(FindUsers((str(uid),)), at(0), waited=False)
        for uid in range(HELPERS_OF_A_KIND_MAX + 1)
    ]
    now = look(helpers, 0, 10 * JOB_UNWAITED_SECONDS_MAX)
    assert not any(job.done for job in jobs)  # no fork yet: which is for others to judge
    names = [f"helper-{number + 1}" for number in range(HELPERS_OF_A_KIND_MAX)]
    helpers.gather(News(forked=dict.fromkeys(names, 1)), at(now))
    now = look(helpers, now, JOB_UNWAITED_SECONDS_MAX - 1)
    assert not any(job.done for job in jobs)
    look(helpers, now, 3)
    assert ["did not answer" in job.why_not for job in jobs[:-1]] == [True] * len(names)
    assert "no helper was free" in jobs[-1].why_not


def test_a_helper_that_waits_for_a_processor_goes_on(helpers: Helpers, children: Children):
    children.does = Activity(7, 1.0, runnable=True)
    job, *waiting = [
        helpers.submit(FindUsers((str(uid),)), at(0), waited=False)
        for uid in range(HELPERS_OF_A_KIND_MAX + 1)
    ]
    helpers.gather(News(forked={"helper-1": 1, "helper-2": 2}), at(0))
    now = look(helpers, 0, 20 * JOB_UNWAITED_SECONDS_MAX)
    assert not any(each.done for each in (job, *waiting))
    children.answer("helper-1", UsersFound({"anna": 1}))
    helpers.gather(News(), at(now))
    assert job.answer == UsersFound({"anna": 1})
    children.does = ASLEEP  # from here on the others hang
    look(helpers, now, JOB_UNWAITED_SECONDS_MAX + 3)
    assert all("did not answer" in each.why_not for each in waiting)


def test_a_turn_is_not_wanted_again_and_again_for_a_job_that_may_be_late(helpers: Helpers):
    for uid in range(HELPERS_OF_A_KIND_MAX + 1):
        helpers.submit(FindUsers((str(uid),)), at(0), waited=False)
    late = at(2 * JOB_UNWAITED_SECONDS_MAX)
    helpers.gather(News(), late)
    due = helpers.next_deadline(late)
    assert due is None or due > late.monotonic_seconds + 0.5


def test_a_helper_that_is_kept_is_there_before_its_job_and_stays(
    helpers: Helpers, children: Children
):
    helpers.keep(FindUsers, ready=True)
    helpers.gather(News(), at(1))
    assert list(children.served) == ["helper-1"]
    helpers.gather(News(forked={"helper-1": 1}), at(1))
    assert helpers.next_deadline(at(1)) is None
    helpers.gather(News(), at(1 + 2 * IDLE_SECONDS_MAX))
    helpers.submit(FindUsers(("bert",)), at(30))
    assert children.next_request("helper-1") == FindUsers(("bert",))
    children.answer("helper-1", UsersFound({"anna": 1}))
    helpers.gather(News(), at(30))
    helpers.keep(FindUsers, ready=False)
    assert helpers.next_deadline(at(30)) == 30 + IDLE_SECONDS_MAX
    helpers.gather(News(), at(30 + IDLE_SECONDS_MAX))
    assert children.next_request("helper-1") is None


def test_a_helper_that_is_kept_and_cannot_be_forked_is_asked_for_after_a_pause(
    helpers: Helpers, children: Children
):
    helpers.keep(FindUsers, ready=True)
    helpers.gather(News(), at(1))
    helpers.gather(News(failed={"helper-1": "no memory"}), at(1.1))
    assert list(children.served) == ["helper-1"]
    assert helpers.next_deadline(at(1.1)) == 1 + KEPT_AGAIN_SECONDS
    helpers.gather(News(), at(1 + KEPT_AGAIN_SECONDS))
    assert list(children.served) == ["helper-1", "helper-2"]
