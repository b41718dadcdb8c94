"""The order of a run's durable steps is modelled in Promela and searched through by spin;
and the model, the failpoints and the source name the same steps (fact T6)."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from geosched.ipc.failpoints import Step
from support.paths import ROOT

MODEL = Path(__file__).with_name("run.pml")
SEARCH_DEPTH = 400_000
#: Each process of the model, and where its steps are in the source.
SIDES = {"Worker": "workers", "Supervisor": "supervisor"}

DOUBLE_RUN = r"alive\[0\]"
SETTLED_ALIVE = r"alive\[open_run\]"
LOST_RESULT = r"ended_and_kept\[earlier\]"
LOST_REPORT = r"reports>=1"
NOT_READY = r"ready\[number\]"

#: What the verifier is compiled to look for, and the option of its that goes with it.
ASSERTIONS = ("-DSAFETY", "-E")
CYCLES = ("-DNP", "-l")


def search(directory: Path, *definitions: str, sought: tuple[str, str] = ASSERTIONS) -> str:
    """What spin's verifier says of the model; skipped where it is not there."""
    for tool in ("spin", "gcc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install {tool}")
    # -O1: most searches are over sooner than -O2 would have been compiled.
    compiler = ["gcc", "-O1", "-w", sought[0], "-DMEMLIM=2048", "-o", "pan", "pan.c"]
    for command in (["spin", *definitions, "-a", MODEL], compiler):
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    verifier = [directory / "pan", sought[1], f"-m{SEARCH_DEPTH}"]
    found = subprocess.run(
        verifier, cwd=directory, capture_output=True, text=True, timeout=50, check=True
    ).stdout
    assert "max search depth too small" not in found
    return found


def test_no_death_doubles_a_run_loses_a_result_or_leaves_one_unsettled(tmp_path: Path):
    found = search(tmp_path)
    assert "errors: 0" in found, found
    # A search that ended early has shown nothing.
    states = re.search(r"(\d+) states, stored", found)
    assert states is not None
    assert int(states[1]) > 1_000_000


def test_nothing_goes_on_for_ever_so_that_every_run_comes_to_be_judged(tmp_path: Path):
    """No step is marked as progress: any cycle at all would be an error."""
    found = search(tmp_path, "-DDEATHS=1", sought=CYCLES)
    assert "non-progress cycles" in found
    assert "errors: 0" in found, found


def test_run_locks_are_enough_where_no_worker_can_say_who_it_is(tmp_path: Path):
    """On a full disk an empty lock file can be made where an identity cannot be written."""
    found = search(tmp_path, "-DDEATHS=1", "-DSWEEP_BY_LOCKS")
    assert "errors: 0" in found, found


@pytest.mark.parametrize(
    ("wrong", "broken"),
    [
        (["WRONG_SPAWN_THEN_COMMIT"], LOST_RESULT),
        (["WRONG_SPAWN_THEN_COMMIT", "WRONG_NO_SWEEP", "RESULTS_MAY_BE_LOST"], SETTLED_ALIVE),
        (["WRONG_RERUN_UNFINISHED", "WRONG_NO_SWEEP", "RESULTS_MAY_BE_LOST"], DOUBLE_RUN),
        (["WRONG_SEEN_ONCE_STARTED"], LOST_RESULT),
        (["WRONG_SEEN_ONCE_STARTED", "RESULTS_MAY_BE_LOST"], SETTLED_ALIVE),
        (["SWEEP_BY_LOCKS", "WRONG_NO_LIFELINE"], SETTLED_ALIVE),
        (["SWEEP_BY_LOCKS", "WRONG_LOCK_AFTER_START"], LOST_RESULT),
        (["WRONG_SWEEP_DOES_NOT_WAIT"], LOST_RESULT),
        (["WRONG_SWEEP_DOES_NOT_WAIT", "RESULTS_MAY_BE_LOST"], SETTLED_ALIVE),
        (["WRONG_TOLD_BEFORE_KEPT"], LOST_RESULT),
        (["WRONG_ACK_BEFORE_COMMIT"], LOST_RESULT),
        (["WRONG_ACK_WHEN_HEARD"], LOST_RESULT),
        (["WRONG_SETTLED_BEFORE_GONE"], SETTLED_ALIVE),
        (["WRONG_REPORT_APART"], LOST_REPORT),
        (["WRONG_COMMIT_BEFORE_READY"], NOT_READY),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_each_wrong_order_is_found(tmp_path: Path, wrong: list[str], broken: str):
    found = search(tmp_path, *(f"-D{name}" for name in wrong))
    assert re.search(rf"assertion violated.*{broken}", found), found


def steps_of_model() -> dict[str, list[str]]:
    """The steps of each process in the order in which they are written, without variants."""
    text = re.sub(r"#ifdef WRONG.*?(#else(.*?))?#endif", r"\2", MODEL.read_text(), flags=re.DOTALL)
    found: dict[str, list[str]] = {}
    for name, body in re.findall(r"^proctype (\w+)\(.*?\{(.*?)^\}", text, re.DOTALL | re.MULTILINE):
        found[name] = list(dict.fromkeys(re.findall(r"STEP\((\w+),", body)))
    return found


def steps_of_source(folder: str) -> set[str]:
    """Every step that is taken below a folder: `step(Step.X)` or a step that is handed on."""
    return {
        node.attr
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "Step"
    }


def test_the_model_takes_every_step_and_no_other():
    modelled = {step for steps in steps_of_model().values() for step in steps}
    assert modelled == {step.value.replace("-", "_") for step in Step}


@pytest.mark.parametrize(("process", "folder"), SIDES.items())
def test_each_step_is_taken_on_the_side_that_the_model_says(process: str, folder: str):
    assert {step.upper() for step in steps_of_model()[process]} == steps_of_source(folder)


@pytest.mark.parametrize("process", SIDES)
def test_a_process_of_the_model_takes_its_steps_in_the_declared_order(process: str):
    declared = [step.value.replace("-", "_") for step in Step]
    # A stop may come at any time, and a start comes first: each is declared on its own.
    apart = {"signal_tree", "kill_tree", "commit_stop", "send_stop", "commit_recovered"}
    life = [step for step in steps_of_model()[process] if step not in apart]
    assert life == sorted(life, key=declared.index)
