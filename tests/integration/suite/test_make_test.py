"""`make test` and what checks a clean checkout fail whenever one of their parts does."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.paths import ROOT

#: Stands for every tool; pytest is told apart by its marker. Leaves with what the test wants.
TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >> ran
case "$(basename "$0") $*" in
    *"-m not alone"*) exit $SHARED ;;
    *"-m alone"*) exit $ALONE ;;
    ruff*) exit $RUFF ;;
    mypy*) exit $MYPY ;;
esac
"""
SOUND = {"SHARED": "0", "ALONE": "0", "RUFF": "0", "MYPY": "0"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile and what checks it, over tools that only pretend."""
    for name in ("Makefile", ".ci/run"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("python", "ruff", "mypy"):
        (tools / name).write_text(TOOL)
        (tools / name).chmod(0o755)
    for name in ("pyproject.toml", "setup.cfg", "requirements/dev.txt", ".venv/.complete"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def code_of(checkout: Path, *command: str, **how: str) -> int:
    (checkout / "ran").unlink(missing_ok=True)
    environment = os.environ | SOUND | how
    return subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, timeout=30, check=False
    ).returncode


#: 5: no test was collected; 137: killed.
@pytest.mark.parametrize("code", ["1", "2", "4", "5", "137"])
@pytest.mark.parametrize("part", SOUND)
def test_make_test_fails_when_one_part_does(checkout: Path, part: str, code: str):
    assert code_of(checkout, "make", "test") == 0
    assert code_of(checkout, "make", "test", **{part: code}) != 0


def test_tests_alone_follow_whatever_became_of_the_others(checkout: Path):
    code_of(checkout, "make", "test", SHARED="1")
    assert "-m alone" in (checkout / "ran").read_text()


@pytest.mark.parametrize(
    "careless",
    [{"MAKEFLAGS": "n"}, {"MAKEFLAGS": "i"}, {"GNUMAKEFLAGS": "-t"}],
    ids=["dry run", "ignore errors", "touch"],
)
def test_no_flag_of_an_outer_make_lets_a_failure_pass(checkout: Path, careless: dict[str, str]):
    assert code_of(checkout, ".ci/run", SHARED="1", **careless) != 0
    assert "-m alone" in (checkout / "ran").read_text()


def test_nothing_in_the_environment_leaves_tests_out(checkout: Path):
    (checkout / ".venv" / "bin" / "python").write_text("#!/bin/sh\nenv > seen\n")
    code_of(checkout, ".ci/run", PYTEST_ADDOPTS="-k nothing", GEOSCHED_TEST_BIN="/elsewhere")
    seen = (checkout / "seen").read_text()
    assert "PYTEST_ADDOPTS" not in seen
    assert "GEOSCHED_" not in seen
