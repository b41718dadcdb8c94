"""Recovery is proved: processes are killed at every durable step of a run, the daemon is
started again, and the scripts' own records say what happened (SPEC S1, S2, S17).

A script appends `begin` and `end` to its journal and holds a lock for its whole life; one
that does not get the lock, because another run of its action lives, appends `double`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from geosched.ipc.crashpoints import Step
from support.daemon import Daemon, daemon_installation, entry, processes_marked
from support.halting import halted, kill_child, start_halting
from support.wait import wait_for

LONG = 3600
#: What scripts do, by their type.
WORK = {
    "default": "sleep 0.2 9>&-",
    "long": "sleep 600 9>&- & wait $!",
    "deaf": "trap '' TERM; sleep 600 9>&- & wait $!",
}

#: Whose step it is; all others are the supervisor's.
WORKER_STEPS = frozenset(
    {
        Step.SEND_READY,
        Step.LOCK_RUN,
        Step.START_SCRIPT,
        Step.KEEP_RESULT,
        Step.SEND_ENDED,
        Step.FORGET_RESULT,
        Step.UNLOCK_RUN,
        Step.SIGNAL_TREE,
        Step.KILL_TREE,
    }
)
STOP_STEPS = (Step.COMMIT_STOP, Step.SEND_STOP, Step.SIGNAL_TREE, Step.KILL_TREE)
#: From here on the script's end is on disk: it counts, whoever dies.
RESULT_KEPT = (
    f"after-{Step.KEEP_RESULT}",
    *(
        f"{when}-{step}"
        for step in (
            Step.SEND_ENDED,
            Step.COMMIT_ENDED,
            Step.SEND_ACK,
            Step.FORGET_RESULT,
            Step.UNLOCK_RUN,
        )
        for when in ("before", "after")
    ),
)
POINTS = [f"{when}-{step}" for step in Step for when in ("before", "after")]


@dataclass(frozen=True)
class Case:
    """Who is killed when `point` is reached: the process that halts there is `here`."""

    point: str
    victim: str  # "supervisor", "worker", "both"

    @property
    def step(self) -> Step:
        return Step(self.point.split("-", 1)[1])

    @property
    def id(self) -> str:
        return f"{self.point}-kills-{self.victim}"


def cases() -> Iterator[Case]:
    for point in POINTS:
        step = Step(point.split("-", 1)[1])
        victims = ("supervisor", "worker", "both") if step in WORKER_STEPS else ("supervisor",)
        yield from (Case(point, victim) for victim in victims)


LIFE = [case for case in cases() if case.step not in (*STOP_STEPS, Step.COMMIT_RECOVERED)]
STOPS = [case for case in cases() if case.step in STOP_STEPS]
#: What becomes of an action that is stopped for a reason (S13a) ...
OUTCOME = {
    "withdrawn": ("WONT_FINISH", "withdrawn"),
    "window-over": ("FINISHED", "window-over"),
    "operator": ("WONT_FINISH", "operator"),
}
#: ... and of one whose window ended before that was decided, with the daemon away (S2).
INTERRUPTED = ("WONT_FINISH", "interrupted")
#: The supervisor's steps for every reason, the worker's, which knows of none, in turn.
STOPS_WHY = [
    (case, why)
    for number, case in enumerate(STOPS)
    for turn, why in enumerate(OUTCOME)
    if case.step not in WORKER_STEPS or number % len(OUTCOME) == turn
]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        installed.configure(
            scripts={
                kind: {
                    "command": [installed.script(kind, _held(installed, work))],
                    "stop_grace": "300ms",
                }
                for kind, work in WORK.items()
            }
        )
        yield installed


def _held(daemon: Daemon, work: str) -> str:
    """`work` inherits no lock: only the script's own life counts."""
    return (
        f'exec 9>"{daemon.root}/alive-$GEOSCHED_ACTION_ID"\n'
        f"flock -n 9 || note double\nnote begin\n{work}\nnote end"
    )


def kill(daemon: Daemon, case: Case, here: int) -> None:
    """The victims, the supervisor first: it would see the other go. Then start another."""
    if case.victim != "worker":
        daemon.kill()
    if case.victim != "supervisor":
        kill_child(here)
    if case.victim != "worker":
        daemon.start()


def final_status(daemon: Daemon) -> tuple[str, str]:
    over = daemon.wait_phase("a", "done", seconds=25)
    return over["executionStatus"], over["reason"]


def check_evidence(daemon: Daemon, begins: set[int]) -> None:
    """Whatever the case, this holds once the action is over."""
    assert not daemon.notes("double")
    assert len(daemon.notes("begin")) in begins, daemon.notes()
    for _, _, run_id, _ in daemon.notes("begin"):
        assert not processes_marked(f"GEOSCHED_RUN_ID={run_id}\0")
    for kept in ("results", "runs"):
        wait_for(lambda at=kept: not list((daemon.root / "run" / at).iterdir()), what=kept)
    final = daemon.action("a")["executionStatus"]
    wait_for(lambda: [r["executionStatus"] for r in daemon.reports()][-1:] == [final])
    keys = [report["key"] for report in daemon.reports()]
    assert keys == sorted(keys, key=lambda key: int(key.rpartition("-")[2]))


def test_every_point_is_a_case():
    assert {case.point for case in cases()} == set(POINTS)


@pytest.mark.parametrize("case", LIFE, ids=lambda case: case.id)
def test_a_run_that_ends_of_itself_is_settled_once_whoever_dies(daemon: Daemon, case: Case):
    daemon.send([entry("a", -1, LONG)])
    kill(daemon, case, halted(daemon, start_halting(daemon, case.point)))
    status = final_status(daemon)
    if case.point in RESULT_KEPT:
        assert status == ("FINISHED", "completed")
        check_evidence(daemon, {1})
    elif case.victim == "worker" and case.step is not Step.SEND_READY:
        assert status == ("FAILED", "worker-lost")
        check_evidence(daemon, {0, 1})
    else:
        # Nobody who could tell of its end lives, if it came to a beginning: it runs again.
        assert status == ("FINISHED", "completed")
        check_evidence(daemon, {1, 2})


@pytest.mark.parametrize(("case", "why"), STOPS_WHY, ids=lambda value: getattr(value, "id", value))
def test_a_stop_that_is_decided_is_carried_out_whoever_dies(daemon: Daemon, case: Case, why: str):
    # A deaf script makes a round of SIGKILL needed; only then is that step reached.
    kind = "deaf" if case.step is Step.KILL_TREE else "long"
    daemon.send([entry("a", -1, 3.0 if why == "window-over" else LONG, type=kind)])
    mark = start_halting(daemon, case.point)
    wait_for(lambda: daemon.notes("begin"), seconds=20, what=f"a run: {daemon.log_text()}")
    if why == "withdrawn":
        daemon.send([])
    if why == "operator":
        daemon.ctl("--timeout", "0.5", "stop", "a")
    kill(daemon, case, halted(daemon, mark))
    undecided = case.point == f"before-{Step.COMMIT_STOP}"
    if undecided and why == "operator":
        # The wish died with the supervisor, and whoever had it was told so.
        daemon.wait_phase("a", "running")
        assert daemon.ctl("stop", "a").returncode == 0
    assert final_status(daemon) == (
        INTERRUPTED if undecided and why == "window-over" else OUTCOME[why]
    )
    check_evidence(daemon, {1, 2} if undecided else {1})


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_recovery_that_is_cut_short_is_done_again(daemon: Daemon, when: str):
    daemon.send([entry("a", -1, LONG)])
    halted(daemon, start_halting(daemon, f"after-{Step.KEEP_RESULT}"))
    daemon.kill()
    halted(daemon, start_halting(daemon, f"{when}-{Step.COMMIT_RECOVERED}"))
    daemon.kill()
    daemon.start()
    assert final_status(daemon) == ("FINISHED", "completed")
    check_evidence(daemon, {1})
