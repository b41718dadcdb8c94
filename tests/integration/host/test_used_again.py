"""Sessions of other people whose leader had the pid of a script, and has ended as that has."""

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from geosched.workers.host import procfs
from geosched.workers.host.marks import MarkReader
from geosched.workers.host.process_tree import ProcessLook, RunTree, end_trees
from support.second_user import SECOND_USER, command_as, needs_two_users
from support.wait import wait_for

MARK = f"test-used-again-{os.getpid()}"
#: A start that the leader did not have: its pid was the script's, and then was the leader's.
ANOTHER_START = 1
NO_ROUNDS = 5


class Session(NamedTuple):
    """One whose leader is gone, as of a service that went into the background."""

    leader: int
    member: int


def left_by(user: int) -> Session:
    starts = "sleep 600 >/dev/null & echo $!"
    leader = command_as(user, "/bin/sh", "-c", starts, env={}, stdout=subprocess.PIPE)
    with leader:
        assert leader.stdout is not None
        member = int(leader.stdout.readline())
    assert procfs.stat(leader.pid) is None
    found = procfs.stat(member)
    assert found is not None
    assert found.session == leader.pid
    return Session(leader.pid, member)


@pytest.fixture
def theirs() -> Iterator[Session]:
    made = left_by(SECOND_USER)
    yield made
    os.kill(made.member, signal.SIGKILL)


def tree_of(session: Session) -> RunTree:
    return RunTree(MARK, "r", session.leader, script_ticks=ANOTHER_START)


@needs_two_users
def test_a_session_without_its_leader_is_no_run_of_long_ago(theirs: Session) -> None:
    tree = tree_of(theirs)
    assert tree.members() == {}
    assert RunTree(MARK, "r", theirs.leader).members() == {}
    for _ in range(NO_ROUNDS):
        assert end_trees([tree]) == (["r"], {})
    found = procfs.stat(theirs.member)
    assert found is not None
    assert not found.ended


@needs_two_users
@pytest.mark.parametrize("how", ["just lost", "of its user", "with a witness"])
def test_a_session_that_is_known_to_be_the_runs_is(theirs: Session, how: str) -> None:
    """Just after its worker was lost, or while something lives that was seen in it then."""
    known = procfs.stat(theirs.member)
    assert known is not None
    trees = {
        "just lost": RunTree(MARK, "r", theirs.leader, just_lost=True),
        "of its user": RunTree(MARK, "r", theirs.leader, users=frozenset((SECOND_USER,))),
        "with a witness": RunTree(
            MARK, "r", theirs.leader, witness=(theirs.member, known.start_ticks)
        ),
    }
    assert trees[how].members().keys() == {theirs.member}
    another = RunTree(MARK, "r", theirs.leader, witness=(theirs.member, known.start_ticks - 1))
    assert another.members() == {}


@needs_two_users
def test_a_round_names_a_witness_by_which_the_next_knows_the_session(
    theirs: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that could not be ended: it waits for a disk, perhaps."""
    signals = "geosched.workers.host.process_tree.signal_process"
    with monkeypatch.context() as patch:
        patch.setattr(signals, lambda *_: None)
        first = end_trees([RunTree(MARK, "r", theirs.leader, just_lost=True)])
        assert first.gone == []
        second = end_trees([RunTree(MARK, "r", theirs.leader, witness=first.witnesses["r"])])
        assert second == first
    tree = RunTree(MARK, "r", theirs.leader, witness=second.witnesses["r"])
    wait_for(lambda: end_trees([tree]) == (["r"], {}))


def test_a_session_of_our_own_user_is_ended_however_late() -> None:
    """An orphan of a run of the daemon's user, that threw its marks away."""
    ours = left_by(os.getuid())
    wait_for(lambda: end_trees([tree_of(ours)]).gone == ["r"])
    wait_for(lambda: procfs.stat(ours.member) is None or procfs.stat(ours.member).ended)


@needs_two_users
def test_users_are_told_of_those_alone_that_a_look_asked_for(theirs: Session) -> None:
    with MarkReader((MARK,)) as reader:
        look = ProcessLook.take(reader)
    assert look.of((theirs.member, os.getpid()), (SECOND_USER, os.getuid())) == {os.getpid()}
