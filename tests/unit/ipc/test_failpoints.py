"""A process halts exactly where it was told to, once, and nowhere else."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from geosched.ipc.failpoints import VARIABLE, Step
from support.wait import wait_for

STEPS = """
from geosched.ipc.failpoints import Step, step
print("begun", flush=True)
with step(Step.COMMIT_STOP, Step.KEEP_RESULT):
    print("done", flush=True)
print("over", flush=True)
"""


def begin(point: str, mark: Path) -> subprocess.Popen[str]:
    return run(os.environ | {VARIABLE: f"{point}@{mark}"})


def run(environment: Mapping[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", STEPS]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def said_before_it_halted(point: str, mark: Path) -> list[str]:
    with begin(point, mark) as process:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert int(wait_for(mark.read_text)) == process.pid
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        return process.stdout.read().split()


def test_a_process_halts_before_a_step(tmp_path: Path):
    assert said_before_it_halted(f"before-{Step.KEEP_RESULT}", tmp_path / "m") == ["begun"]


def test_a_process_halts_after_a_step(tmp_path: Path):
    said = said_before_it_halted(f"after-{Step.KEEP_RESULT}", tmp_path / "m")
    assert said == ["begun", "done"]


def test_where_another_process_halted_already_nobody_does(tmp_path: Path):
    said_before_it_halted(f"before-{Step.KEEP_RESULT}", tmp_path / "m")
    with begin(f"before-{Step.KEEP_RESULT}", tmp_path / "m") as process:
        assert process.communicate(timeout=20)[0].split() == ["begun", "done", "over"]


def test_a_process_that_was_told_of_another_step_goes_on(tmp_path: Path):
    with begin(f"before-{Step.SEND_ACK}", tmp_path / "m") as process:
        assert process.communicate(timeout=20)[0].split() == ["begun", "done", "over"]


def test_a_process_that_was_told_nothing_goes_on():
    with run({name: value for name, value in os.environ.items() if name != VARIABLE}) as process:
        assert process.communicate(timeout=20)[0].split() == ["begun", "done", "over"]


def test_no_two_steps_have_one_name():
    assert len(Step.__members__) == len(Step)
