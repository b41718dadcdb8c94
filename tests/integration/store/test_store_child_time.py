"""The time of a process that works on a store: one that hangs is killed, one that is slow not."""

from pathlib import Path

import pytest
from geosched.supervisor.store.errors import StoreError
from geosched.supervisor.store.tools.child_process import ChildProcess, examination

HANGS_SECONDS = 0.5


def running(python: str) -> ChildProcess:
    return ChildProcess("-n", "1", "-r", "1", f"import time; {python}", tool="timeit")


def test_a_child_that_does_nothing_is_killed():
    child = running("time.sleep(60)")
    child.wait(HANGS_SECONDS)
    assert child.answer().died_of == "SIGKILL"


def test_a_child_that_uses_up_its_processor_time_is_killed():
    child = running("\nwhile True: pass")
    child.wait(HANGS_SECONDS)
    assert child.answer().died_of == "SIGKILL"


def test_a_child_that_gets_on_has_as_long_as_it_takes_and_that_is_told():
    """Each piece of a disk that is slow is a pause."""
    told = []
    child = running("[time.sleep(0.05) for _ in range(60)]")
    child.wait(HANGS_SECONDS, lambda: told.append(True))
    answer = child.answer()
    assert (answer.code, answer.died_of) == (0, "")
    assert len(told) >= 3


def test_a_child_that_a_signal_without_a_name_has_killed_is_told():
    child = running("import os; os.kill(os.getpid(), 40)")
    child.wait(60.0)
    assert child.answer().died_of == "SIG40"


@pytest.mark.parametrize("said", ["", "[]", "{", "[" * 5000])
def test_a_child_that_says_something_else_is_an_error_of_the_store(tmp_path: Path, said: str):
    child = ChildProcess(
        "-n", "1", "-r", "1", f"import sys; print({said!r}, end='')", tool="timeit"
    )
    with pytest.raises(StoreError, match="cannot examine"):
        examination(child, tmp_path)
