"""Recovery is proved: processes are killed at every durable step of a run, the daemon is
started again, and the scripts' own records say what happened (SPEC S1, S2, S17).

A script appends `begin` and `end` to its journal and holds a lock for its whole life; one
that does not get the lock, because another run of its action lives, appends `double`.
"""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from geosched.ipc.failpoints import Step
from support.daemon import Daemon, daemon_installation, entry, lives, processes_marked
from support.halting import go_on, halted, kill_child, start_halting
from support.processes import is_idle
from support.wait import wait_for

LONG = 3600
#: What scripts do, by their type.
WORK = {
    "default": "sleep 0.2 9>&-",
    "long": "sleep 600 9>&- & wait $!",
    "deaf": "trap '' TERM; sleep 600 9>&- & wait $!",
    # Of these, the first attempt ends only by being ended.
    "once": '[ "$GEOSCHED_ATTEMPT" -gt 1 ] || { sleep 600 9>&- & wait $!; }',
    "nameless": '[ "$GEOSCHED_ATTEMPT" -gt 1 ] || exec env -i sleep 600',
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
            Step.HEAR_ENDED,
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
    worker_goes_on: bool = False  # once its supervisor is dead; else it stays as it is

    @property
    def step(self) -> Step:
        return Step(self.point.split("-", 1)[1])

    @property
    def id(self) -> str:
        end = "-and-its-worker-goes-on" if self.worker_goes_on else ""
        return f"{self.point}-kills-{self.victim}{end}"


def cases() -> Iterator[Case]:
    for point in POINTS:
        step = Step(point.split("-", 1)[1])
        yield Case(point, "supervisor")
        if step in WORKER_STEPS:
            yield Case(point, "supervisor", worker_goes_on=True)
            yield Case(point, "worker")
            yield Case(point, "both")


START = [case for case in cases() if case.step is Step.COMMIT_RECOVERED]
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
    if case.worker_goes_on:
        go_on(here)
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
    begun = [run_id for _, _, run_id, _ in daemon.notes("begin")]
    assert len(begun) in begins, daemon.notes()
    for run_id in begun:
        assert not processes_marked(f"GEOSCHED_RUN_ID={run_id}\0")
    for kept in ("results", "runs"):
        wait_for(lambda at=kept: not list((daemon.root / "run" / at).iterdir()), what=kept)
    check_reports(daemon, begun)


def check_reports(daemon: Daemon, begun: list[str]) -> None:
    """Each change of status at least once, in order: a repetition has the key of the first."""
    final = daemon.action("a")["executionStatus"]
    wait_for(lambda: [r["executionStatus"] for r in daemon.reports()][-1:] == [final])
    reports = {report["key"]: report for report in daemon.reports()}
    assert list(reports) == sorted(reports, key=lambda key: int(key.rpartition("-")[2]))
    *starts, last = reports.values()
    assert {report["executionStatus"] for report in starts} == {"STARTED"}
    assert last["executionStatus"] == final
    assert set(begun) <= {report["runId"] for report in starts}


def begun_before(case: Case) -> set[int]:
    """How often the script may have begun until those who ran it died, with no end kept."""
    if case.point == f"before-{Step.KEEP_RESULT}":
        return {1}
    # A worker halts, but another is ready; a message may be on its way, a script just begun.
    either = case.step is Step.SEND_READY
    either |= case.point in (f"after-{Step.SEND_RUN}", f"after-{Step.START_SCRIPT}")
    # It had seen a supervisor that lived.
    either |= case.worker_goes_on and case.point == f"before-{Step.START_SCRIPT}"
    return {0, 1} if either else {0}


def expected(case: Case) -> tuple[tuple[str, str], set[int]]:
    """Status and reason of a script that exits 0 after a moment, and how often it begins."""
    completed = ("FINISHED", "completed")
    kept_alone = case.worker_goes_on and case.point == f"before-{Step.KEEP_RESULT}"
    if case.point in RESULT_KEPT or kept_alone:
        return completed, {1}  # S2: its run ended of itself, and the kept result says so
    if case.victim != "worker":
        # S2: NULL, and so it starts again, as nobody lives who could tell of an end.
        return completed, {before + 1 for before in begun_before(case)}
    if case.step is Step.SEND_READY:
        return completed, {1}  # it had no run yet: another worker takes it
    return ("FAILED", "worker-lost"), begun_before(case)  # S12


def test_every_point_is_a_case():
    assert {case.point for case in (*LIFE, *STOPS, *START)} == set(POINTS)


@pytest.mark.parametrize("case", LIFE, ids=lambda case: case.id)
def test_a_run_that_ends_of_itself_is_settled_once_whoever_dies(daemon: Daemon, case: Case):
    daemon.send([entry("a", -1, LONG)])
    kill(daemon, case, halted(daemon, start_halting(daemon, case.point)))
    status, begins = expected(case)
    assert final_status(daemon) == status
    check_evidence(daemon, begins)


@pytest.mark.parametrize(("case", "why"), STOPS_WHY, ids=lambda value: getattr(value, "id", value))
def test_a_stop_that_is_decided_is_carried_out_whoever_dies(daemon: Daemon, case: Case, why: str):
    # A deaf script makes a round of SIGKILL needed; only then is that step reached.
    kind = "deaf" if case.step is Step.KILL_TREE else "long"
    undecided = case.point == f"before-{Step.COMMIT_STOP}"
    daemon.send([entry("a", -1, LONG, type=kind)])
    mark = start_halting(daemon, case.point)
    wait_for(lambda: daemon.notes("begin"), seconds=20, what=f"a run: {daemon.log_text()}")
    if why == "window-over":  # a supervisor that dies before it decides has the new end on disk
        daemon.send([entry("a", -1, 3.0 if undecided else 0.3, type=kind)])
    if why == "withdrawn":
        daemon.send([])
    if why == "operator":
        daemon.ctl("--timeout", "0.5", "stop", "a")
    kill(daemon, case, halted(daemon, mark))
    if undecided and why == "operator":
        # The wish died with the supervisor, and whoever had it was told so.
        daemon.wait_phase("a", "running")
        assert daemon.ctl("stop", "a").returncode == 0
    assert final_status(daemon) == (
        INTERRUPTED if undecided and why == "window-over" else OUTCOME[why]
    )
    check_evidence(daemon, {1, 2} if undecided else {1})


def leave_ended(daemon: Daemon) -> None:
    daemon.send([entry("a", -1, LONG)])
    halted(daemon, start_halting(daemon, f"after-{Step.KEEP_RESULT}"))


def leave_alive(daemon: Daemon) -> None:
    daemon.send([entry("a", -1, LONG, type="once")])
    daemon.start()
    wait_for(lambda: daemon.notes("begin"), seconds=20)


def leave_withdrawn(daemon: Daemon) -> None:
    daemon.send([entry("a", -1, LONG, type="long")])
    mark = start_halting(daemon, f"after-{Step.COMMIT_STOP}")
    wait_for(lambda: daemon.notes("begin"), seconds=20)
    daemon.send([])
    halted(daemon, mark)


@pytest.mark.parametrize("case", START, ids=lambda case: case.id)
@pytest.mark.parametrize(
    ("leave", "status", "begins"),
    [
        (leave_ended, ("FINISHED", "completed"), {1}),
        (leave_alive, ("FINISHED", "completed"), {2}),
        (leave_withdrawn, ("WONT_FINISH", "withdrawn"), {1}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_recovery_that_is_cut_short_is_done_again(
    daemon: Daemon,
    case: Case,
    leave: Callable[[Daemon], None],
    status: tuple[str, str],
    begins: set[int],
):
    leave(daemon)
    daemon.kill()
    kill(daemon, case, halted(daemon, start_halting(daemon, case.point)))
    assert final_status(daemon) == status
    check_evidence(daemon, begins)


def test_what_the_next_start_killed_did_not_end_of_itself(daemon: Daemon):
    """A worker stopped when its supervisor died goes on to find that its script, which no
    mark tells any more, was killed: by the sweep, so that settles nothing (S16)."""
    daemon.send([entry("a", -1, LONG, type="nameless")])
    daemon.start()
    run = daemon.wait_phase("a", "running")["run"]
    wait_for(lambda: b"sleep" in Path(f"/proc/{run['scriptPid']}/cmdline").read_bytes())
    os.kill(run["workerPid"], signal.SIGSTOP)
    daemon.kill()
    daemon.start(wait=False)
    wait_for(lambda: not lives(run["scriptPid"]), seconds=20)
    go_on(run["workerPid"])
    assert final_status(daemon) == ("FINISHED", "completed")
    check_evidence(daemon, {2})


def test_a_worker_that_dies_right_after_its_last_word_leaves_no_lock(daemon: Daemon):
    """The supervisor, stopped meanwhile, hears the word and of the death in one turn."""
    daemon.send([entry("a", -1, LONG)])
    worker = halted(daemon, start_halting(daemon, f"before-{Step.SEND_ENDED}"))
    assert daemon.process is not None
    os.kill(daemon.process.pid, signal.SIGSTOP)
    go_on(worker)
    wait_for(lambda: is_idle(worker), what="a worker that waits for an answer")
    kill_child(worker)
    go_on(daemon.process.pid)
    assert final_status(daemon) == ("FINISHED", "completed")
    check_evidence(daemon, {1})
