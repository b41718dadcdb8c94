"""A run of the tests fails of whatever is found, also when no test is left to be blamed."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT, TESTS

SOUND = "def test_a(): pass"
#: Alive as long as its module: found when Python ends.
LEAK_IN_A_MODULE = """
import socket
KEPT = []
def test_module(): KEPT.append(socket.socket(socket.AF_UNIX))
"""
#: Found when the session is cleaned up: a circle that nothing looks at before, and a thread; and
#: a warning that a test lets pass.
FOUND_LATE = (
    LEAK_IN_A_MODULE
    + """
import gc, threading, warnings

class Ring: pass

def test_circle():
    gc.disable()
    ring = Ring()
    ring.itself, ring.socket = ring, socket.socket()

def test_thread():
    main = threading.main_thread()

    def late():
        main.join()
        raise ValueError("late")

    threading.Thread(target=late).start()

def test_warning():
    warnings.simplefilter("default")
    warnings.warn("soft")
"""
)
PYTEST = (sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "no:cacheprovider")
LEAK = r"Exception ignored in: <socket\.socket .*family={}.*unclosed"
CRASH = """
import atexit, os, signal
def test_a(): atexit.register(os.kill, os.getpid(), signal.SIGKILL)
"""
ENDS_EARLY = """
import os, pytest
@pytest.fixture(scope="session", autouse=True)
def over():
    yield
    os._exit(0)
def test_a(): pass
"""
XPASS = """
import pytest
@pytest.mark.xfail(reason="once")
def test_a(): pass
"""


def run(directory: Path, body: str, *options: str) -> tuple[int, str]:
    """The exit code and the words of a run of a file of tests under this suite's own rules."""
    shutil.copy(TESTS / "conftest.py", directory)
    (directory / "test_it.py").write_text(body)
    environment = {key: text for key, text in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [*PYTEST, "--rootdir", directory, *options, directory / "test_it.py"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def complaints(output: str) -> str:
    return "\n".join(line for line in output.splitlines() if line.startswith("FAILED the run: "))


ALONE, BESIDE = (), ("-n", "1")


@pytest.mark.parametrize("options", [ALONE, BESIDE], ids=["alone", "xdist"])
def test_a_sound_run_passes(tmp_path: Path, options: tuple[str, ...]):
    code, output = run(tmp_path, SOUND, *options)
    assert (code, complaints(output)) == (0, ""), output


def test_what_is_found_at_the_end_of_a_worker_of_xdist_fails_the_run(tmp_path: Path):
    code, output = run(tmp_path, FOUND_LATE, *BESIDE)
    assert code == 1, output
    at_end = "at the end of xdist worker gw0: "
    for what in (
        at_end + LEAK.format(int(socket.AF_INET)),
        at_end + LEAK.format(int(socket.AF_UNIX)),
        at_end + "Exception in thread .*late",
        "a warning that is no error, in test_it.py::test_warning: soft",
    ):
        assert len(re.findall(what, complaints(output))) == 1, output
    assert "4 passed" in output


def test_a_leak_found_when_python_ends_fails_a_run_without_xdist(tmp_path: Path):
    code, output = run(tmp_path, LEAK_IN_A_MODULE)
    assert code == 1, output
    assert re.search("at its end: " + LEAK.format(int(socket.AF_UNIX)), complaints(output))


@pytest.mark.parametrize(
    ("body", "how"), [(CRASH, "left with -9"), (ENDS_EARLY, "ended too early")]
)
def test_a_worker_of_xdist_that_dies_after_its_tests_fails_the_run(
    tmp_path: Path, body: str, how: str
):
    code, output = run(tmp_path, body, *BESIDE)
    assert code == 1, output
    assert f"xdist worker gw0 {how}" in complaints(output)


def test_a_test_that_is_expected_to_fail_and_passes_fails_the_run(tmp_path: Path):
    assert run(tmp_path, XPASS)[0] == 1


@pytest.mark.parametrize("plugin", ["warnings", "unraisableexception"])
def test_no_run_does_without_what_finds_leaks(tmp_path: Path, plugin: str):
    code, output = run(tmp_path, SOUND, "-p", f"no:{plugin}")
    assert (code, f"leave out -p no:{plugin}" in output) == (4, True), output
