"""The tests are laid out so that a reader finds them, and reads one subject at a time."""

from support.paths import TESTS

LINES_MAX = 500
#: What others wrote, and is installed below the tests for them.
INSTALLED = {".venv", "node_modules"}


def test_no_file_is_longer_than_one_subject_takes() -> None:
    ours = (path for path in TESTS.rglob("*.py") if INSTALLED.isdisjoint(path.parts))
    lines = {str(path.relative_to(TESTS)): path.read_text().count("\n") for path in ours}
    assert {name: count for name, count in lines.items() if count > LINES_MAX} == {}
