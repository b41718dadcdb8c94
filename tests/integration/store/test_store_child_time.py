"""The time of a process that works on a store: one that hangs is killed, one that is slow not."""

from geosched.supervisor.store.tools.child_process import ChildProcess

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
