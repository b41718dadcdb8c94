"""The tests are laid out so that a reader finds them, and reads one subject at a time."""

import tomllib

from support.paths import ROOT, TESTS

LINES_MAX = 500
#: What others wrote, and is installed below the tests for them.
INSTALLED = {".venv", "node_modules"}


def test_no_file_is_longer_than_one_subject_takes() -> None:
    ours = (path for path in TESTS.rglob("*.py") if INSTALLED.isdisjoint(path.parts))
    lines = {str(path.relative_to(TESTS)): path.read_text().count("\n") for path in ours}
    assert {name: count for name, count in lines.items() if count > LINES_MAX} == {}


def test_every_file_of_tests_lies_where_the_suite_looks() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
    looked_at = [ROOT / place for place in settings["ini_options"]["testpaths"]]
    looked_at.append(TESTS / "packages")  # `make test-packages`: they build trees, as root
    there = (path for path in TESTS.rglob("test_*.py") if INSTALLED.isdisjoint(path.parts))
    missed = [path for path in there if not any(path.is_relative_to(each) for each in looked_at)]
    assert missed == []
